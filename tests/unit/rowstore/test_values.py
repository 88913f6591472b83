"""Values against columns: what fits, in which stored form, and with which code the rest is refused."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_rowstore.engine.codecs import CODECS, decoder_for
from rosey_rowstore.engine.model import Column, ColumnType, Dialect
from rosey_rowstore.engine.sqlite_functions import _compare_decimals
from rosey_rowstore.engine.values import canonical_decimal, check_value, check_written, json_key
from rosey_rowstore.protocol import Fault

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def column(kind: ColumnType, **members: Any) -> Column:
    return Column(name="c", type=kind, **members)


def code(kind: ColumnType, value: Any, **members: Any) -> str:
    with pytest.raises(Fault) as caught:
        check_written(column(kind, **members), value)
    return caught.value.code


STORED = [
    (ColumnType.INTEGER, -(2**63), -(2**63)),
    (ColumnType.FLOAT, 5, 5.0),
    (ColumnType.DECIMAL, "-00.500", "-0.5"),
    (ColumnType.DECIMAL, "-0.0", "0"),
    (ColumnType.DECIMAL, "9" * 60 + ".10", "9" * 60 + ".1"),
    (ColumnType.DATETIME, "2026-11-23T04:05:06Z", "2026-11-23T04:05:06.000000Z"),
    (ColumnType.DATETIME, "2026-11-23t04:05:06.5z", "2026-11-23T04:05:06.500000Z"),
    (ColumnType.DATETIME, "2026-11-23T04:05+0530", "2026-11-22T22:35:00.000000Z"),
    (ColumnType.DATETIME, "2026-11-23 04:05:06.000007-01", "2026-11-23T05:05:06.000007Z"),
    (ColumnType.UUID, "ABCDEF01-2345-6789-ABCD-EF0123456789", "abcdef01-2345-6789-abcd-ef0123456789"),
    (ColumnType.JSON, {"b": 1, "a": [None, 1.0]}, '{"b":1,"a":[null,1.0]}'),
]


@pytest.mark.parametrize(("kind", "value", "stored"), STORED)
def test_stored_forms(kind: ColumnType, value: Any, stored: Any) -> None:
    """A value that fits has one stored form, of one kind."""
    found = check_written(column(kind), value)
    assert (found, type(found)) == (stored, type(stored))


REFUSED = [
    (ColumnType.INTEGER, 2**63, {}, "out_of_range"),
    (ColumnType.INTEGER, 40000, {"bits": 16}, "out_of_range"),
    (ColumnType.INTEGER, 2**31, {"bits": 32}, "out_of_range"),
    (ColumnType.INTEGER, True, {}, "type_mismatch"),
    (ColumnType.FLOAT, float("inf"), {}, "out_of_range"),
    (ColumnType.FLOAT, float("nan"), {}, "out_of_range"),
    (ColumnType.FLOAT, 10**400, {}, "out_of_range"),
    (ColumnType.FLOAT, True, {}, "type_mismatch"),
    (ColumnType.DECIMAL, "1.005", {"precision": 5, "scale": 2}, "out_of_range"),
    (ColumnType.DECIMAL, "1000", {"precision": 5, "scale": 2}, "out_of_range"),
    (ColumnType.DECIMAL, "1" * 131_073, {}, "out_of_range"),
    (ColumnType.DECIMAL, "0." + "1" * 16_384, {}, "out_of_range"),
    (ColumnType.DECIMAL, "NaN", {}, "type_mismatch"),
    (ColumnType.DECIMAL, "١", {}, "type_mismatch"),
    (ColumnType.STRING, "aé日" * 2, {"max_length": 5}, "value_too_large"),
    (ColumnType.TEXT, "\ud800", {}, "out_of_range"),
    (ColumnType.TEXT, None, {"nullable": False}, "value_required"),
    (ColumnType.DATETIME, "2026-11-23T04:05:06+99:00", {}, "out_of_range"),
    (ColumnType.DATETIME, "2026-11-23T04:05:60Z", {}, "out_of_range"),
    (ColumnType.DATETIME, "9999-12-31T23:59:59-01:00", {}, "out_of_range"),
    (ColumnType.DATETIME, "2026-11-23T04:05.5Z", {}, "type_mismatch"),
    (ColumnType.UUID, "abcdef0123456789abcdef0123456789", {}, "type_mismatch"),
    (ColumnType.JSON, {"\0": 1}, {}, "out_of_range"),
    (ColumnType.JSON, ["\udfff"], {}, "out_of_range"),
    (ColumnType.JSON, [float("inf")], {}, "out_of_range"),
]


@pytest.mark.parametrize(("kind", "value", "members", "expected"), REFUSED)
def test_refusals(kind: ColumnType, value: Any, members: dict[str, Any], expected: str) -> None:
    """What does not fit has the code that the contract gives it."""
    assert code(kind, value, **members) == expected


def test_deep_json_is_refused() -> None:
    """Json that nests past what both databases take is refused."""
    value: Any = 1
    for _ in range(300):
        value = [value]
    assert code(ColumnType.JSON, value) == "out_of_range"


def test_a_filter_may_compare_with_more_than_a_column_holds() -> None:
    """The length and the size of a column bind what is written, not what is compared."""
    assert check_value(column(ColumnType.STRING, max_length=1), "long") == "long"
    assert check_value(column(ColumnType.INTEGER, bits=16), 40_000) == 40_000


@given(st.sampled_from(list(ColumnType)), ANYTHING)
def test_any_value_fits_or_is_refused(kind: ColumnType, value: Any) -> None:
    """No value gives anything but a stored form or a fault."""
    try:
        stored = check_written(column(kind), value)
    except Fault:
        return
    if stored is not None:
        for dialect in Dialect:
            assert CODECS[dialect].written(kind, stored) is not None


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30))
def test_a_canonical_decimal_is_the_same_number(value: Decimal) -> None:
    """Needless zeros go, the number stays, and so does its place among others."""
    text = format(value, "f")
    canonical = canonical_decimal(text)
    assert canonical is not None
    assert Decimal(canonical) == value
    assert _compare_decimals(canonical, text) == 0
    assert _compare_decimals(canonical, "0") == (value > 0) - (value < 0)


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1.", ".5", "+1", "1e5", " 1", "1 ", "1_0", "0x1", "--1", "1\n"]
)
def test_no_decimals(text: str) -> None:
    """Only digits with one point between them are a decimal."""
    assert canonical_decimal(text) is None


@given(st.datetimes(timezones=st.timezones()))
def test_datetimes_are_kept_to_the_microsecond(value: datetime.datetime) -> None:
    """A datetime in any zone comes back as the same moment, in UTC."""
    try:
        expected = value.astimezone(datetime.UTC)
    except OverflowError:
        return
    offset = value.utcoffset()
    if offset is None or offset.seconds % 60:  # zones before standard time have seconds, ISO 8601 has not
        return
    stored = check_value(column(ColumnType.DATETIME), value.isoformat())
    assert datetime.datetime.fromisoformat(stored) == expected
    decode = decoder_for(column(ColumnType.DATETIME), Dialect.POSTGRES)
    assert decode is not None
    assert decode(expected) == decode(stored) == stored


@given(ANYTHING)
def test_json_keys_tell_values_apart(value: Any) -> None:
    """A key does not depend on the order of members, and is that of the value read back."""
    try:
        text = check_value(column(ColumnType.JSON), value)
    except Fault:
        return
    again = json.loads(text)
    turned = dict(reversed(again.items())) if isinstance(again, dict) else again
    assert json_key(value) == json_key(again) == json_key(turned)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(1, 1.0, True), (1, True, False), (0, False, False), (1e300, 10**300, True), (-0.0, 0, True),
     ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True), ([1, 2], [2, 1], False), ("1", 1, False),
     ({"a": None}, {}, False), (1e-7, 0.0000001, True)],
)  # fmt: skip
def test_json_equality(left: Any, right: Any, same: bool) -> None:
    """Numbers are equal by value; true is not one, and null is not nothing."""
    assert (json_key(left) == json_key(right)) is same


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")) | st.none()))
def test_postgres_arrays_hold_any_text(values: list[str | None]) -> None:
    """Quotes, backslashes, braces, commas and the word NULL stay what they are inside an array."""
    array = CODECS[Dialect.POSTGRES].array(values)
    assert _read_array(array) == values


def _read_array(text: str) -> list[str | None]:
    found: list[str | None] = []
    body, position = text[1:-1], 0
    while position < len(body):
        if body[position] == '"':
            position += 1
            member = ""
            while body[position] != '"':
                position += body[position] == "\\"
                member += body[position]
                position += 1
            found.append(member)
            position += 1
        else:
            assert body.startswith("NULL", position)
            found.append(None)
            position += 4
        position += 1
    return found
