"""The wire contract: bytes in both directions, and a coded fault for everything malformed."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import sys
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_rowstore import protocol as p
from rosey_rowstore.protocol import OPERATIONS, Fault, decode_reply, decode_request
from rosey_rowstore.protocol import convert as convert_module
from rosey_rowstore.protocol import json as json_module
from rosey_rowstore.protocol.json import load_json

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refusal(tail: str, payload: bytes) -> Fault:
    with pytest.raises(Fault) as caught:
        decode_request(OPERATIONS[tail], payload)
    return caught.value


MALFORMED = {
    "not JSON": (b"{", "invalid_json"),
    "text without quotes": (b"hello", "invalid_json"),
    "not UTF-8": (b'{"table":"\xff"}', "invalid_json"),
    "a byte order mark": (b'\xef\xbb\xbf{"table":"q"}', "invalid_json"),
    "NaN": (b'{"table":"q","where":{"n":NaN}}', "invalid_json"),
    "Infinity": (b'{"table":"q","where":{"n":-Infinity}}', "invalid_json"),
    "a member twice": (b'{"table":"a","table":"b"}', "invalid_json"),
    "deep nesting": (b"[" * 200_000, "invalid_json"),
    "a number too long to read": (b'{"table":"q","limit":' + b"9" * 5000 + b"}", "invalid_json"),
    "trailing text": (b'{"table":"q"} {"table":"q"}', "invalid_json"),
    "a list": (b"[]", "invalid_request"),
    "null": (b"null", "invalid_request"),
    "text": (b'"q"', "invalid_request"),
    "a number": (b"5", "invalid_request"),
    "nothing": (b"", "invalid_request"),
    "an unknown member": (b'{"table":"q","limits":5}', "invalid_request"),
    "a missing member": (b"{}", "invalid_request"),
    "a null where one is needed": (b'{"table":null}', "invalid_request"),
    "text for a number": (b'{"table":"q","limit":"5"}', "invalid_request"),
    "true for a number": (b'{"table":"q","limit":true}', "invalid_request"),
    "a fraction for a whole number": (b'{"table":"q","limit":5.0}', "invalid_request"),
    "an object for text": (b'{"table":{}}', "invalid_request"),
    "text for a list": (b'{"table":"q","order_by":"n"}', "invalid_request"),
    "a list for an object": (b'{"table":"q","where":[]}', "invalid_request"),
}


@pytest.mark.parametrize(("payload", "code"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_payloads_have_a_code(payload: bytes, code: str) -> None:
    """Whatever is malformed is refused with its code and a message."""
    fault = refusal("rows.select", payload)
    assert fault.code == code
    assert fault.message.endswith((".", "?"))


def test_unknown_members_name_the_nearest_known_one() -> None:
    """A misspelt member is named together with the one that was meant."""
    fault = refusal("rows.select", b'{"table":"q","wher":{}}')
    assert fault.path == "wher"
    assert "'where'" in fault.message


def test_what_is_misspelt_is_named_with_what_was_meant() -> None:
    """The operation of a transaction has its nearest name; where no member is taken none is listed."""
    fault = refusal("rows.transact", b'{"operations":[{"op":"inset"}]}')
    assert "did you mean 'insert'?" in fault.message
    fault = refusal("tables.list", b'{"tables":[]}')
    assert (fault.path, fault.hint) == ("tables", "There are none here.")


def test_kinds_are_told_in_the_words_of_json() -> None:
    """Nothing of Python shows in a refusal, whatever stands where an object should."""
    for payload in (b'{"n":null}', b'{"n":[]}', b"[]", b"3", b'{"n":{"$sum":null}}'):
        fault = refusal("rows.aggregate", b'{"table":"q","measures":' + payload + b"}")
        assert fault.code == "invalid_request"
        assert " takes " in fault.message
        assert "attribute" not in fault.message


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        {"table": "q", LONG: 1},
        {"table": "q", "order_by": [{LONG: 1}]},
        {"table": "q", "where": LONG},
        {LONG: {LONG: LONG}},
    ],
)
def test_a_name_of_a_megabyte_is_not_sent_back(body: dict[str, Any]) -> None:
    """Whatever a stranger calls things, the refusal is short, and made at once."""
    fault = refusal("rows.select", json.dumps(body).encode())
    payload, headers = p.encode_fault(fault.at("operations[3]"))
    assert (len(payload) < 10_000, len(headers["Nats-Service-Error"]) <= 200) == (True, True)
    assert json.loads(payload)["error"]["code"] == "invalid_request"
    began = time.process_time()
    assert p.nearest(LONG, ["table", "where"] * 100) is None
    assert time.process_time() - began < 0.05


def test_a_number_of_too_many_digits() -> None:
    """A whole number that Python does not read is told in the contract's words."""
    fault = refusal("rows.select", b'{"table":"q","limit":' + b"9" * 5000 + b"}")
    told = f"A number has more than {sys.get_int_max_str_digits()} digits."
    assert (fault.code, fault.message) == ("invalid_json", told)


def test_a_repeated_member_among_many_is_found_at_once() -> None:
    """A hundred thousand members, the last a repetition: it is named, and holds up nobody."""
    members = ",".join(f'"m{number}":0' for number in [*range(100_000), 99_998])
    began = time.process_time()
    fault = refusal("rows.select", ("{" + members + "}").encode())
    assert time.process_time() - began < 2
    assert (fault.code, "'m99998'" in fault.message) == ("invalid_json", True)


@pytest.mark.parametrize(
    ("tail", "body", "path"),
    [
        ("rows.insert", {"table": "q", "rows": [1] * 300_000}, "rows[0]"),
        ("rows.transact", {"operations": [{}] * 200_000}, "operations[0].op"),
        ("rows.select", {"table": "q", "order_by": ["a", *[1] * 300_000]}, "order_by[1]"),
        ("rows.aggregate", {"table": "q", "measures": {f"m{n}": 1 for n in range(50_000)}}, "measures.m0"),
        (
            "rows.upsert",
            {"table": "q", "rows": [], "key": ["k"], "merge": {f"m{n}": "$add" for n in range(40_000)}},
            "merge.m0",
        ),
        ("tables.define", {"table": "q", "columns": [{"nme": "x"}] * 40_000}, "columns[0].name"),
    ],
)
def test_a_request_wrong_in_every_part_is_refused_at_once(tail: str, body: Any, path: str) -> None:
    """The first fault ends the reading: a megabyte of them does not hold the service up for seconds."""
    payload = json.dumps(body).encode()
    began = time.process_time()
    assert refusal(tail, payload).path == path
    assert time.process_time() - began < 1.0


PATHS = {
    "a row that is none": ("rows.insert", b'{"table":"q","rows":[{},3]}', "rows[1]"),
    "a column's kind": (
        "tables.define",
        b'{"table":"q","columns":[{"name":"a","type":3}]}',
        "columns[0].type",
    ),
    "a column's unknown member": (
        "tables.define",
        b'{"table":"q","columns":[{"name":"a","type":"text","uniqe":true}]}',
        "columns[0].uniqe",
    ),
    "a member of an operation": (
        "rows.transact",
        b'{"operations":[{"op":"insert","table":"a","rows":[]},{"op":"delete","table":"a","where":3}]}',
        "operations[1].where",
    ),
    "an unknown operation": ("rows.transact", b'{"operations":[{"op":"select"}]}', "operations[0].op"),
    "no operation": ("rows.transact", b'{"operations":[{}]}', "operations[0].op"),
    "an order": ("rows.select", b'{"table":"q","order_by":["a",1]}', "order_by[1]"),
    "a missing member": ("rows.insert", b'{"table":"q"}', "rows"),
}


@pytest.mark.parametrize(("tail", "payload", "path"), PATHS.values(), ids=PATHS.keys())
def test_refusals_name_the_place(tail: str, payload: bytes, path: str) -> None:
    """A refusal says where in the request it happened."""
    assert refusal(tail, payload).path == path


def test_null_members_are_absent() -> None:
    """A null member counts as left out, inside definitions too."""
    request = decode_request(OPERATIONS["rows.select"], b'{"table":"q","limit":null,"cursor":null}')
    assert request == p.SelectRequest(table="q")
    request = decode_request(
        OPERATIONS["tables.define"],
        b'{"table":"q","columns":[{"name":"a","type":"text","required":null,"default":null}]}',
    )
    assert request == p.DefineRequest(table="q", columns=[p.ColumnDefinition(name="a", type="text")])


def test_nulls_in_rows_and_filters_stay() -> None:
    """A null inside rows, filters or sets is a value and is not dropped."""
    request = decode_request(
        OPERATIONS["rows.update"], b'{"table":"q","where":{"a":null},"set":{"b":null},"all_rows":null}'
    )
    assert request == p.UpdateRequest(table="q", where={"a": None}, set={"b": None})


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.binary(max_size=60) | JSON_VALUES.map(lambda v: json.dumps(v).encode()),
)
def test_nothing_but_faults_comes_out_of_the_decoder(tail: str, payload: bytes) -> None:
    """No bytes at all make the decoder raise anything but a coded fault of the caller's."""
    try:
        decode_request(OPERATIONS[tail], payload)
    except Fault as fault:
        number = fault.number
    else:
        number = 400
    assert number == 400


REQUESTS = [
    p.InsertRequest(table="q", rows=[{"a": 1, "b": None, "c": [1, {"x": "é"}]}], returning=False),
    p.UpsertRequest(table="q", rows=[{"a": 1}], key=["a"], merge={"b": "$max"}),
    p.SelectRequest(
        table="q", where={"$or": [{"a": 1}]}, columns=["a"], order_by=["-a"], limit=3, cursor="x"
    ),
    p.SearchRequest(table="q", query="vogon", columns=["text"]),
    p.AggregateRequest(table="q", measures={"n": {"$count": "*"}}, group_by=["a"]),
    p.UpdateRequest(table="q", where={"id": 7}, set={"n": {"$inc": 1}}, max_rows=1, returning=True),
    p.DeleteRequest(table="q", where={}, all_rows=True),
    p.TransactRequest(
        operations=[
            p.InsertRequest(table="a", rows=[{}]),
            p.DeleteRequest(table="b", where={"id": 1}),
        ]
    ),
    p.DefineRequest(
        table="q",
        columns=[p.ColumnDefinition(name="a", type="string", max_length=9, default="x")],
        indexes=[p.IndexDefinition(columns=["a"], unique=True)],
    ),
    p.ListRequest(),
    p.DropRequest(table="q", confirm="q"),
    p.ApplyRequest(target="ab12", dry_run=True),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_survive_the_wire(request_: Any) -> None:
    """What a client encodes is what the service decodes."""
    operation = next(op for op in OPERATIONS.values() if op.request is type(request_))
    assert decode_request(operation, p.encode_request(request_)) == request_


REPLIES = [
    ("rows.insert", p.RowsReply(count=1, rows=[{"id": 1, "text": "é"}])),
    ("rows.select", p.PageReply(rows=[{"id": 1}], next_cursor="abc")),
    ("rows.select", p.PageReply(rows=[], next_cursor=None)),
    ("rows.aggregate", p.AggregateReply(rows=[{"n": 1.5}], truncated=True)),
    ("rows.transact", p.TransactReply(results=[p.RowsReply(count=0), p.RowsReply(count=2)])),
    ("tables.list", p.TablesReply(tables=[p.TableSummary(table="q", rows=1, bytes=8192)])),
    ("tables.drop", p.EmptyReply()),
    ("migrations.status", p.StatusReply(current=None, pending=[], applied=[], drift=[])),
]


@pytest.mark.parametrize(
    ("tail", "reply"), REPLIES, ids=lambda value: getattr(type(value), "__name__", value)
)
def test_replies_survive_the_wire(tail: str, reply: Any) -> None:
    """What the service encodes is what a client decodes."""
    assert decode_reply(OPERATIONS[tail], p.encode_reply(reply)) == reply


def test_page_end_is_a_null_on_the_wire() -> None:
    """The last page says `next_cursor: null` rather than leaving it out."""
    assert json.loads(p.encode_reply(p.PageReply(rows=[]))) == {"result": {"rows": [], "next_cursor": None}}


def test_replies_may_gain_members() -> None:
    """A client reads the reply of a newer service."""
    payload = b'{"result":{"count":1,"rows":[],"took_ms":3},"trace":"x"}'
    assert decode_reply(OPERATIONS["rows.insert"], payload) == p.RowsReply(count=1)


@pytest.mark.parametrize(
    "payload", [b"", b"pong", b"[]", b"{}", b'{"result":{"count":"1"}}', b'{"error":"x"}']
)
def test_replies_not_as_agreed_are_internal(payload: bytes) -> None:
    """A reply of something else than the row service is a coded fault, not a crash."""
    with pytest.raises(Fault) as caught:
        decode_reply(OPERATIONS["rows.insert"], payload)
    assert caught.value.code == "internal"


def test_faults_survive_the_wire() -> None:
    """Every member of a fault arrives, and the headers say it again."""
    sent = Fault(
        "rate_limited",
        "Too fast,\r\nreally.",
        path="rows[1].n",
        hint="Wait.",
        retry_after=0.25,
        details={"a": 1},
    )
    payload, headers = p.encode_fault(sent)
    with pytest.raises(Fault) as caught:
        decode_reply(OPERATIONS["rows.insert"], payload)
    for member in ("code", "message", "path", "hint", "retry_after", "details"):
        assert getattr(caught.value, member) == getattr(sent, member)
    assert headers == {p.ERROR_HEADER: "Too fast, really.", p.ERROR_CODE_HEADER: "429"}


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_message_fits_a_header(message: str) -> None:
    """Text of a stranger in a message breaks neither the headers nor the payload."""
    payload, headers = p.encode_fault(Fault("invalid_name", message))
    assert json.loads(payload)["error"]["code"] == "invalid_name"
    assert headers[p.ERROR_HEADER].isascii()
    assert not set(headers[p.ERROR_HEADER]) & {"\r", "\n"}


def test_unknown_codes_become_internal() -> None:
    """A code that this client does not know is told, and handled as internal."""
    with pytest.raises(Fault) as caught:
        decode_reply(OPERATIONS["rows.insert"], b'{"error":{"code":"on_fire","message":"Hot."}}')
    assert caught.value.code == "internal"
    assert "on_fire" in caught.value.message


def test_codes_outside_the_contract_cannot_be_raised() -> None:
    """A misspelt code fails where it is written, not at the plugin."""
    with pytest.raises(ValueError, match="not a code of the contract"):
        Fault("unique_violaton", "x")


def test_python_kinds_with_one_text_form_are_written_so() -> None:
    """Datetimes, dates, decimals and UUIDs travel as the contract's text."""
    row = {
        "at": dt.datetime(2026, 11, 23, 4, 5, 6, 7, tzinfo=dt.UTC),
        "day": dt.date(2026, 11, 23),
        "price": decimal.Decimal("1E+2"),
        "key": uuid.UUID(int=1),
        "tags": ("a", "b"),
    }
    sent = json.loads(p.encode_request(p.InsertRequest(table="q", rows=[row])))["rows"][0]
    assert sent == {
        "at": "2026-11-23T04:05:06.000007+00:00",
        "day": "2026-11-23",
        "price": "100",
        "key": "00000000-0000-0000-0000-000000000001",
        "tags": ["a", "b"],
    }


REFUSED_VALUES = {
    "NaN": (float("nan"), "type_mismatch"),
    "Infinity": (float("inf"), "type_mismatch"),
    "a naive datetime": (dt.datetime(2026, 11, 23), "type_mismatch"),  # noqa: DTZ001 - that it is naive is the point
    "bytes": (b"x", "type_mismatch"),
    "a set": ({1}, "type_mismatch"),
    "a member name that is no text": ({1: "x"}, "type_mismatch"),
    "half a surrogate pair": ("\ud800", "out_of_range"),
    "a decimal that is no number": (decimal.Decimal("NaN"), "type_mismatch"),
}


@pytest.mark.parametrize(("value", "code"), REFUSED_VALUES.values(), ids=REFUSED_VALUES.keys())
def test_values_that_are_no_json_are_refused_by_the_client(value: object, code: str) -> None:
    """What has no JSON form is refused before it is sent, with its place."""
    with pytest.raises(Fault) as caught:
        p.encode_request(p.InsertRequest(table="q", rows=[{}, {"n": [value]}]))
    assert caught.value.code == code
    assert caught.value.path == "rows[1].n[0]"


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "soon", "1e3", "٣", "9" * 30])
def test_bad_timeouts_are_refused(text: str) -> None:
    """A timeout header that is no positive whole number of milliseconds is refused."""
    with pytest.raises(Fault) as caught:
        p.timeout_from_headers({p.TIMEOUT_HEADER: text}, 5.0)
    assert caught.value.code == "invalid_request"


def test_timeouts_are_milliseconds() -> None:
    """The header is milliseconds, the result seconds; without it the default stands."""
    assert p.timeout_from_headers({p.TIMEOUT_HEADER: "1500"}, 5.0) == 1.5
    assert p.timeout_from_headers(None, 5.0) == 5.0


@pytest.mark.parametrize("name", ["quotes", "a", "0", "a-b_c", "x" * 48])
def test_plugin_names_that_are_allowed(name: str) -> None:
    """The contract's plugin names pass."""
    assert p.check_plugin(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", "_a", "a.b", "a b", "x" * 49, "é", "a\n", "*", ">", 5, None]
)
def test_plugin_names_that_are_refused(name: Any) -> None:
    """Everything else is refused, wildcards and line ends included."""
    with pytest.raises(Fault) as caught:
        p.check_plugin(name)
    assert caught.value.code == "invalid_name"


@pytest.mark.parametrize("name", ["", "1a", "_a", "A", "a-b", "a.b", 'a"b', "x" * 64, "a\n", "sqlite_master"])
def test_identifiers_that_are_refused(name: str) -> None:
    """A table, column or index name outside the contract is refused."""
    with pytest.raises(Fault) as caught:
        p.check_identifier(name, "table", "table")
    assert (caught.value.code, caught.value.path) == ("invalid_name", "table")


def test_sql_keywords_are_names() -> None:
    """Names are quoted in SQL, so its keywords are legal."""
    assert p.check_identifier("select", "table") == "select"


def test_subjects() -> None:
    """The subject is the root, the version, the plugin and the operation."""
    assert p.subject_for("quotes", OPERATIONS["rows.insert"]) == "storage.v1.quotes.rows.insert"


SPACES = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
NAMES = st.sampled_from(["a", "b", "table", "n:", '\\"', '\\":', "", "é", " :"])


@st.composite
def json_texts(draw: st.DrawFn, depth: int = 0) -> str:
    """JSON as anyone may write it: blanks anywhere, names twice, colons in texts."""
    kind = draw(st.integers(0, 3 if depth < 3 else 1))
    if kind == 0:
        return str(draw(st.sampled_from(["1", "-0", "2.50", "1e999", "9" * 30, "true", "null", "NaN", "01"])))
    if kind == 1:
        return f'"{draw(NAMES)}{draw(st.sampled_from(["", ":", "x", chr(92) + "ud800"]))}"'
    inner = json_texts(depth=depth + 1)
    if kind == 2:
        return "[" + ",".join(draw(st.lists(inner, max_size=3))) + "]"
    members = draw(st.lists(st.tuples(SPACES, NAMES, SPACES, SPACES, inner), max_size=3))
    return "{" + ",".join(f'{a}"{name}"{b}:{c}{value}' for a, name, b, c, value in members) + "}"


@given(json_texts())
def test_json_is_read_the_same_with_and_without_msgspec(text: str) -> None:
    """The faster decoder changes no value, misses no member that stands twice, has no words of its own."""

    def read() -> object:
        try:
            return repr(load_json(text.encode()))
        except Fault as fault:
            return fault.code, fault.message

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_module, "_decode_faster", None)
        assert read() == found


BODIES: dict[str, Any] = {
    "rows.select": {
        "table": "t", "where": {"n": 1}, "columns": ["a"], "order_by": ["-a"], "limit": 5, "cursor": "c",
    },
    "rows.insert": {"table": "t", "rows": [{"a": 1}], "returning": False},
    "rows.update": {
        "table": "t", "where": {}, "set": {"n": 1}, "max_rows": 3, "all_rows": True, "returning": True,
    },
    "rows.delete": {"table": "t", "where": {}, "max_rows": 3, "all_rows": True, "returning": True},
}  # fmt: skip


@pytest.mark.parametrize("tail", BODIES)
@given(data=st.data())
def test_requests_are_read_the_same_the_short_way(tail: str, data: st.DataObject) -> None:
    """Whatever a member holds or lacks, the short way gives the request or the fault of the converters."""
    body = dict(BODIES[tail])
    values = [None, True, 1, 1.0, "x", [], [1], ["a"], [{}], {}, {"a": None}, ...]
    for name in data.draw(st.lists(st.sampled_from([*body, "more"]), max_size=2, unique=True)):
        value = data.draw(st.sampled_from(values))
        if value is ...:
            body.pop(name, None)
        else:
            body[name] = value

    def read() -> object:
        try:
            return decode_request(OPERATIONS[tail], json.dumps(body).encode())
        except Fault as fault:
            return fault.code, fault.message, fault.path, fault.hint

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "_ALL_PLAIN", {})
        assert read() == found
