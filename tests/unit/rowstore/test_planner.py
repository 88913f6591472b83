"""Plans without a database: shapes are shared, nothing of a request reaches SQL, guards are atomic."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosey_rowstore.engine.model import Column, ColumnType, Dialect, Limits, Result, Table
from rosey_rowstore.engine.planner import Planner, tables_of
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.engine.sqlite_functions import register
from rosey_rowstore.engine.tables import Cache
from rosey_rowstore.protocol import OPERATIONS, Fault, PageReply
from rosey_rowstore.protocol.convert import structure_reply, structure_request
from unit.rowstore.engine_tables import EVERYTHING, NAMES

TABLES = {"things": EVERYTHING}
BOTH = pytest.mark.parametrize("planner", [Planner(dialect) for dialect in Dialect], ids=list(Dialect))


def plan(
    planner: Planner, tail: str, *, limits: Limits | None = None, plugin: str = "q", **members: Any
) -> Plan:
    request: Any = structure_request({"table": "things", **members}, OPERATIONS[f"rows.{tail}"].request)
    return planner.plan(request, TABLES, limits or Limits(), plugin=plugin)


def refusal(planner: Planner, tail: str, **members: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        plan(planner, tail, **members)
    return caught.value


@BOTH
@pytest.mark.parametrize(
    ("tail", "one", "other"),
    [
        ("select", {"where": {"p0": 1}}, {"where": {"p0": -(2**63)}}),
        ("select", {"where": {"p0": {"$in": [1]}}}, {"where": {"p0": {"$in": [1, 2, 3]}}}),
        ("insert", {"rows": [{"p0": 1}]}, {"rows": [{"p0": None}]}),
        (
            "update",
            {"where": {"id": 1}, "set": {"p0": {"$inc": 1}}},
            {"where": {"id": 2}, "set": {"p0": {"$inc": 9}}},
        ),
        ("delete", {"where": {"select": "x"}}, {"where": {"select": "'; DROP TABLE things; --"}}),
    ],
)
def test_values_do_not_change_the_statement(planner: Planner, tail: str, one: Any, other: Any) -> None:
    """Two requests that differ in values share one SQL text, the same object, so that it is prepared once."""
    first, second = plan(planner, tail, **one), plan(planner, tail, **other)
    assert first.statements[0].sql is second.statements[0].sql


def test_rows_of_any_number_share_a_statement_on_postgres() -> None:
    """Two rows and two hundred are one shape, so that no number of rows fills the cache."""
    planner = Planner(Dialect.POSTGRES)
    texts = {plan(planner, "insert", rows=[{"p0": 1}] * count).statements[0].sql for count in (2, 3, 200)}
    assert len(texts) == 1


@BOTH
def test_plugins_do_not_share_shapes_and_generations_part_them(planner: Planner) -> None:
    """A table that changed gives statements of its new columns."""

    def table(generation: int, name: str) -> Table:
        columns = (
            Column(name="id", type=ColumnType.INTEGER, nullable=False),
            Column(name=name, type=ColumnType.TEXT),
        )
        return Table(name="t", columns=columns, primary_key=("id",), generation=generation)

    request: Any = structure_request({"table": "t"}, OPERATIONS["rows.select"].request)
    sql = [
        planner.plan(request, {"t": table(generation, name)}, Limits(), plugin=plugin).statements[0].sql
        for plugin, generation, name in [("a", 1, "old"), ("a", 2, "new"), ("b", 1, "other")]
    ]
    assert [name in text for name, text in zip(("old", "new", "other"), sql, strict=True)] == [True] * 3
    assert not any("old" in text for text in sql[1:])


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    """However many shapes come, a bounded number stays, the ones in use among them."""
    cache = Cache(most=3)
    for number in range(10):
        cache.get(number, object)
        cache.get("kept", object)
    assert 1 <= len(cache) <= 3
    made: list[str] = []
    cache.get("kept", lambda: made.append("again"))
    assert made == []


@BOTH
def test_names_are_quoted_and_values_are_parameters(planner: Planner) -> None:
    """A column called like a keyword or like a parameter is only a column, and no value stands in SQL."""
    found = plan(planner, "insert", rows=[{"select": "SECRET", "p0": 12345}]).statements[0]
    assert '"select"' in found.sql
    assert "SECRET" not in found.sql
    assert "12345" not in found.sql


ATOMIC = [
    ("insert", {"rows": [{"p0": 1}]}, False),
    ("insert", {"rows": [{"p0": 1}] * 20}, False),
    ("insert", {"rows": [{"select": "x" * 90_000}] * 2}, True),
    ("insert", {"rows": [{"select": "x" * 90_000}] * 2, "returning": False}, False),
    ("update", {"where": {"id": 1}, "set": {"p0": 1}}, False),
    ("update", {"where": {"p0": 1}, "set": {"p0": 1}}, False),
    ("update", {"where": {"p0": 1}, "set": {"p0": 1}, "max_rows": 5}, True),
    ("update", {"where": {"id": 1}, "set": {"p0": 1}, "max_rows": 5}, False),
    ("update", {"where": {"p0": 1}, "set": {"p0": 1}, "returning": True}, True),
    ("delete", {"where": {"a_string": "a"}, "max_rows": 1}, False),
    ("select", {}, False),
]


@BOTH
@pytest.mark.parametrize(("tail", "members", "atomic"), ATOMIC)
def test_what_may_be_refused_at_its_end_is_atomic(
    planner: Planner, tail: str, members: Any, atomic: bool
) -> None:
    """A plan needs its own transaction exactly where its end may take back what it did."""
    assert plan(planner, tail, **members).atomic is atomic


@BOTH
def test_limits_of_a_request(planner: Planner) -> None:
    """Depth, terms, values and rows each have a most: at it a request passes, past it there is a code."""

    def nested(depth: int) -> dict[str, Any]:
        where: dict[str, Any] = {"p0": 1}
        for _ in range(depth):
            where = {"$not": where}
        return where

    def terms(count: int) -> dict[str, Any]:
        return {"$or": [{"p0": number} for number in range(count)]}

    assert plan(planner, "select", where=nested(16))
    assert refusal(planner, "select", where=nested(17)).code == "request_too_large"
    assert plan(planner, "select", where=terms(200))
    assert refusal(planner, "select", where=terms(201)).code == "request_too_large"
    assert plan(planner, "select", where={"p0": {"$in": list(range(1000))}})
    assert refusal(planner, "select", where={"p0": {"$in": list(range(1001))}}).code == "request_too_large"
    assert plan(planner, "insert", rows=[{}] * 1000)
    assert refusal(planner, "insert", rows=[{}] * 1001).code == "too_many_rows"


@BOTH
def test_tables_that_are_not_served(planner: Planner) -> None:
    """A missing table, an impossible name and a table without a key are told apart."""
    keyless = Table(name="k", columns=(Column(name="a", type=ColumnType.TEXT),), primary_key=())
    request: Any = structure_request({"table": "thing"}, OPERATIONS["rows.select"].request)
    for name, code, word in [
        ("thing", "table_not_found", "things"),
        ("No Name", "invalid_name", "No Name"),
        ("k", "table_not_found", "not served"),
    ]:
        request = structure_request({"table": name}, OPERATIONS["rows.select"].request)
        with pytest.raises(Fault) as caught:
            planner.plan(request, {**TABLES, "k": keyless}, Limits(), plugin="q")
        assert (caught.value.code, word in caught.value.message) == (code, True)
    assert tables_of(request) == ("k",)


# pages


def _page(planner: Planner, **members: Any) -> PageReply:
    """Answer a select of `select` and the key with ten rows of 200 bytes each."""
    found = plan(
        planner,
        "select",
        columns=["select"],
        limits=Limits(reply_size=members.pop("room", 1 << 20)),
        **members,
    )
    result = Result([("x" * 200, number) for number in range(10)], 10)
    return structure_reply(json.loads(found.finish([result])), PageReply)


@BOTH
def test_a_cursor_belongs_to_its_query(planner: Planner) -> None:
    """A cursor goes on with its own query and limit, and is refused with any other, or changed, or cut."""
    cursor = _page(planner, limit=9).next_cursor
    assert cursor is not None
    assert plan(planner, "select", columns=["select"], limit=3, cursor=cursor)
    others: list[dict[str, Any]] = [
        {"where": {"p0": 1}},
        {"order_by": ["p0"]},
        {"plugin": "other"},
        {"cursor": cursor[:-1]},
        {"cursor": "A" + cursor[1:]},
        {"cursor": cursor + "A"},
        {"cursor": "é"},
    ]
    for other in others:
        fault = refusal(planner, "select", **{"cursor": cursor, **other})
        assert (fault.code, fault.path) == ("invalid_request", "cursor"), other


@BOTH
def test_a_page_ends_where_the_reply_is_full(planner: Planner) -> None:
    """Rows past the room wait for the next page; one that alone passes it is refused."""
    page = _page(planner, limit=10, room=2048)
    assert 1 <= len(page.rows) < 10
    assert page.next_cursor is not None
    assert len(json.dumps(page.rows)) < 1100
    with pytest.raises(Fault) as caught:
        plan(planner, "select", columns=["select"], limits=Limits(reply_size=2048)).finish(
            [Result([("x" * 3000, 1)], 1)]
        )
    assert caught.value.code == "reply_too_large"


# anything at all

_NAMES = st.sampled_from(
    [*NAMES.values(), "id", "p0", "nope", "$and", "$or", "$not", "$eq", "$in", "$like", "$inc", "$x"]
)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["2026-11-23", "2026-11-23T00:00:00Z", "1.5", "*", "-p0", "id", "$set", "$max"])
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
_MEMBERS = st.dictionaries(
    st.sampled_from(
        [
            "where",
            "columns",
            "order_by",
            "limit",
            "cursor",
            "rows",
            "key",
            "merge",
            "set",
            "max_rows",
            "all_rows",
            "returning",
            "measures",
            "group_by",
            "query",
            "operations",
        ]
    ),
    _JSON,
    max_size=5,
)
_WHERE = st.recursive(
    st.dictionaries(
        st.sampled_from(list(NAMES.values())),
        _LEAVES
        | st.dictionaries(
            st.sampled_from(["$eq", "$ne", "$gt", "$lte", "$in", "$nin", "$like", "$icontains", "$null"]),
            _LEAVES | st.lists(_LEAVES, max_size=3),
            max_size=2,
        ),
        max_size=2,
    ),
    lambda inner: st.fixed_dictionaries(
        {}, optional={"$and": st.lists(inner, max_size=3), "$or": st.lists(inner, max_size=3), "$not": inner}
    ),
    max_leaves=6,
)
_TAILS = ["insert", "upsert", "select", "search", "aggregate", "update", "delete", "transact"]


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    """SQLite with the table in it, empty."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    register(connection)
    columns = ", ".join(f'"{column.name}"' for column in EVERYTHING.columns[1:])
    connection.execute(f'CREATE TABLE "things" ("id" INTEGER PRIMARY KEY, {columns}, UNIQUE ("a_string"))')
    yield connection
    connection.close()


@given(st.sampled_from(_TAILS), _MEMBERS)
def test_any_members_give_a_plan_or_a_fault(tail: str, members: dict[str, Any]) -> None:
    """Whatever JSON stands in a request, the planner raises nothing but a fault."""
    for dialect in Dialect:
        try:
            plan(Planner(dialect), tail, **members)
        except Fault as fault:
            assert fault.code not in ("internal", "unavailable")  # noqa: PT017 - a plan is as good


@given(where=_WHERE)
def test_any_filter_compiles_and_runs(connection: sqlite3.Connection, where: dict[str, Any]) -> None:
    """A filter is refused alike on both dialects, or SQLite takes the statement made of it."""
    codes = []
    for dialect in Dialect:
        try:
            found = plan(Planner(dialect), "select", where=where)
        except Fault as fault:
            codes.append((fault.code, fault.path, fault.message))
            continue
        codes.append(None)
        if dialect is Dialect.SQLITE:
            statement = found.statements[0]
            connection.execute(statement.sql, statement.parameters).fetchall()
    assert codes[0] == codes[1]


_ROW = st.dictionaries(st.sampled_from([*NAMES.values(), "id", "nope"]), _LEAVES | _JSON, max_size=3)
_LIMITS = Limits()
_EXPERIENCED = {dialect: Planner(dialect) for dialect in Dialect}


def _outcome(planner: Planner, tail: str, members: dict[str, Any]) -> object:
    try:
        found = plan(planner, tail, limits=_LIMITS, **members)
    except Fault as fault:
        return fault.code, fault.path, fault.message, fault.hint
    statements = [(statement.sql, list(statement.parameters)) for statement in found.statements]
    # The moment that SQLite gets with an insert is not the same twice.
    moments = [[value for value in values if not _is_moment(value)] for _, values in statements]
    return [sql for sql, _ in statements], moments, found.writes, found.atomic, found.shared is None


def _is_moment(value: Any) -> bool:
    return type(value) is str and len(value) == 27 and value.endswith("Z")


@given(
    tail=st.sampled_from(["insert", "select"]),
    one=_ROW,
    other=_ROW,
    more=st.fixed_dictionaries(
        {},
        optional={
            "order_by": st.sampled_from([["id"], ["-p0"], ["nope"]]),
            "limit": st.sampled_from([0, 1, 7, 1001]),
            "columns": st.sampled_from([["id"], ["p0", "id"], ["nope"], []]),
        },
    ),
    returning=st.booleans(),
)
def test_a_request_like_others_before_is_planned_as_the_first(
    tail: str, one: dict[str, Any], other: dict[str, Any], more: dict[str, Any], returning: bool
) -> None:
    """What is kept of earlier requests changes no statement, value or refusal of a later one."""
    values = {**one, **{name: other.get(name, value) for name, value in one.items()}}
    for dialect, experienced in _EXPERIENCED.items():
        for row in (one, values, other):
            members = {"rows": [row], "returning": returning} if tail == "insert" else {"where": row, **more}
            assert _outcome(experienced, tail, members) == _outcome(Planner(dialect), tail, members)


@BOTH
def test_other_limits_count_for_a_request_like_one_before(planner: Planner) -> None:
    """A page that a plugin may ask for no longer is refused, though the same was planned a moment ago."""
    request = {"where": {"p0": 1}, "limit": 50}
    plan(planner, "select", limits=Limits(), **request)
    with pytest.raises(Fault) as caught:
        plan(planner, "select", limits=Limits(rows_per_page=20), **request)
    assert caught.value.code == "out_of_range"


@BOTH
def test_a_row_that_may_not_come_back_whole_is_atomic_after_small_ones(planner: Planner) -> None:
    """What is kept of a small row does not let a large one be written whose reply would be refused."""
    limits = Limits(reply_size=2000)
    small, large = ({"a_text": "x" * length} for length in (1, 1500))
    assert not plan(planner, "insert", limits=limits, rows=[small]).atomic
    assert not plan(planner, "insert", limits=limits, rows=[small]).atomic
    assert plan(planner, "insert", limits=limits, rows=[large]).atomic


@BOTH
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * 20, None),
        ("é" * 20, None),
        ("x" * 21, "value_too_large"),
        ("é" * 21, "value_too_large"),
        ("\0", "out_of_range"),
    ],
    ids=["full", "full of umlauts", "one more", "one more umlaut", "NUL"],
)
def test_a_text_after_one_of_its_column_is_checked_as_the_first(
    planner: Planner, text: str, code: str | None
) -> None:
    """The short way of texts takes what the column holds, and refuses the rest with its place."""
    plan(planner, "insert", limits=_LIMITS, rows=[{"a_string": "x"}])
    if code is None:
        (statement,) = plan(planner, "insert", limits=_LIMITS, rows=[{"a_string": text}]).statements
        assert text in statement.parameters
        return
    with pytest.raises(Fault) as caught:
        plan(planner, "insert", limits=_LIMITS, rows=[{"a_string": text}])
    assert (caught.value.code, caught.value.path) == (code, "rows[0].a_string")
