"""What a prepared statement gives, read with the same loaders each time; moments in binary.

Postgres writes a moment as text and the reply has it as text of another form. In binary neither the
server formats it nor we take it apart: psycopg makes a datetime, the reply's encoder the text. That is
half of what a page of a hundred rows costs.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import AsyncConnection, DataError, postgres, pq
from psycopg.adapt import AdaptersMap, Buffer, Loader, Transformer

__all__ = ["Prepared", "moment_text"]

_MOMENT: Final = postgres.types["timestamptz"].oid
_ALIKE: Final = frozenset(
    {_MOMENT}
    | {postgres.types[name].oid for name in ("bool", "int2", "int4", "int8", "float8", "text", "varchar")}
)
"""Types that psycopg reads to the same Python value from text and from binary (a moment apart)."""

_DAY: Final = 86_400_000_000
_DAYS_TO_2000: Final = 730_425  # from the first of March of the year 0


class Prepared:
    """A statement as the server knows it by `name`.

    Attributes:
        format: How the server is asked for the next result. The first comes as text and shows the types
            of the columns; where binary is the better form, the next come in binary.
    """

    __slots__ = ("_context", "_transformers", "format", "name")

    def __init__(self, name: bytes, context: AsyncConnection[Any]) -> None:
        self.name = name
        self.format = pq.Format.TEXT
        self._context = context
        self._transformers: dict[int, Any] = {}

    def rows(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of a result."""
        form = result.fformat(0)
        transformer: Any = self._transformers.get(form)
        if transformer is None:
            transformer = self._transformers[form] = Transformer(self._context)
            transformer.set_pgresult(result)
            types = {result.ftype(index) for index in range(result.nfields)}
            if _MOMENT in types and types <= _ALIKE:
                self.format = pq.Format.BINARY
        else:
            transformer.set_pgresult(result, set_loaders=False)
        try:
            found: list[tuple[Any, ...]] = transformer.load_rows(0, result.ntuples, tuple)
        except DataError:  # infinity, or a year that Python has not
            transformer = Transformer(_Rare(self._context))
            transformer.set_pgresult(result)
            found = transformer.load_rows(0, result.ntuples, tuple)
        return found


class _RareMoment(Loader):
    """Reads a moment as the text that Postgres would give."""

    format = pq.Format.BINARY

    def load(self, data: Buffer) -> str:
        return moment_text(int.from_bytes(data, "big", signed=True))


class _Rare:
    """A context in which moments are read as text."""

    connection = None

    def __init__(self, context: AsyncConnection[Any]) -> None:
        self.adapters = AdaptersMap(context.adapters)
        self.adapters.register_loader("timestamptz", _RareMoment)


def moment_text(microseconds: int) -> str:
    """Return a moment, in microseconds since 2000 in UTC, as Postgres writes it.

    The calendar is computed, because Python's ends with the years 1 and 9999.
    """
    if microseconds in (2**63 - 1, -(2**63)):
        return "infinity" if microseconds > 0 else "-infinity"
    days, rest = divmod(microseconds, _DAY)
    # Howard Hinnant, chrono-Compatible Low-Level Date Algorithms, civil_from_days: eras of 400 years.
    era, day = divmod(days + _DAYS_TO_2000, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += 400 * era + (month <= 2)
    seconds, fraction = divmod(rest, 1_000_000)
    digits = f".{fraction:06}".rstrip("0") if fraction else ""
    shown = year if year > 0 else 1 - year
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{digits}+00"
    return f"{shown:04}-{month:02}-{day:02} {clock}" + ("" if year > 0 else " BC")
