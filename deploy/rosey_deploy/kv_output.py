"""What the `rosey-storage kv` commands print: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rosey_kvstore import Change, InvalidValue

__all__ = ["Output", "change_members", "compact", "entry_members"]

_COLOURS = {"set": "green", "delete": "red", "expire": "yellow"}


def compact(value: Any) -> str:
    """Return a value as compact JSON, or what was put in its place."""
    if isinstance(value, InvalidValue):
        return f"(no JSON) {value.data.decode('utf-8', 'backslashreplace')}"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _value_member(value: Any) -> dict[str, Any]:
    if isinstance(value, InvalidValue):
        return {"invalid": value.data.decode("utf-8", "backslashreplace"), "reason": value.reason}
    return {"value": value}


def entry_members(key: str, value: Any) -> dict[str, Any]:
    """Return what a program reads of a key and its value."""
    return {"key": key, **_value_member(value)}


def change_members(change: Change) -> dict[str, Any]:
    """Return what a program reads of a change; `value` stands where something was set."""
    members: dict[str, Any] = {
        "key": change.key,
        "operation": change.operation,
        "revision": change.revision,
        "created": change.created.isoformat(),
    }
    return members | _value_member(change.value) if change.operation == "set" else members


class Output:
    """Standard output, as a person or as a program reads it.

    Args:
        console: Where to print; whether it is a terminal decides the form.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()

    @property
    def for_people(self) -> bool:
        """Standard output is a terminal."""
        return self._console.is_terminal

    def line(self, members: Mapping[str, Any]) -> None:
        """Print one JSON object on one line, at once."""
        self._raw(json.dumps(members, ensure_ascii=False, separators=(",", ":")))

    def value(self, value: Any) -> None:
        """Print a value alone: spread over lines for people, compact for programs."""
        if self.for_people:
            self._console.print_json(json.dumps(value), ensure_ascii=False)
        else:
            self._raw(compact(value))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> None:
        """Print a table; text from the bucket is shown as it is, never as markup."""
        table = Table(header_style="bold", box=None, pad_edge=False)
        for column in columns:
            numeric = column == "Revision"
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_visible(cell), style=_COLOURS.get(cell, "")) for cell in row))
        self._console.print(table)
        # Not the table's caption, which would wrap at the width of a narrow table.
        self._console.print(Text(caption, style="dim italic"))

    def note(self, text: str) -> None:
        """Print a sentence for people; programs are spared it."""
        if self.for_people:
            self._console.print(Text(text))

    def change(self, change: Change) -> None:
        """Print one change as it comes."""
        if not self.for_people:
            self.line(change_members(change))
            return
        shown = compact(change.value) if change.operation == "set" else ""
        line = Text.assemble(
            (f"{local_time(change.created)}  ", "dim"),
            (f"{change.operation:<6}  ", _COLOURS[change.operation]),
            (f"{_visible(change.key)}  ", "bold"),
            _visible(shown),
        )
        self._console.print(line, soft_wrap=True)

    def _raw(self, text: str) -> None:
        self._console.file.write(text + "\n")
        self._console.file.flush()


def local_time(moment: dt.datetime | None) -> str:
    """Return a time as an operator's wall clock shows it, `-` for none."""
    return "-" if moment is None else moment.astimezone().isoformat(" ", "milliseconds")


def _visible(text: str) -> str:
    """Escape what would move the cursor or be invisible: a key may hold any character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
