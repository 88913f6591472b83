"""Stored forms to driver values and database values to replies, one codec a dialect."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from attrs import frozen

from rosey_rowstore.engine.model import Column, ColumnType, Dialect
from rosey_rowstore.engine.values import (
    TEXTUAL,
    canonical_decimal,
    check_value,
    check_written,
    format_datetime,
    json_key,
)

__all__ = [
    "CODECS",
    "Codec",
    "Decoder",
    "Encoder",
    "decoder_for",
    "encodable_for",
    "operand_for",
    "writer_for",
]

Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]
ColumnDecoder = Callable[[Sequence[Any]], Sequence[Any]]

_ARRAY_SPECIAL: Final = re.compile(r'(["\\])')
_encode_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@frozen
class Codec:
    """How one dialect takes and gives values.

    Attributes:
        encode: A stored form to a driver value, by type; types left out pass as they are.
        compare: The same for the operands of a comparison, where it differs.
        array: A list of encoded values to the one driver value of a list.
    """

    encode: Mapping[ColumnType, Encoder]
    compare: Mapping[ColumnType, Encoder]
    array: Callable[[Iterable[Any]], str]

    def written(self, kind: ColumnType, stored: Any) -> Any:
        """Return the driver value of a stored form that is written; null stays null."""
        if stored is None:
            return None
        encode = self.encode.get(kind)
        return stored if encode is None else encode(stored)

    def compared(self, kind: ColumnType, stored: Any) -> Any:
        """Return the driver value of a stored form that a column is compared with."""
        encode = self.compare.get(kind)
        return stored if encode is None else encode(stored)


# Postgres: every value travels as text of no declared type and is cast in the statement. psycopg would
# give each size of number a type of its own, and prepare the same statement once for each.


def _postgres_array(values: Iterable[Any]) -> str:
    found = list(values)
    try:
        joined = '","'.join(found)
    except TypeError:  # a null
        joined = "\\"
    # No more quotes than those in between: no value holds one. Four fifths of the time is saved.
    if found and "\\" not in joined and joined.count('"') == 2 * len(found) - 2:
        return f'{{"{joined}"}}'
    return "{" + ",".join(map(_array_member, found)) + "}"


def _array_member(value: str | None) -> str:
    if value is None:
        return "NULL"
    if '"' in value or "\\" in value:
        value = _ARRAY_SPECIAL.sub(r"\\\1", value)
    return f'"{value}"'


def _postgres_boolean(value: bool) -> str:
    return "true" if value else "false"


_POSTGRES_ENCODE: Final[Mapping[ColumnType, Encoder]] = {
    ColumnType.INTEGER: str,
    ColumnType.FLOAT: repr,
    ColumnType.BOOLEAN: _postgres_boolean,
}


# SQLite: numbers as they are; json numbers as bytes, because a column declared JSON has numeric
# affinity and would turn the text `1.0` into the integer 1.


def _sqlite_json(text: str) -> str | bytes:
    return text.encode() if text[0] in "-0123456789" else text


def _sqlite_json_key(text: str) -> str:
    return json_key(json.loads(text))


def _sqlite_array(values: Iterable[Any]) -> str:
    # A float travels as text: SQLite's own reading of digits may miss the last bit.
    return _encode_json([repr(value) if type(value) is float else value for value in values])


CODECS: Final[Mapping[Dialect, Codec]] = {
    Dialect.POSTGRES: Codec(encode=_POSTGRES_ENCODE, compare=_POSTGRES_ENCODE, array=_postgres_array),
    Dialect.SQLITE: Codec(
        encode={ColumnType.BOOLEAN: int, ColumnType.JSON: _sqlite_json},
        compare={ColumnType.BOOLEAN: int, ColumnType.JSON: _sqlite_json_key},
        array=_sqlite_array,
    ),
}


# What a column takes, in one call: checked, and as the driver takes it.


def operand_for(column: Column, codec: Codec) -> Encoder:
    """Return what makes a driver value of a JSON value to compare with `column`; see `check_value`."""
    encode = codec.compare.get(column.type)

    def operand(value: Any) -> Any:
        stored = check_value(column, value)
        return stored if encode is None else encode(stored)

    return operand


def writer_for(column: Column, codec: Codec) -> Encoder:
    """Return what makes a driver value of a JSON value to write to `column`; see `check_written`."""

    def write(value: Any) -> Any:
        return codec.written(column.type, check_written(column, value))

    if column.type not in TEXTUAL:
        return write
    # Of such a text nothing else could be amiss: it has as many bytes as letters.
    most = min(
        (most for most in (column.max_length, column.indexed_bytes) if most is not None), default=sys.maxsize
    )

    def write_text(value: Any) -> Any:
        if type(value) is str and value.isascii() and len(value) <= most and "\0" not in value:
            return value
        return write(value)

    return write_text


# What the databases give back. Both dialects share the decoders: a driver's own type or text comes in.


def decoder_for(column: Column, dialect: Dialect) -> Decoder | None:
    """Return what makes a reply of a database value that is not null; None when it is one already."""
    if dialect is Dialect.POSTGRES and column.type in (ColumnType.BOOLEAN, ColumnType.UUID):
        return None
    if column.type is ColumnType.DECIMAL and column.scale is not None:
        scale = column.scale
        return lambda value: _pad(_decimal(value), scale)
    return _DECODERS.get(column.type)


def encodable_for(column: Column, decode: Decoder) -> tuple[Decoder, ColumnDecoder]:
    """Return what makes a value, or a column of them with nulls, fit for the encoder of a reply.

    Like `decode`, but for moments: a driver's own objects, in UTC, are encoded with the reply, for a
    tenth of the time.
    """
    if column.type is ColumnType.DATETIME:
        return _moment, _moments
    return decode, lambda values: [None if value is None else decode(value) for value in values]


_microsecond: Final = attrgetter("microsecond")


def _moment(value: Any) -> Any:
    # The encoder leaves the fraction out where it is zero.
    return value if type(value) is datetime.datetime and value.microsecond else _datetime(value)


def _moments(values: Sequence[Any]) -> Sequence[Any]:
    try:
        if 0 not in map(_microsecond, values):
            return values
    except AttributeError:  # nulls, or text
        pass
    return [None if value is None else _datetime(value) for value in values]


def _float(value: Any) -> Any:
    number = float(value) + 0.0  # a negative zero shows in one database alone
    return number if math.isfinite(number) else _NOT_FINITE[str(number)]


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _decimal(value: Any) -> str:
    text = value if type(value) is str else format(decimal.Decimal(str(value)), "f")
    return canonical_decimal(text) or text


def _pad(text: str, scale: int) -> str:
    whole, _, fraction = text.partition(".")
    return text if len(fraction) >= scale or not scale else f"{whole}.{fraction.ljust(scale, '0')}"


def _datetime(value: Any) -> str:
    if isinstance(value, datetime.datetime):
        return format_datetime(value)
    size = len(value)
    if size == 29 and value[26:] == "+00":  # as Postgres prints it in UTC, with all six digits
        return f"{value[:10]}T{value[11:26]}Z"
    if 22 <= size < 29 and value[4] == "-" and value[-3:] == "+00":  # its last zeros are left out
        return f"{value[:10]}T{value[11:19]}.{value[20:-3]:0<6}Z"
    if size == 27 and value[10] == "T":  # as the service writes it
        return str(value)
    try:
        return format_datetime(datetime.datetime.fromisoformat(value))  # as another tool wrote it
    except ValueError:
        return str(value)


def _date(value: Any) -> str:
    return value if type(value) is str else value.isoformat()[:10]


def _json(value: Any) -> Any:
    if type(value) is str or type(value) is bytes:
        return json.loads(value)
    return value


_DECODERS: Final[Mapping[ColumnType, Decoder]] = {
    ColumnType.FLOAT: _float,
    ColumnType.DECIMAL: _decimal,
    ColumnType.BOOLEAN: bool,
    ColumnType.DATETIME: _datetime,
    ColumnType.DATE: _date,
    ColumnType.UUID: str,
    ColumnType.JSON: _json,
}
