"""How a server treats text: whether it orders by code point, and which collation folds every letter."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from rosey_rowstore.engine.sql import PostgresText
from rosey_rowstore.protocol import Fault

__all__ = ["detect_text"]

_BY_CODE_POINT: Final = ("C", "POSIX", "C.UTF-8", "C.utf8", "C.UTF8")

# The database's own first: an index serves it. Then those that fold letter by letter as the contract
# does, and last ICU, which folds whole words (a final sigma becomes another letter).
_FOLDERS: Final = (None, "pg_c_utf8", "C.utf8", "C.UTF-8", "en_US.utf8", "en_US.UTF-8", "und-x-icu")
_SAMPLE: Final = ("\u00c4\u03a3\u0130\u0391\u03a3", "\u00e4\u03c3i\u03b1\u03c3")


async def detect_text(connection: AsyncConnection[Any]) -> PostgresText:
    """Return what the planner must say about text in this database.

    Raises:
        Fault: `unavailable` when the database is not encoded in UTF-8, or knows no letters beyond ASCII.
    """
    cursor = await connection.execute(
        "SELECT pg_encoding_to_char(encoding), datlocprovider::text, datcollate"
        " FROM pg_database WHERE datname = current_database()"
    )
    row = await cursor.fetchone()
    encoding, provider, collation = row or ("", "", "")
    if encoding != "UTF8":
        raise Fault(
            "unavailable", f"The database is encoded in {encoding}.", hint="The row service needs UTF8."
        )
    by_code_point = provider == "b" or (provider == "c" and collation in _BY_CODE_POINT)
    return PostgresText(order=None if by_code_point else "C", fold=await _folder(connection))


async def _folder(connection: AsyncConnection[Any]) -> str | None:
    usable: list[str | None] = []
    for name in _FOLDERS:
        folded = await _fold(connection, name)
        if folded == _SAMPLE[1]:
            return name
        if folded is not None and folded.startswith(_SAMPLE[1][0]):
            usable.append(name)
    if not usable:
        raise Fault(
            "unavailable",
            "The database folds no letters beyond ASCII.",
            hint="Make it with a locale such as C.UTF-8, or give the server one to use.",
        )
    return usable[0]


async def _fold(connection: AsyncConnection[Any], collation: str | None) -> str | None:
    collate = sql.SQL("COLLATE {}").format(sql.Identifier(collation)) if collation else sql.SQL("")
    try:
        cursor = await connection.execute(sql.SQL("SELECT lower({}::text {})").format(_SAMPLE[0], collate))
    except psycopg.errors.UndefinedObject:
        return None
    row = await cursor.fetchone()
    return str(row[0]) if row else None
