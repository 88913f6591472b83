"""What `init`, `plan`, `apply` and `plugins` print: lines for people, one JSON object a line for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rosey_deploy.provision.actions import Standing
from rosey_deploy.provision.buckets import shown_size
from rosey_deploy.provision.parts import Change
from rosey_deploy.provision.reconcile import Failure, Outcome

__all__ = ["Screen", "shown_path"]

_SIGNS = {"make": ("+", "green"), "change": ("~", "yellow")}
_STATES = {"ready": "green", "suspended": "yellow", "not applied": "cyan", "not in plugins.toml": "red"}


def shown_path(path: Path) -> str:
    """Return a path as the user would type it."""
    try:
        return str(path.absolute().relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)


class Screen:
    """Standard output; whether it is a terminal decides the form."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def for_people(self) -> bool:
        """Standard output is a terminal."""
        return self.console.is_terminal

    def line(self, members: Mapping[str, Any]) -> None:
        """Print one JSON object on one line, at once."""
        self.console.file.write(json.dumps(members, ensure_ascii=False) + "\n")
        self.console.file.flush()

    def say(self, text: str | Text = "") -> None:
        """Print a sentence for people; programs are spared it."""
        if self.for_people:
            self.console.print(text if isinstance(text, Text) else Text(text))

    def done(self, what: str, detail: str) -> None:
        """Print a step that was taken."""
        if self.for_people:
            self.console.print(Text.assemble(("  ✓ ", "green"), f"{what:<18}", (detail, "cyan")))

    def changes(self, owner: str, changes: Sequence[Change]) -> None:
        """Print what was, or would be, made and changed of one owner."""
        if not self.for_people:
            for change in changes:
                self.line(
                    {
                        "plugin": None if owner == "rosey" else owner,
                        "part": change.part,
                        "change": change.verb,
                        "detail": change.detail,
                    }
                )
            return
        for number, change in enumerate(changes):
            sign, colour = _SIGNS[change.verb]
            name = ("(the service)" if owner == "rosey" else owner) if number == 0 else ""
            self.console.print(
                Text.assemble(
                    (f"  {name:<16}", "bold"), (f" {sign} ", colour), f"{change.part:<12} ", change.detail
                )
            )

    def outcome(self, outcome: Outcome, *, written: bool, seconds: float, plugins: int) -> None:
        """Print how a run ended."""
        for failure in outcome.failures:
            self._failure(failure)
        if not self.for_people:
            for name in outcome.leftovers:
                self.line({"plugin": name, "part": None, "change": None, "detail": "not in plugins.toml"})
            return
        for name in outcome.leftovers:
            self.console.print(
                Text.assemble(
                    (f"  {name:<16}", "bold"),
                    (" ! ", "red"),
                    "is provisioned and not in plugins.toml; it is left alone. ",
                    (f"rosey-storage plugins remove {name}", "bold"),
                )
            )
        count = len(outcome.changes)
        if not count and not outcome.failures:
            self.say(f"Everything is as declared: {_counted(plugins, 'plugin')}, {seconds:.1f} s.")
        elif written:
            told = f"{_counted(count, 'change')} made in {seconds:.1f} s."
            if outcome.failures:
                told += f" {_counted(len(outcome.failures), 'plugin')} failed; run it again then."
            self.say(told)
        else:
            self.say(f"{_counted(count, 'change')}. `rosey-storage apply` makes them.")

    def _failure(self, failure: Failure) -> None:
        error = failure.error
        self.errors.print(Text.assemble((f"{failure.owner}: {error.code}", "bold red"), f": {error.message}"))
        if error.hint:
            self.errors.print(Text(f"  Hint: {error.hint}"))

    def progress(self) -> Progress:
        """Return a bar that counts plugins; it shows on a terminal alone."""
        return Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.for_people,
        )

    def standings(self, found: Sequence[Standing]) -> None:
        """Print plugins as a table."""
        if not self.for_people:
            for item in found:
                self.line(standing_members(item))
            return
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name, right in (
            ("Plugin", False),
            ("State", False),
            ("Bucket", True),
            ("of", True),
            ("Messages", True),
            ("Rows", False),
            ("", False),
        ):
            table.add_column(name, justify="right" if right else "left")
        for item in found:
            bucket, limits = item.bucket, item.plugin.limits
            table.add_row(
                Text(item.plugin.name, style="bold"),
                Text(item.state, style=_STATES[item.state]),
                shown_size(bucket.bytes) if bucket else "-",
                shown_size(limits.bucket_size) if item.plugin.kv else "-",
                f"{bucket.messages:,}" if bucket else "-",
                "-" if item.rows is None else "yes" if not item.rows else "missing",
                "inspector" if item.plugin.inspector else "",
            )
        self.console.print(table)


def standing_members(item: Standing) -> dict[str, Any]:
    """Return what a program reads of a plugin."""
    bucket = item.bucket
    return {
        "plugin": item.plugin.name,
        "state": item.state,
        "account": item.account,
        "inspector": item.plugin.inspector,
        "bucket": None
        if bucket is None
        else {"bytes": bucket.bytes, "limit": bucket.config.get("max_bytes"), "messages": bucket.messages},
        "rows": None if item.rows is None else not item.rows,
        **({"trouble": item.trouble} if item.trouble else {}),
    }


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
