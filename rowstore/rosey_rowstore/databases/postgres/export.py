"""A schema's tables as files of JSON lines, as one moment saw them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, sql

__all__ = ["copy_tables"]


async def copy_tables(connection: AsyncConnection[Any], schema: str, folder: Path) -> dict[str, int]:
    """Write `<table>.ndjson` for each table of `schema`, and `tables.json` with their columns.

    Args:
        connection: As a login that may read them.
        schema: Whose tables.
        folder: Where; it is there.

    Returns:
        The number of rows of each table.
    """
    counts: dict[str, int] = {}
    columns: dict[str, list[dict[str, Any]]] = {}
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor = await connection.execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull"
            "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            "   AND NOT starts_with(c.relname, '_rosey')"
            " ORDER BY c.relname, a.attnum",
            (schema,),
        )
        for table, name, kind, required in await cursor.fetchall():
            columns.setdefault(table, []).append({"name": name, "type": kind, "required": required})
        for table in columns:
            counts[table] = await _copy(connection, sql.Identifier(schema, table), folder / f"{table}.ndjson")
    (folder / "tables.json").write_text(json.dumps(columns, indent=2) + "\n", encoding="utf-8")
    return counts


async def _copy(connection: AsyncConnection[Any], table: sql.Identifier, path: Path) -> int:
    """One object a line; JSON text escapes every line break, and CSV without quotes leaves the rest alone."""
    statement = sql.SQL(
        "COPY (SELECT row_to_json(t) FROM {} t) TO STDOUT"
        " (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02', ESCAPE E'\\x02')"
    ).format(table)
    count = 0
    with path.open("wb") as file:
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            async for data in copy:
                file.write(data)
                count += bytes(data).count(b"\n")
    return count
