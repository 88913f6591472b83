"""Defaults as the catalogs print them, read back as JSON values."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from rosey_rowstore.engine.model import ColumnType
from rosey_rowstore.engine.values import canonical_decimal, format_datetime

__all__ = ["postgres_default", "sqlite_default"]

_TYPED: Final = r"(?:::[\w .\"(),]+(?:\[\])?)*"
_TEXT: Final = re.compile(rf"\(?'((?:[^']|'')*)'\)?{_TYPED}", re.DOTALL)
_NUMBER: Final = re.compile(rf"\(?'?([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)'?\)?{_TYPED}")
_BLOB: Final = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")
_BOOLEAN: Final = re.compile(rf"'?(true|false|t|f)'?{_TYPED}", re.IGNORECASE)


def postgres_default(expression: str, kind: ColumnType) -> Any:
    """Return the JSON value of a default as `pg_get_expr` prints it; None when it is an expression."""
    return _value(_unescaped(expression), kind)


def sqlite_default(expression: str, kind: ColumnType) -> Any:
    """Return the JSON value of a default as SQLite prints it; None when it is an expression."""
    while expression.startswith("(") and expression.endswith(")"):
        expression = expression[1:-1]
    if kind is ColumnType.BOOLEAN and expression in ("0", "1"):
        return expression == "1"
    if found := _BLOB.fullmatch(expression):
        expression = bytes.fromhex(found[1]).decode("utf-8", "replace")
    return _value(expression, kind)


def _unescaped(expression: str) -> str:
    """Return a text literal without the escapes that Postgres prints where it holds a backslash."""
    if expression.startswith("E'"):
        return expression[1:].replace("\\\\", "\\")
    return expression


def _value(expression: str, kind: ColumnType) -> Any:
    if kind is ColumnType.BOOLEAN:
        found = _BOOLEAN.fullmatch(expression)
        return found[1].lower() in ("true", "t") if found else None
    found = _TEXT.fullmatch(expression)
    if found is not None:
        text = found[1].replace("''", "'")
    elif (found := _NUMBER.fullmatch(expression)) is not None:
        text = found[1]
    else:
        return None
    try:
        return _READERS.get(kind, str)(text)
    except (ValueError, decimal.InvalidOperation):
        return None


def _read_datetime(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return format_datetime(moment)


def _read_decimal(text: str) -> str:
    return canonical_decimal(format(decimal.Decimal(text), "f")) or text


_READERS: Final[Mapping[ColumnType, Callable[[str], Any]]] = {
    ColumnType.INTEGER: int,
    ColumnType.FLOAT: float,
    ColumnType.DECIMAL: _read_decimal,
    ColumnType.DATETIME: _read_datetime,
    ColumnType.JSON: json.loads,
    ColumnType.UUID: str.lower,
}
