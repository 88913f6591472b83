"""`plugins.toml` while the service runs: read again when it changes; a new plugin needs no restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import Fault

__all__ = ["LivePlugins"]

_SECONDS: Final = 0.25

_log = logging.getLogger("rosey.rowstore.service")

_Stamp = tuple[int, int, int]


class LivePlugins:
    """The plugins of a file as it is now; a file that is wrong is told in the log, and the last one counts.

    Args:
        path: The file; without one there is nothing to follow.

    Raises:
        Fault: The file is wrong at the start.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = self._look()
        self._plugins = Plugins.load(path)

    def get(self, name: str) -> Plugin | None:
        """Return a plugin of the file, or None."""
        return self._plugins.get(name)

    def limits_for(self, name: str) -> Limits:
        """Return a plugin's limits; those of `[limits]` when the file does not name it."""
        return self._plugins.limits_for(name)

    def refresh(self) -> bool:
        """Read the file again if it changed; say whether the plugins are others now."""
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return False  # a file that is missing is being replaced
        self._stamp = stamp
        try:
            found = Plugins.load(self._path)
        except Fault as fault:
            _log.error("plugins.toml is wrong, the last one counts: %s", fault.message)
            return False
        changed = found != self._plugins
        self._plugins = found
        return changed

    async def follow(self, changed: Callable[[], None]) -> None:
        """Look again and again, and call `changed` whenever the plugins are others; ends when cancelled.

        The time and size of the file are compared: notifications do not come through every mount.
        """
        while self._path is not None:
            await asyncio.sleep(_SECONDS)
            if self.refresh():
                _log.info("plugins.toml read again")
                changed()

    def _look(self) -> _Stamp | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
