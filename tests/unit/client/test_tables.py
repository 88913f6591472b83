"""Tables and transactions: what each method sends, and what it gives back."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid

import pytest

from rosey_rowstore.protocol import Fault
from rosey_storage import Column, Index, InvalidName, InvalidRequest, TypeMismatch, UniqueViolation
from rosey_storage.testing import scripted_storage

STORED = {"count": 1, "rows": [{"id": 7}]}

CASES = {
    "define": (
        lambda t: t.define(
            [
                Column("text", "text", required=True),
                Column("by", "string", max_length=64, unique=True, default="x", references="users"),
            ],
            indexes=[Index("by"), Index("by", "text", unique=True)],
            dry_run=True,
        ),
        "tables.define",
        {
            "table": "t",
            "columns": [
                {"name": "text", "type": "text", "required": True},
                {
                    "name": "by",
                    "type": "string",
                    "max_length": 64,
                    "unique": True,
                    "default": "x",
                    "references": "users",
                },
            ],
            "indexes": [{"columns": ["by"]}, {"columns": ["by", "text"], "unique": True}],
            "dry_run": True,
        },
        {"changes": ["added"]},
        ["added"],
    ),
    "drop": (lambda t: t.drop(confirm="t"), "tables.drop", {"table": "t", "confirm": "t"}, {}, None),
    "get": (
        lambda t: t.get(7),
        "rows.select",
        {"table": "t", "where": {"id": 7}, "limit": 1},
        {"rows": [{"id": 7}]},
        {"id": 7},
    ),
    "get none": (
        lambda t: t.get("x"),
        "rows.select",
        {"table": "t", "where": {"id": "x"}, "limit": 1},
        {"rows": []},
        None,
    ),
    "insert": (
        lambda t: t.insert({"n": 1}),
        "rows.insert",
        {"table": "t", "rows": [{"n": 1}]},
        STORED,
        {"id": 7},
    ),
    "insert_many": (
        lambda t: t.insert_many([{"n": 1}, {"n": 2}]),
        "rows.insert",
        {"table": "t", "rows": [{"n": 1}, {"n": 2}], "returning": False},
        {"count": 2, "rows": []},
        2,
    ),
    "insert_many returning": (
        lambda t: t.insert_many([{"n": 1}], returning=True),
        "rows.insert",
        {"table": "t", "rows": [{"n": 1}]},
        STORED,
        [{"id": 7}],
    ),
    "upsert": (
        lambda t: t.upsert({"user": "b", "n": 1}, key=["user"], merge={"n": "$inc"}),
        "rows.upsert",
        {"table": "t", "rows": [{"user": "b", "n": 1}], "key": ["user"], "merge": {"n": "$inc"}},
        STORED,
        {"id": 7},
    ),
    "upsert_many": (
        lambda t: t.upsert_many([{"user": "b"}], key=("user",)),
        "rows.upsert",
        {"table": "t", "rows": [{"user": "b"}], "key": ["user"], "returning": False},
        {"count": 1},
        1,
    ),
    "update": (
        lambda t: t.update({"id": 7}, {"n": {"$inc": 1}}),
        "rows.update",
        {"table": "t", "where": {"id": 7}, "set": {"n": {"$inc": 1}}},
        {"count": 3},
        3,
    ),
    "update returning": (
        lambda t: t.update({}, {"n": 1}, returning=True, max_rows=5, all_rows=True),
        "rows.update",
        {"table": "t", "where": {}, "set": {"n": 1}, "returning": True, "max_rows": 5, "all_rows": True},
        STORED,
        [{"id": 7}],
    ),
    "delete": (
        lambda t: t.delete({"n": {"$lt": 0}}, max_rows=100),
        "rows.delete",
        {"table": "t", "where": {"n": {"$lt": 0}}, "max_rows": 100},
        {"count": 4},
        4,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_each_method_sends_its_request_and_gives_its_result(name):
    """The body holds what was given and no member with its default; the result is what the docs show."""
    call, tail, body, reply, result = CASES[name]
    storage, script = scripted_storage(reply)
    async with storage:
        assert await call(storage.table("t")) == result
    assert (script.sent[0].tail, script.sent[0].body) == (tail, body)


async def test_select_search_and_aggregate_send_all_they_are_given():
    """Pages and groups can be iterated, counted, and tell how they go on."""
    storage, script = scripted_storage(
        {"rows": [{"id": 1}], "next_cursor": "c2"},
        {"rows": [{"id": 2}]},
        {"rows": [{"by": "a", "n": 3}], "truncated": True},
    )
    async with storage:
        t = storage.table("t")
        page = await t.select({"n": 1}, columns=["id"], order_by=["-n"], limit=20, cursor="c1")
        found = await t.search("vogon poetry", columns=["text"], where={"n": 1}, order_by=["n"], limit=2)
        groups = await t.aggregate(
            group_by=["by"], measures={"n": {"$count": "*"}}, where={"n": 1}, order_by=["-n"], limit=1
        )
    assert (page.rows, page.next_cursor, len(page)) == ([{"id": 1}], "c2", 1)
    assert [row["id"] for row in found] == [2]
    assert (list(groups), groups.truncated, len(groups)) == ([{"by": "a", "n": 3}], True, 1)
    assert [sent.body for sent in script.sent] == [
        {"table": "t", "where": {"n": 1}, "columns": ["id"], "order_by": ["-n"], "limit": 20, "cursor": "c1"},
        {
            "table": "t",
            "query": "vogon poetry",
            "columns": ["text"],
            "where": {"n": 1},
            "order_by": ["n"],
            "limit": 2,
        },
        {
            "table": "t",
            "measures": {"n": {"$count": "*"}},
            "where": {"n": 1},
            "group_by": ["by"],
            "order_by": ["-n"],
            "limit": 1,
        },
    ]


async def test_rows_walks_every_page():
    """It asks on with the cursor of the page before until there is none."""
    storage, script = scripted_storage(
        {"rows": [{"id": 1}, {"id": 2}], "next_cursor": "a"},
        {"rows": [], "next_cursor": "b"},
        {"rows": [{"id": 3}]},
    )
    async with storage:
        found = [row["id"] async for row in storage.table("t").rows({"n": 1}, page_size=2)]
    assert found == [1, 2, 3]
    assert [sent.body.get("cursor") for sent in script.sent] == [None, "a", "b"]


async def test_values_of_python_become_their_text():
    """An aware datetime, a date, a decimal and a UUID need no help."""
    storage, script = scripted_storage(STORED)
    moment = dt.datetime(2026, 11, 23, 4, 5, 6, 7, tzinfo=dt.UTC)
    async with storage:
        await storage.table("t").insert(
            {
                "at": moment,
                "day": moment.date(),
                "price": decimal.Decimal("1.50"),
                "key": uuid.UUID(int=1),
                "tags": ("a", "b"),
            }
        )
    assert script.sent[0].body["rows"] == [
        {
            "at": "2026-11-23T04:05:06.000007+00:00",
            "day": "2026-11-23",
            "price": "1.50",
            "key": "00000000-0000-0000-0000-000000000001",
            "tags": ["a", "b"],
        }
    ]


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda t: t.select(order_by="score"), "order_by"),
        (lambda t: t.select(columns="score"), "columns"),
        (lambda t: t.select(columns=["a", 5]), "columns[1]"),
        (lambda t: t.select([("a", 1)]), "where"),
        (lambda t: t.insert([{"n": 1}]), "rows[0]"),
        (lambda t: t.insert(None), "rows[0]"),
        (lambda t: t.insert_many({"n": 1}), "rows"),
        (lambda t: t.insert_many([5]), "rows[0]"),
        (lambda t: t.insert_many(5), "rows"),
        (lambda t: t.upsert({"n": 1}, key="user"), "key"),
        (lambda t: t.upsert({"n": 1}, key=["user"], merge=["n"]), "merge"),
        (lambda t: t.update({"id": 1}, "n = 1"), "set"),
        (lambda t: t.delete(None), "where"),
        (lambda t: t.aggregate(measures={"n": "$count"}), "measures.n"),
        (lambda t: t.define(["text"]), "columns[0]"),
        (lambda t: t.define([], indexes=["by"]), "indexes[0]"),
        (lambda t: t.get(None), None),
        (lambda t: t.get({"$gt": 0}), None),
    ],
)
async def test_what_python_would_take_amiss_is_refused_with_its_place(call, path):
    """A text is no list of names, a list no row: the error says where, and nothing is sent."""
    storage, script = scripted_storage()
    async with storage:
        with pytest.raises(TypeMismatch) as caught:
            await call(storage.table("t"))
    assert caught.value.path == path
    assert caught.value.plugin == "tests"
    assert caught.value.operation
    assert script.sent == []


@pytest.mark.parametrize("name", ["", "Quotes", "1a", "a-b", "a" * 64, "sqlite_x", "_rosey_replies", "a b"])
async def test_a_table_that_cannot_be_is_refused(name):
    """The name is checked before anything is sent."""
    storage, _ = scripted_storage()
    async with storage:
        with pytest.raises(InvalidName, match="no table name"):
            storage.table(name)
        with pytest.raises(InvalidName, match="no table name"):
            storage.transaction().table(name)


# Transactions


async def test_a_transaction_is_sent_as_one_request_when_its_block_ends():
    """Nothing is sent before; afterwards each write has its result."""
    storage, script = scripted_storage(
        {
            "results": [
                {"count": 1, "rows": [{"id": 7}]},
                {"count": 2},
                {"count": 1, "rows": [{"id": 8}]},
                {"count": 0},
                {"count": 2, "rows": [{"id": 9}, {"id": 8}]},
            ]
        }
    )
    async with storage:
        async with storage.transaction(idempotency_key="k1") as tx:
            first = tx.table("a").insert({"n": 1})
            second = tx.table("b").update({"id": 1}, {"n": {"$inc": 1}}, max_rows=2)
            third = tx.table("c").upsert({"user": "b"}, key=["user"])
            fourth = tx.table("d").delete({"id": 5})
            fifth = tx.table("c").upsert_many(
                [{"user": "c"}, {"user": "b"}], key=["user"], merge={"n": "$inc"}, returning=True
            )
            with pytest.raises(InvalidRequest, match="not sent yet") as caught:
                _ = first.count
            assert (caught.value.plugin, caught.value.operation) == (storage.plugin, "rows.transact")
            assert script.sent == []
        assert (first.count, first.row) == (1, {"id": 7})
        assert (second.count, second.rows, second.row) == (2, [], None)
        assert [row["id"] for row in fifth.rows] == [9, 8]
        assert tx.results == [first, second, third, fourth, fifth]
    assert len(script.sent) == 1
    assert script.sent[0].headers["Nats-Msg-Id"] == "k1"
    assert script.sent[0].body == {
        "operations": [
            {"op": "insert", "table": "a", "rows": [{"n": 1}]},
            {"op": "update", "table": "b", "where": {"id": 1}, "set": {"n": {"$inc": 1}}, "max_rows": 2},
            {"op": "upsert", "table": "c", "rows": [{"user": "b"}], "key": ["user"]},
            {"op": "delete", "table": "d", "where": {"id": 5}},
            {
                "op": "upsert",
                "table": "c",
                "rows": [{"user": "c"}, {"user": "b"}],
                "key": ["user"],
                "merge": {"n": "$inc"},
            },
        ]
    }


async def test_a_block_that_raises_sends_nothing():
    """The author's own error goes on as it is."""
    storage, script = scripted_storage()
    async with storage:
        with pytest.raises(RuntimeError, match="mine"):
            async with storage.transaction() as tx:
                tx.table("a").insert({"n": 1})
                raise RuntimeError("mine")
    assert script.sent == []


async def test_a_block_without_writes_sends_nothing():
    """There is nothing to do, and that is no error."""
    storage, script = scripted_storage()
    async with storage, storage.transaction() as tx:
        pass
    assert (tx.results, script.sent) == ([], [])


async def test_a_transaction_that_fails_raises_at_the_end_of_its_block():
    """The path names the operation."""
    storage, _ = scripted_storage(Fault("unique_violation", "There is one.", path="operations[1].rows[0]"))
    async with storage:
        with pytest.raises(UniqueViolation) as caught:
            async with storage.transaction() as tx:
                written = tx.table("a").insert({"n": 1})
        assert caught.value.operation == "rows.transact"
        with pytest.raises(InvalidRequest):
            _ = written.count


async def test_a_transaction_is_used_once_and_inside_its_block():
    """Before and after it, writes are refused rather than lost."""
    storage, _ = scripted_storage()
    async with storage:
        tx = storage.transaction()
        with pytest.raises(InvalidRequest, match="not begun"):
            tx.table("a").insert({})
        async with tx:
            pass
        with pytest.raises(InvalidRequest, match="over"):
            tx.table("a").insert({})
        with pytest.raises(InvalidRequest, match="used once"):
            async with tx:
                pass


async def test_a_bad_write_in_a_transaction_names_its_place():
    """The path says which of the operations it is."""
    storage, _ = scripted_storage()
    async with storage:
        with pytest.raises(TypeMismatch) as caught:
            async with storage.transaction() as tx:
                tx.table("a").insert({"n": 1})
                tx.table("a").insert_many("n")
    assert caught.value.path == "operations[1].rows"
    assert caught.value.operation == "rows.transact"


# Migrations


async def test_migrations_speak_the_contract():
    """Status, apply and rollback send what they are given, and wait as long as a run may take."""
    run = {"revision": "r1", "message": "m", "seconds": 0.5}
    storage, script = scripted_storage(
        {"current": None, "pending": [{"revision": "r1", "message": "m"}], "applied": [], "drift": []},
        {"applied": [run]},
        {"rolled_back": [run], "sql": "DROP"},
    )
    async with storage:
        status = await storage.migrations.status()
        applied = await storage.migrations.apply(allow_destructive=True)
        back = await storage.migrations.rollback("base", dry_run=True)
    assert (status.current, status.pending[0].revision) == (None, "r1")
    assert (applied.applied[0].seconds, back.sql) == (0.5, "DROP")
    assert [(sent.tail, sent.body) for sent in script.sent] == [
        ("migrations.status", {}),
        ("migrations.apply", {"allow_destructive": True}),
        ("migrations.rollback", {"target": "base", "dry_run": True}),
    ]
    told = [int(sent.headers["Storage-Timeout"]) for sent in script.sent]
    assert told[0] < 5000
    assert 599_000 < told[1] <= 600_000
