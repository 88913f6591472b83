"""What the `rosey-storage migrations` commands show: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from rosey_rowstore.protocol import RunningMigration, StatusReply

__all__ = ["Output"]


class Output:
    """The command's stdout."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.console = Console(highlight=False, soft_wrap=True)
        self._spinner: Status | None = None
        self._under_way = ""

    def status(self, found: StatusReply) -> None:
        """Show where the schema stands; piped, as one JSON object."""
        if not self.console.is_terminal:
            sys.stdout.write(json.dumps(attrs.asdict(found), ensure_ascii=False) + "\n")
            return
        if not (found.applied or found.pending or found.current):
            self.console.print(_no_migrations(self.plugin))
        else:
            self.console.print(_revisions(self.plugin, found))
        if found.running is not None:
            self.console.print(_running(found.running))
        for sentence in found.drift:
            self.console.print(Text("drift  ", style="bold yellow").append(sentence, style="default"))

    @contextmanager
    def run(self) -> Iterator[None]:
        """Show what runs, on a terminal, until the end; what is done stays as a line."""
        with self.console.status("waiting for the run to begin …") as spinner:
            self._spinner = spinner
            try:
                yield
            except BaseException:
                if self._under_way:
                    self.console.print(Text("✗ ", style="red").append(self._under_way, style="default"))
                raise

    async def progress(self, event: Mapping[str, Any]) -> None:
        """Show one event of a run while it happens."""
        if event["event"] not in ("start", "done"):
            return
        name = f"{event['revision']}  {event['message']}"
        if event["event"] == "start":
            self._under_way = name
            if self._spinner is not None:
                self._spinner.update(Text(f"{name} …"))
            return
        self._under_way = ""
        line = Text("✓ ", style="green").append(name, style="default")
        self.console.print(line.append(f"  {event['seconds']:.3f} s", style="dim"))

    def ended(self, verb: str, count: int, seconds: float) -> None:
        """Say what a run did in all."""
        words = f"{self.plugin}: {_revisions_word(count)} {verb} in {seconds:.2f} s"
        self.console.print(Text(words, style="bold green"))

    def nothing_to_do(self, found: StatusReply) -> None:
        """Say that everything is as it was asked for, or that there is nothing at all."""
        if found.current or found.pending:
            self.console.print(f"{self.plugin} stands at {found.current or 'base'}; nothing to do.")
        else:
            self.console.print(_no_migrations(self.plugin))

    def sql(self, verb: str, count: int, sql: str) -> None:
        """Print SQL as it is, and on a terminal what it would do."""
        if sql:
            sys.stdout.write(sql + "\n")
            sys.stdout.flush()
        if self.console.is_terminal:
            words = f"{_revisions_word(count)} would be {verb}; nothing was changed." if count else None
            self.console.print(Text(words, style="bold") if words else f"{self.plugin}: nothing to do.")

    def written(self, path: Path) -> None:
        """Say where a new revision is."""
        self.console.print(Text("wrote ", style="bold green").append(str(path), style="default"))


def _no_migrations(plugin: str) -> str:
    return f"{plugin} has no migrations; plugins.toml says where they are looked for."


def _revisions_word(count: int) -> str:
    return "1 revision" if count == 1 else f"{count} revisions"


def _revisions(plugin: str, found: StatusReply) -> Table:
    table = Table(
        title=f"{plugin} stands at {found.current or 'base'}",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name in ("Revision", "Message", "Applied (UTC)", "Seconds"):
        table.add_column(name, header_style="dim", justify="right" if name == "Seconds" else "left")
    for applied in found.applied:
        at = applied.applied_at[:19].replace("T", " ")
        table.add_row(applied.revision, Text(applied.message), at, f"{applied.seconds:.3f}")
    for pending in found.pending:
        table.add_row(pending.revision, Text(pending.message), Text("pending", style="yellow"), "")
    return table


def _running(running: RunningMigration) -> Text:
    done = sum(step.state == "done" for step in running.steps)
    now = next((step.revision for step in running.steps if step.state == "running"), None)
    at = running.started_at[:19].replace("T", " ")
    words = f"{running.direction} by {running.who} since {at} UTC, {done} of {len(running.steps)} done"
    return Text("runs   ", style="bold cyan").append(words + (f", now {now}" if now else ""), style="default")
