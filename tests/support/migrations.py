"""A plugin's migrations folder, written by a test, and the application that runs it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins

on_postgres = pytest.mark.parametrize("kind", ["postgres"], indirect=True)
on_sqlite = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
# What has nothing to do with the database is asked of one: here of the quicker, in containers of theirs.
on_one = pytest.mark.parametrize(
    "kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.containers)], indirect=True
)

HEADER = """\
import sqlalchemy as sa
from alembic import op
from rosey_rowstore.migrations.columns import service_columns
"""


class Folder:
    """`plugins.toml` and the revisions of one plugin."""

    def __init__(self, root: Path, plugin: str, *, toml: str = "", limits: str = "") -> None:
        self.plugin = plugin
        self.path = root / plugin / "migrations"
        self.versions = self.path / "versions"
        self.versions.mkdir(parents=True)
        self.toml = root / "plugins.toml"
        self.toml.write_text(
            f"[plugins.{plugin}]\nrows = true\n{toml}\n[plugins.{plugin}.limits]\n{limits}\n"
        )
        self._last: str | None = None

    def write(self, revision: str, up: str, down: str = "pass", *, marks: str = "", after: Any = ...) -> Path:
        """Write a revision that follows the last one written, or `after`."""
        before = self._last if after is ... else after
        path = self.versions / f"{revision}.py"
        path.write_text(
            f'"""The revision {revision}."""\n{HEADER}\n'
            f"revision = {revision!r}\ndown_revision = {before!r}\n{marks}\n"
            f"\ndef upgrade():\n{textwrap.indent(textwrap.dedent(up).strip(), '    ')}\n"
            f"\ndef downgrade():\n{textwrap.indent(textwrap.dedent(down).strip(), '    ')}\n"
        )
        self._last = revision
        return path

    def line_of(self, revision: str, text: str) -> int:
        """Return the line on which `text` stands."""
        lines = (self.versions / f"{revision}.py").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)

    @property
    def plugins(self) -> Plugins:
        """What plugins.toml says."""
        return Plugins.load(self.toml)


class Refused(Exception):
    """An error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: str = error["code"]
        self.error = error
        self.details: dict[str, Any] = error.get("details", {})


class Answering(Protocol):
    """What takes a request's bytes: the application itself, or a service behind NATS."""

    async def handle(
        self, plugin: str, tail: str, payload: bytes, headers: Mapping[str, str] | None
    ) -> tuple[bytes, dict[str, str] | None]: ...


class Caller:
    """Calls of one plugin on an application."""

    def __init__(self, application: Answering, plugin: str) -> None:
        self.application = application
        self.plugin = plugin

    def beside(self, plugin: str) -> Caller:
        """Return calls of another plugin of the same application."""
        if isinstance(self.application, Application):
            plugins: Any = self.application._plugins.plugins
            plugins[plugin] = plugins[self.plugin]
        return Caller(self.application, plugin)

    async def events_to(self, found: list[tuple[str, dict[str, Any]]]) -> None:
        """Append the plugin's events from now on, each with its place."""
        if isinstance(self.application, Application):
            self.application.events.go_out_by(lambda place, body: found.append((place, json.loads(body))))
        else:
            await self.application.events_to(self.plugin, found)

    async def __call__(self, tail: str, *, timeout_ms: int | None = None, **body: Any) -> dict[str, Any]:
        """Return the result; `Refused` for an error reply."""
        headers = None if timeout_ms is None else {"Storage-Timeout": str(timeout_ms)}
        payload, _ = await self.application.handle(self.plugin, tail, json.dumps(body).encode(), headers)
        reply = json.loads(payload)
        if "error" in reply:
            raise Refused(reply["error"])
        result: dict[str, Any] = reply["result"]
        return result

    async def apply(self, **body: Any) -> list[str]:
        """Apply; return the revisions."""
        return [ran["revision"] for ran in (await self("migrations.apply", **body))["applied"]]

    async def rollback(self, target: str, **body: Any) -> list[str]:
        """Roll back; return the revisions."""
        reply = await self("migrations.rollback", target=target, **body)
        return [ran["revision"] for ran in reply["rolled_back"]]

    async def status(self) -> dict[str, Any]:
        """Return the status."""
        return await self("migrations.status")

    async def tables(self) -> list[str]:
        """Return the names of the tables."""
        return [table["table"] for table in (await self("tables.list"))["tables"]]

    async def columns(self, table: str) -> list[str]:
        """Return the names of a table's columns."""
        return [column["name"] for column in (await self("tables.describe", table=table))["columns"]]


Events = Callable[[int], Awaitable[list[tuple[str, dict[str, Any]]]]]


class Serve(Protocol):
    """Serves a plugin's folder, as production does if so asked; returns calls of the plugin."""

    def __call__(self, folder: Folder, *, production: bool = False) -> Awaitable[Caller]: ...
