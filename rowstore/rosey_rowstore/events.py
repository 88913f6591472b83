"""What the service tells of itself while it works: structured events, for whoever subscribes to them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Events", "Publish"]

Publish = Callable[[str, bytes], None]
"""Sends a body to a subject that begins after `<root>.events.`; it returns at once and does not raise."""


class Events:
    """Events of a process, as JSON on `<root>.events.<plugin>.<kind>`; without a way out they go nowhere."""

    def __init__(self) -> None:
        self._publish: Publish | None = None

    def go_out_by(self, publish: Publish | None) -> None:
        """Send events by `publish` from now on."""
        self._publish = publish

    def emit(self, plugin: str, kind: str, members: Mapping[str, Any]) -> None:
        """Send an event; `time` in UTC, `plugin` and `kind` stand in it beside `members`."""
        if self._publish is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = {"time": now, "plugin": plugin, "kind": kind, **members}
        self._publish(f"{plugin}.{kind}", json.dumps(body, ensure_ascii=False).encode())
