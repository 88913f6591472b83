"""Statements as text: where one ends and the next begins, and what the first words say."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["destroys", "forbidden", "is_reading_catalog", "statements"]

_TOKEN: Final = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<quoted>[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
      | (?P<end>;)
      | (?P<other>[^;'"$/eE-]+|.)""",
    re.DOTALL | re.VERBOSE,
)
_FORBIDDEN: Final = re.compile(
    r"(begin|start\s+transaction|commit|end|abort|rollback(?!\s+(work\s+|transaction\s+)?to\b)|prepare\s+transaction"
    r"|set\s+session\s+characteristics"
    # The login by which the service connects; Postgres lets every role change its own.
    r"|alter\s+(role|user|group)|reassign\s+owned)\b",
    re.IGNORECASE,
)
_DESTROYS: Final = re.compile(
    r"(drop\s+(table|schema|view|materialized\s+view|owned)\b|truncate\b"
    r"|alter\s+table\b.*\b(drop\s+(?!constraint\b|default\b|not\b|identity\b|expression\b)|type\b))",
    re.IGNORECASE | re.DOTALL,
)
_CATALOG: Final = re.compile(r"(select|pragma|with)\b", re.IGNORECASE)


def statements(text: str) -> list[str]:
    """Return the statements of a text, without comments and without those that are empty."""
    found, current = [], []
    for token in _TOKEN.finditer(text):
        if token["comment"] is not None:
            current.append(" ")
        elif token["end"] is not None:
            found.append("".join(current).strip())
            current = []
        else:
            current.append(token[0])
    found.append("".join(current).strip())
    return [statement for statement in found if statement]


def forbidden(text: str) -> str | None:
    """Return the first statement that only the service runs: on transactions as a whole, or on logins."""
    return next((statement for statement in statements(text) if _FORBIDDEN.match(statement)), None)


def destroys(text: str) -> str | None:
    """Return the first statement that drops a table or column, changes a type, or empties a table."""
    return next((statement for statement in statements(text) if _DESTROYS.match(statement)), None)


def is_reading_catalog(text: str) -> bool:
    """Whether a statement reads the catalog, as Alembic and SQLAlchemy do for themselves."""
    return bool(_CATALOG.match(text.lstrip())) and any(
        word in text
        for word in ("pg_catalog", "sqlite_master", "PRAGMA", "pg_class", "version()", "sqlite_temp_master")
    )
