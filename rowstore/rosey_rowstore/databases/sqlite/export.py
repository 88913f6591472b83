"""A plugin's SQLite file as files of JSON lines, as one moment saw it."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["copy_tables"]


def copy_tables(source: Path, folder: Path) -> dict[str, int]:
    """Write `<table>.ndjson` for each table, and `tables.json` with their columns; return their rows."""
    counts: dict[str, int] = {}
    columns: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            " AND name NOT LIKE '\\_rosey%' ESCAPE '\\' ORDER BY name"
        ).fetchall()
        for (table,) in names:
            quoted = '"' + table.replace('"', '""') + '"'
            described = connection.execute(f"PRAGMA table_info({quoted})").fetchall()
            columns[table] = [
                {"name": name, "type": kind, "required": bool(required)}
                for _, name, kind, required, _, _ in described
            ]
            labels = [column["name"] for column in columns[table]]
            counts[table] = 0
            with (folder / f"{table}.ndjson").open("w", encoding="utf-8") as file:
                for row in connection.execute(f"SELECT * FROM {quoted}"):  # noqa: S608 - quoted above
                    values = dict(zip(labels, map(_json, row), strict=True))
                    file.write(json.dumps(values, ensure_ascii=False) + "\n")
                    counts[table] += 1
    (folder / "tables.json").write_text(json.dumps(columns, indent=2) + "\n", encoding="utf-8")
    return counts


def _json(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
