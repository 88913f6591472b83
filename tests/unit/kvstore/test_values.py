"""Values, TTLs and cursors: nothing is coerced, everything wrong has its code."""

from __future__ import annotations

import datetime as dt
import enum
import json
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from rosey_kvstore.cursors import dump_cursor, load_cursor
from rosey_kvstore.errors import InvalidJson, InvalidRequest, OutOfRange, StorageError, TypeMismatch
from rosey_kvstore.ttl import MAX_TTL, parse_ttl_header, whole_seconds
from rosey_kvstore.values import decode_value, dump_value, structure_value

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@frozen
class Prefs:
    theme: str
    size: int = 12
    tags: list[str] = field(factory=list)
    inner: Prefs | None = None
    seen: dt.datetime | None = None
    ratio: float = 1.0


@given(JSON)
def test_json_there_and_back(value: Any) -> None:
    """Every JSON value reads back as itself, in compact UTF-8, as the standard library writes it."""
    data = dump_value(value)
    assert decode_value(data, "k") == value
    assert data == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def test_attrs_instances_at_any_depth() -> None:
    """An attrs instance is stored as an object and read as one, inside lists and objects too."""
    prefs = Prefs("dark", inner=Prefs("light", tags=["a"]), seen=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    data = dump_value({"all": [prefs]})
    assert structure_value(decode_value(data, "k")["all"][0], Prefs, "k") == prefs


class Colour(enum.Enum):
    RED = object()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({1: "x"}, "value"),
        ({"a": [{None: 1}]}, "value.a[0]"),
        ([{"a": {1, 2}}], "value[0].a"),
        (b"bytes", "value"),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "value"),
        (Colour.RED, "value"),
        ({"a": float("nan")}, "value"),
        (float("inf"), "value"),
        ("\ud800", "value"),
        ({"\ud800": 1}, "value"),
    ],
)
def test_what_json_cannot_say_is_refused(value: Any, path: str) -> None:
    """Each with `type_mismatch` and its place; nothing becomes text on the way."""
    with pytest.raises(TypeMismatch) as caught:
        dump_value(value)
    assert caught.value.path == path


def test_depth_and_digits() -> None:
    """What could not be read again is not written."""
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    endless: dict[str, Any] = {}
    endless["self"] = endless
    for value in (deep, endless):
        with pytest.raises(TypeMismatch):
            dump_value(value)
    with pytest.raises(OutOfRange):
        dump_value(10**5000)


@pytest.mark.parametrize("data", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"'a'", b"[" * 100_000, b"1 2"])
def test_what_is_no_json_is_said(data: bytes) -> None:
    """Bytes that another program put raise `invalid_json` naming the key."""
    with pytest.raises(InvalidJson, match="'prefs'"):
        decode_value(data, "prefs")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"theme": 5}, "theme"),
        ({"theme": "a", "size": "5"}, "size"),
        ({"theme": "a", "size": True}, "size"),
        ({"theme": "a", "size": 5.0}, "size"),
        ({"theme": "a", "tags": "abc"}, "tags"),
        ({"theme": "a", "tags": ["a", 1]}, r"tags\[1\]"),
        ({"theme": "a", "inner": []}, "inner"),
        ({}, "theme"),
        ([], "list"),
        ("dark", "str"),
        (None, "NoneType"),
    ],
)
def test_types_are_not_coerced(value: Any, place: str) -> None:
    """A value that does not fit is refused, with the member that does not."""
    with pytest.raises(TypeMismatch, match=place):
        structure_value(value, Prefs, "k")


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (1, 1),
        (1.2, 2),
        (900, 900),
        (dt.timedelta(minutes=1), 60),
        (dt.timedelta(seconds=1, microseconds=1), 2),
    ],
)
def test_ttls_are_rounded_up(ttl: float | dt.timedelta, seconds: int) -> None:
    """Whole seconds, never fewer than asked for."""
    assert whole_seconds(ttl) == seconds


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, OutOfRange), (0.5, OutOfRange), (-1, OutOfRange), (float("nan"), OutOfRange),
        (float("inf"), OutOfRange), (MAX_TTL + 1, OutOfRange), (dt.timedelta(milliseconds=999), OutOfRange),
        (dt.timedelta(days=-1, microseconds=5), OutOfRange), ("5", TypeMismatch), (True, TypeMismatch),
    ],
)  # fmt: skip
def test_impossible_ttls(ttl: Any, error: type[StorageError]) -> None:
    """Each with its code, and the place."""
    with pytest.raises(error) as caught:
        whole_seconds(ttl)
    assert caught.value.path == "ttl"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("1m30s", 90),
        ("1500ms", 1),
        ("2h", 7200),
        ("never", None),
        ("x", None),
        ("", None),
    ],
)
def test_ttls_as_operators_write_them(text: str, seconds: int | None) -> None:
    """A header of the `nats` command line tool is read as the server reads it."""
    assert parse_ttl_header(text) == seconds


@given(st.text(max_size=20), st.text(max_size=20))
def test_cursors_there_and_back(prefix: str, rest: str) -> None:
    """A cursor holds any key, and belongs to its prefix."""
    try:
        cursor = dump_cursor(prefix, prefix + rest)
    except UnicodeEncodeError:
        return
    assert load_cursor(cursor, prefix) == prefix + rest
    with pytest.raises(InvalidRequest):
        load_cursor(cursor, prefix + "x")


@pytest.mark.parametrize("cursor", ["", "x", "ü", "!!!!", "W10", "WyJhIiwxXQ", "bnVsbA", "WyJhIiwiYiJd="])
def test_bad_cursors(cursor: str) -> None:
    """What is no cursor is `invalid_request`."""
    with pytest.raises(InvalidRequest):
        load_cursor(cursor, "a")
