"""JSON values against columns: what fits, what does not, and the one stored form of each.

The stored form is the same for both databases: `str`, `int`, `float`, `bool`; decimals, datetimes,
dates, UUIDs and json as their canonical text. `codecs` turns it into what a driver takes.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from rosey_rowstore.engine.model import Column, ColumnType
from rosey_rowstore.engine.texts import check_text
from rosey_rowstore.protocol import Fault

__all__ = [
    "NUMERIC",
    "ORDERED",
    "TEXTUAL",
    "canonical_decimal",
    "check_value",
    "check_written",
    "format_datetime",
    "json_key",
]

NUMERIC: Final = frozenset({ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DECIMAL})
TEXTUAL: Final = frozenset({ColumnType.STRING, ColumnType.TEXT})
ORDERED: Final = frozenset(ColumnType) - {ColumnType.BOOLEAN, ColumnType.JSON}
"""The types with range operators, `$max` and `$min`."""

_DEEPEST_JSON: Final = 200
_WHOLE_DIGITS: Final = 131_072  # what numeric of Postgres holds before and after the point
_FRACTION_DIGITS: Final = 16_383

_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_DATETIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-][0-9]{2}):?([0-9]{2})?)?"
)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_encode_json: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def check_value(column: Column, value: Any) -> Any:
    """Return the stored form of a value to compare with `column`; never null.

    Raises:
        Fault: `type_mismatch`, `out_of_range` or `value_required`, without a path.
    """
    return _CHECKS[column.type](value, column)


def check_written(column: Column, value: Any) -> Any:
    """Return the stored form of a value to write to `column`; null where it may be null.

    Raises:
        Fault: As `check_value`, `value_too_large` past the column's `max_length` or what an index holds, and
            `out_of_range` past its own size or precision.
    """
    if value is None:
        if column.nullable:
            return None
        raise Fault("value_required", f"The column {column.name} takes no null.")
    stored = _CHECKS[column.type](value, column)
    kind = column.type
    if column.indexed_bytes is not None:
        _fits_index(stored, column, column.indexed_bytes)
    if column.max_length is not None and len(stored) > column.max_length:
        raise Fault(
            "value_too_large",
            f"The text has {len(stored)} characters; the column {column.name} holds {column.max_length}.",
        )
    if kind is ColumnType.INTEGER and column.bits < 64:
        _in_range(stored, column, column.bits)
    elif kind is ColumnType.DECIMAL and column.precision is not None:
        _in_precision(stored, column, column.precision, column.scale or 0)
    return stored


def format_datetime(value: datetime.datetime) -> str:
    """Return an aware datetime, or a naive one in UTC, as the contract writes it."""
    if value.tzinfo is not None and value.utcoffset():
        value = value.astimezone(datetime.UTC)
    return value.isoformat("T", "microseconds")[:26] + "Z"


def json_key(value: Any) -> str:
    """Return text that two JSON values share exactly when `jsonb` of Postgres calls them equal."""
    if type(value) is dict:
        members = sorted((_encode_json(name), json_key(member)) for name, member in value.items())
        return "{" + ",".join(f"{name}:{member}" for name, member in members) + "}"
    if type(value) is list:
        return "[" + ",".join(map(json_key, value)) + "]"
    if type(value) is float:
        return canonical_decimal(format(decimal.Decimal(repr(value)), "f")) or ""
    return _encode_json(value)


def canonical_decimal(text: str) -> str | None:
    """Return a plain decimal without needless zeros or a negative zero; None when it is none."""
    if not _DECIMAL.fullmatch(text):
        return None
    whole, _, fraction = text.lstrip("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    digits = f"{whole}.{fraction}" if fraction else whole
    return f"-{digits}" if text[0] == "-" and digits != "0" else digits


def _wrong_kind(column: Column, expected: str, value: Any) -> Fault:
    kind = _KINDS.get(type(value), type(value).__name__)
    if value is None:
        return Fault("value_required", f"The column {column.name} is compared with {expected}, not null.")
    return Fault("type_mismatch", f"The column {column.name} takes {expected}, not {kind}.")


def _wrong_text(column: Column, expected: str, value: str) -> Fault:
    return Fault("type_mismatch", f"The column {column.name} takes {expected}; {value[:60]!r} is none.")


def _text(value: Any, column: Column) -> str:
    if type(value) is not str:
        raise _wrong_kind(column, "text", value)
    if value.isascii() and "\0" not in value:
        return value
    return check_text(value)


def _integer(value: Any, column: Column) -> int:
    if type(value) is not int:
        raise _wrong_kind(column, "a whole number", value)
    return _in_range(value, column, 64)


def _in_range(value: int, column: Column, bits: int) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise Fault("out_of_range", f"The column {column.name} holds whole numbers of {bits} bits.")
    return value


def _float(value: Any, column: Column) -> float:
    if type(value) is not float and type(value) is not int:
        raise _wrong_kind(column, "a number", value)
    try:
        number = float(value) + 0.0  # a negative zero would be kept by one database alone
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Fault("out_of_range", f"The number is too large for the column {column.name}.")
    return number


def _decimal(value: Any, column: Column) -> str:
    if type(value) is not str:
        raise _wrong_kind(column, 'a decimal as text, as "12.50"', value)
    canonical = canonical_decimal(value)
    if canonical is None:
        raise _wrong_text(column, 'a decimal as text, as "12.50"', value)
    whole, _, fraction = canonical.lstrip("-").partition(".")
    if len(whole) > _WHOLE_DIGITS or len(fraction) > _FRACTION_DIGITS:
        raise Fault("out_of_range", f"The decimal has more digits than the column {column.name} holds.")
    return canonical


def _fits_index(stored: str, column: Column, most: int) -> None:
    if 4 * len(stored) > most and (size := len(stored.encode())) > most:
        raise Fault(
            "value_too_large",
            f"The text has {size} bytes; the column {column.name} is part of an index, which holds {most}.",
            hint="Index a shorter column, as a digest of the text.",
        )


def _in_precision(stored: str, column: Column, precision: int, scale: int) -> None:
    whole, _, fraction = stored.lstrip("-").partition(".")
    if len(whole.lstrip("0")) > precision - scale or len(fraction) > scale:
        raise Fault(
            "out_of_range",
            f"The column {column.name} holds {precision - scale} digits before the point"
            f" and {scale} after it.",
        )


def _boolean(value: Any, column: Column) -> bool:
    if type(value) is not bool:
        raise _wrong_kind(column, "true or false", value)
    return value


def _datetime(value: Any, column: Column) -> str:
    expected = 'a datetime with offset, as "2026-11-23T04:05:06Z"'
    if type(value) is not str:
        raise _wrong_kind(column, expected, value)
    match = _DATETIME.fullmatch(value)
    if match is None or not (match[5] or match[6]) or (match[4] and not match[3]):
        raise _wrong_text(column, expected, value)
    date, minutes, seconds, fraction, _, hours, offset = match.groups()
    if fraction and len(fraction) > 6:
        raise Fault("out_of_range", f"{value[:60]!r} has more than six digits of a second.")
    text = f"{date}T{minutes}{seconds or ':00'}.{(fraction or '').ljust(6, '0')}"
    if minutes.startswith("24"):  # newer Pythons read it as the next midnight
        raise Fault("out_of_range", f"{value[:60]!r} is no time that exists.")
    try:
        parsed = datetime.datetime.fromisoformat(f"{text}{hours}:{offset or '00'}" if hours else text)
        return format_datetime(parsed)
    except (ValueError, OverflowError):
        raise Fault("out_of_range", f"{value[:60]!r} is no time that exists.") from None


def _date(value: Any, column: Column) -> str:
    expected = 'a date, as "2026-11-23"'
    if type(value) is not str:
        raise _wrong_kind(column, expected, value)
    if not _DATE.fullmatch(value):
        raise _wrong_text(column, expected, value)
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise Fault("out_of_range", f"{value!r} is no day that exists.") from None
    return value


def _uuid(value: Any, column: Column) -> str:
    expected = "a UUID of 32 hexadecimal digits in five groups"
    if type(value) is not str:
        raise _wrong_kind(column, expected, value)
    if not _UUID.fullmatch(value):
        raise _wrong_text(column, expected, value)
    return value.lower()


def _json(value: Any, _: Column) -> str:
    check_json(value)
    return _encode_json(value)


def check_json(value: Any, depth: int = 0) -> None:
    """Refuse what one database would hold and the other not.

    Raises:
        Fault: `out_of_range` for NUL, half surrogates, numbers past a double, and deep nesting.
    """
    kind = type(value)
    if kind is str:
        check_text(value)
    elif kind is float:
        if not math.isfinite(value):
            raise Fault("out_of_range", "The json value holds a number past what a double holds.")
    elif kind is dict or kind is list:
        if depth >= _DEEPEST_JSON:
            raise Fault("out_of_range", f"The json value nests deeper than {_DEEPEST_JSON} levels.")
        if kind is dict:
            for name in value:
                check_text(name)
        for member in value.values() if kind is dict else value:
            check_json(member, depth + 1)


_CHECKS: Final[Mapping[ColumnType, Callable[[Any, Column], Any]]] = {
    ColumnType.STRING: _text,
    ColumnType.TEXT: _text,
    ColumnType.INTEGER: _integer,
    ColumnType.FLOAT: _float,
    ColumnType.DECIMAL: _decimal,
    ColumnType.BOOLEAN: _boolean,
    ColumnType.DATETIME: _datetime,
    ColumnType.DATE: _date,
    ColumnType.UUID: _uuid,
    ColumnType.JSON: _json,
}
