"""Requests of one shape that wait at the same time, as one statement; each gets its own rows back.

Half of what a small statement costs is the statement: to bind it, run it and take its result, on both
sides. Twenty callers that insert a row each, or ask for one by its key, wait for the same connection; one
statement with twenty values answers them for little more than the price of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rosey_rowstore.engine.codecs import Codec
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.engine.rows import RowReader, written_reply
from rosey_rowstore.engine.sql import Compiled

__all__ = ["SharedInsert", "SharedKey"]

Parameters = Sequence[Any]


class SharedInsert:
    """Single rows for the same columns of a table, as one insert of many rows.

    Args:
        one: The statement for a single row.
        many: The same for arrays of values, its rows returned in the order of the arrays.
        codec: Makes the arrays.
        reader: Reads the rows that come back; None where none do.
    """

    __slots__ = ("_array", "_columns", "_reader", "_sql")

    def __init__(self, one: Compiled, many: Compiled, codec: Codec, reader: RowReader | None) -> None:
        self._sql = many.sql
        self._columns = tuple(one.positions.index(position) for position in many.positions)
        self._array = codec.array
        self._reader = reader

    def together(self, each: Sequence[Parameters]) -> Statement:
        """Return the insert of all rows."""
        columns = list(zip(*each, strict=True))
        return Statement(self._sql, [self._array(columns[index]) for index in self._columns])

    def apart(self, each: Sequence[Parameters], result: Result) -> list[Result]:
        """Return one row to each, in the order of the requests."""
        if self._reader is None:
            return [Result((), 1)] * len(each)
        return [Result((row,), 1) for row in result.rows]

    def replies(self, result: Result) -> list[bytes] | None:
        """Return each row as the reply to its insert; that it fits was seen before it went with others."""
        if self._reader is None:
            return None
        return [written_reply(1, b"[%b]" % row) for row in self._reader.encode_each(result.rows)]


class SharedKey:
    """Rows asked for by their primary key, as one select of those in a list.

    Args:
        many: The statement for an array of keys.
        codec: Makes the array.
        place: Where the key stands in a row.
    """

    __slots__ = ("_array", "_place", "_sql")

    def __init__(self, many: Compiled, codec: Codec, place: int) -> None:
        self._sql = many.sql
        self._array = codec.array
        self._place = place

    def together(self, each: Sequence[Parameters]) -> Statement:
        """Return the select of all rows; a key that several ask for stands once."""
        return Statement(self._sql, [self._array(dict.fromkeys([key for (key,) in each]))])

    def apart(self, each: Sequence[Parameters], result: Result) -> list[Result]:
        """Return to each the row of its key, or none."""
        place = self._place
        found = {str(row[place]): Result((row,), 1) for row in result.rows}
        return [found.get(key, _NOTHING) for (key,) in each]

    def replies(self, result: Result) -> None:
        """Return None: some ask for the same row, and some for one that is not there."""
        del result


_NOTHING = Result((), 0)
