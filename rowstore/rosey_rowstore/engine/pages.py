"""A page of rows: the plan that asks for it, and the reply made of it, with the cursor of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen
from msgspec import Struct

from rosey_rowstore.engine.cursors import query_digest, seal_cursor
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.rows import RowReader, encode_rows
from rosey_rowstore.engine.sharing import SharedKey
from rosey_rowstore.engine.sql import Compiled
from rosey_rowstore.engine.tables import TableFacts
from rosey_rowstore.protocol import Fault, SearchRequest, SelectRequest

__all__ = ["Finish", "Order", "Page", "page_digest", "page_finisher", "page_plan"]

_PAGE: Final = b'{"rows":%b,"next_cursor":"%b"}'
_LAST_PAGE: Final = b'{"rows":%b,"next_cursor":null}'

Order = tuple[tuple[str, bool], ...]
Finish = Callable[[Sequence[Result]], bytes]


@frozen
class Page:
    """A compiled page.

    Attributes:
        reader: Reads the columns that were asked for.
        places: Reads the columns of the order, which stand at `place_at` in a row of the database.
        place_at: Empty where no cursor can follow, because the key picks one row.
        shared: Where the key alone picks the row: how several that wait become one statement.
    """

    compiled: Compiled
    reader: RowReader
    places: RowReader
    place_at: tuple[int, ...]
    shared: SharedKey | None = None


def page_plan(facts: TableFacts, page: Page, values: Sequence[Any], finish: Finish) -> Plan:
    """Return the plan of a request for a page, from the values in the order in which the shape takes them."""
    return Plan(
        statements=(Statement(page.compiled.sql, page.compiled.bind(values)),),
        finish=finish,
        writes=False,
        atomic=False,
        tables=facts.names,
        shared=page.shared,
        cacheable=facts.table.steady,
    )


def page_digest(
    facts: TableFacts,
    request: SelectRequest | SearchRequest,
    order: Order,
    *,
    plugin: str,
    searched: tuple[str, ...] = (),
) -> Callable[[], bytes]:
    """Return what tells to which query a cursor belongs, worked out when there is one."""

    def digest() -> bytes:
        query = getattr(request, "query", None)
        return query_digest(plugin, facts.table.name, request.where, order, query, searched)

    return digest


def page_finisher(page: Page, limit: int, room: int, digest: Callable[[], bytes]) -> Finish:
    """Return what makes the reply.

    Args:
        page: The page.
        limit: Rows that the reply holds at most; the statement finds one more, where there are more.
        room: Bytes that the reply holds: a page that is larger ends earlier, with a cursor.
        digest: Tells to which query the cursor belongs; asked only when one follows.

    Raises:
        Fault: `reply_too_large`, out of what is returned, when a single row has no room.
    """

    def finish(results: Sequence[Result]) -> bytes:
        raw = results[0].rows
        more = len(raw) > limit
        shown = raw[:limit] if more else raw
        rows = page.reader.read_all(shown)
        body = encode_rows(rows)
        if not more and len(body) <= room:
            return _LAST_PAGE % body
        if more:
            cursor = _cursor(page, shown[-1], digest())
            if len(body) + len(cursor) <= room:
                return _PAGE % (body, cursor.encode())
        kept = _fitting(page, rows, shown, room)
        if kept == len(rows) and not more:
            return _LAST_PAGE % body
        return _PAGE % (encode_rows(rows[:kept]), _cursor(page, shown[kept - 1], digest()).encode())

    return finish


def _fitting(page: Page, rows: Sequence[Struct], raw: Sequence[Sequence[Any]], room: int) -> int:
    """Return how many rows the reply holds, with the cursor that follows the last of them."""
    total = 0
    for index, row in enumerate(rows):
        total += len(encode_rows(row)) + 1
        if total > room or total + len(_cursor(page, raw[index], b"")) > room:
            if index == 0:
                raise Fault(
                    "reply_too_large",
                    f"One row takes {total} bytes; a reply holds {room}.",
                    hint="Ask for fewer columns.",
                )
            return index
    return len(rows)


def _place(page: Page, row: Sequence[Any]) -> list[Any]:
    return [row[index] for index in page.place_at]


def _cursor(page: Page, row: Sequence[Any], digest: bytes) -> str:
    if not page.place_at:
        return ""
    place = page.places.read(_place(page, row))
    return seal_cursor(digest, [place[name] for name in page.places.names])
