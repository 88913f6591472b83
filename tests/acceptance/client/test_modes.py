"""The same plugin code in every mode: service on Postgres, service on SQLite, local mode."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from rosey_storage import (
    BadRequest,
    Column,
    Index,
    KeyExists,
    RowPage,
    SchemaConflict,
    Storage,
    StorageError,
    TableNotFound,
    TooManyRows,
    TypeMismatch,
    UniqueViolation,
)


async def test_the_example_of_the_contract(mode, plugin):
    """What DESIGN shows an author is what an author can write, in each mode."""
    async with Storage.connect(plugin, **mode) as storage:
        kv = storage.kv
        assert await kv.set("prefs:alice", {"theme": "dark"}) > 0
        assert await kv.get("prefs:alice") == {"theme": "dark"}
        await kv.set("game:42", {"turn": 1}, ttl=900)
        entry = await kv.entry("game:42")
        assert entry is not None
        assert entry.expires is not None
        assert await kv.create("lock:1", 1, ttl=dt.timedelta(seconds=30))
        with pytest.raises(KeyExists):
            await kv.create("lock:1", 1)
        assert await kv.increment("hits", by=2) == 2
        assert (await kv.list(prefix="pre")).keys == ["prefs:alice"]
        assert await kv.delete("prefs:alice") is True

        quotes = storage.table("quotes")
        columns = [
            Column("text", "text", required=True),
            Column("by", "string", max_length=64),
            Column("score", "integer", default=0),
            Column("best", "integer"),
        ]
        assert await quotes.define(columns, indexes=[Index("by"), Index("by", "score")])
        assert await quotes.define(columns, indexes=[Index("by"), Index("by", "score")]) == []
        quote = await quotes.insert({"text": "…", "by": "alice"})
        assert (quote["score"], quote["best"]) == (0, None)
        assert dt.datetime.fromisoformat(quote["created_at"]).tzinfo is not None
        assert (
            await quotes.insert_many([{"text": "vogon poetry", "by": "alice", "score": n} for n in range(9)])
            == 9
        )
        assert await quotes.get(quote["id"]) == quote
        assert await quotes.get(quote["id"] + 1000) is None
        where = {"by": "alice", "score": {"$gte": 5}}
        page = await quotes.select(where, order_by=["-score"], limit=3)
        assert isinstance(page, RowPage)
        assert [row["score"] for row in page] == [8, 7, 6]
        page = await quotes.select(where, order_by=["-score"], limit=3, cursor=page.next_cursor)
        assert ([row["score"] for row in page], page.next_cursor) == ([5], None)
        assert len([row async for row in quotes.rows(page_size=4)]) == 10
        assert len(await quotes.search("VOGON", columns=["text"])) == 9
        changed = await quotes.update(
            {"id": quote["id"]}, {"score": {"$inc": 1}, "best": {"$max": 40}}, returning=True
        )
        assert [(row["score"], row["best"]) for row in changed] == [(1, 40)]
        groups = await quotes.aggregate(
            group_by=["by"], measures={"n": {"$count": "*"}, "top": {"$max": "score"}}, order_by=["-n"]
        )
        assert groups.rows == [{"by": "alice", "n": 10, "top": 8}]
        with pytest.raises(TooManyRows):
            await quotes.delete({"by": "alice"}, max_rows=5)
        assert await quotes.delete({"score": {"$lt": 3}}, max_rows=100) == 4

        scores = storage.table("scores")
        await scores.define(
            [
                Column("user", "string", unique=True, required=True),
                Column("best", "integer"),
                Column("plays", "integer"),
            ]
        )
        for best in (40, 30):
            bob = await scores.upsert(
                {"user": "bob", "best": best, "plays": 1},
                key=["user"],
                merge={"best": "$max", "plays": "$inc"},
            )
        assert (bob["best"], bob["plays"]) == (40, 2)
        async with storage.transaction() as tx:
            added = tx.table("quotes").insert({"text": "in a transaction"})
            tx.table("scores").update({"user": "bob"}, {"plays": {"$inc": 1}})
        assert added.row is not None
        assert (await scores.select({"user": "bob"})).rows[0]["plays"] == 3
        assert {table.table for table in await storage.tables()} == {"quotes", "scores"}
        assert {"text", "id"} <= {column.name for column in (await quotes.describe()).columns}
        await quotes.drop(confirm="quotes")
        with pytest.raises(TableNotFound):
            await quotes.select()


async def test_a_transaction_is_all_or_nothing(mode, plugin):
    """When one write cannot be, none is."""
    async with Storage.connect(plugin, **mode) as storage:
        users = storage.table("users")
        await users.define([Column("name", "string", unique=True), Column("n", "integer", default=0)])
        await users.insert({"name": "bob"})
        with pytest.raises(UniqueViolation) as caught:
            async with storage.transaction() as tx:
                tx.table("users").update({"name": "bob"}, {"n": {"$inc": 1}})
                tx.table("users").insert({"name": "bob"})
        assert (caught.value.plugin, caught.value.operation) == (plugin, "rows.transact")
        assert (await users.select()).rows[0]["n"] == 0


async def test_a_write_with_a_key_happens_once(mode, plugin):
    """The second call with the same key gives the first one's reply; another payload is refused."""
    async with Storage.connect(plugin, **mode) as storage:
        orders = storage.table("orders")
        await orders.define([Column("n", "integer")])
        first = await orders.insert({"n": 1}, idempotency_key="order-1")
        assert await orders.insert({"n": 1}, idempotency_key="order-1") == first
        with pytest.raises(BadRequest):
            await orders.insert({"n": 2}, idempotency_key="order-1")
        assert len(await orders.select()) == 1


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        (lambda s: s.table("quotes").select(), "table_not_found", "quotes"),
        (lambda s: s.table("quots").insert({}), "table_not_found", "quots"),
        (lambda s: s.table("known").insert({"n": "5"}), "type_mismatch", "n"),
        (lambda s: s.table("known").insert({"m": 5}), "column_not_found", "m"),
        (lambda s: s.table("known").insert({}), "value_required", "n"),
        (lambda s: s.table("known").select({"n": {"$gtt": 1}}), "unknown_operator", "$gtt"),
        (lambda s: s.table("known").select(limit=0), "out_of_range", "limit"),
        (lambda s: s.table("known").delete({}), "invalid_request", "all_rows"),
        (lambda s: s.table("known").drop(confirm="other"), "invalid_request", "confirm"),
        (lambda s: s.kv.set("", 1), "invalid_name", "key"),
        (lambda s: s.kv.set("a", object()), "type_mismatch", "object"),
        (lambda s: s.kv.set("a", "x" * 70_000), "value_too_large", "65536"),
        (lambda s: s.kv.set("a", 1, ttl=0), "out_of_range", "TTL"),
    ],
)
async def test_what_is_wrong_has_the_same_code_in_every_mode(mode, plugin, call, code, words):
    """The error names the call, the plugin and the place."""
    async with Storage.connect(plugin, **mode) as storage:
        await storage.table("known").define([Column("n", "integer", required=True)])
        with pytest.raises(StorageError) as caught:
            await call(storage)
    error = caught.value
    assert error.code == code, str(error)
    assert error.plugin == plugin
    assert error.operation
    assert words in str(error)


async def test_a_changed_definition_is_refused(mode, plugin):
    """A column's type is not changed by defining it anew; nothing is done and the list says why."""
    async with Storage.connect(plugin, **mode) as storage:
        table = storage.table("t")
        await table.define([Column("n", "integer")])
        with pytest.raises(SchemaConflict, match="n"):
            await table.define([Column("n", "text"), Column("m", "text")])
        assert "m" not in {column.name for column in (await table.describe()).columns}
        assert await table.define([Column("n", "integer"), Column("m", "text")], dry_run=True) != []
        assert await table.define([Column("n", "integer"), Column("m", "text")]) != []


async def test_many_at_once(mode, plugin):
    """Fifty callers on one connection lose no update and mix no answers."""
    async with Storage.connect(plugin, **mode) as storage:
        table = storage.table("counters")
        await table.define([Column("name", "string", unique=True), Column("n", "integer", default=0)])
        await table.insert({"name": "shared"})

        async def caller(number: int) -> None:
            row = await table.insert({"name": f"c{number}"})
            assert row["name"] == f"c{number}"
            for _ in range(4):
                await table.update({"name": "shared"}, {"n": {"$inc": 1}})
                await storage.kv.increment("shared")
                assert (await table.get(row["id"]) or {})["name"] == f"c{number}"

        await asyncio.gather(*(caller(number) for number in range(50)))
        assert (await table.select({"name": "shared"})).rows[0]["n"] == 200
        assert await storage.kv.get("shared") == 200
        assert len(await table.select(limit=1000)) == 51


async def test_two_storages_of_one_plugin_see_each_other(mode, plugin):
    """What one has written the other reads; memory is the exception that it says it is."""
    if mode["url"] == "sqlite::memory:":
        pytest.skip("a storage in memory is its own")
    async with Storage.connect(plugin, **mode) as one, Storage.connect(plugin, **mode) as two:
        await one.table("t").define([Column("n", "integer")])
        await one.table("t").insert({"n": 1})
        await one.kv.set("a", 1)
        assert (await two.table("t").select()).rows[0]["n"] == 1
        assert await two.kv.get("a") == 1


async def test_data_outlives_its_storage(mode, plugin):
    """Closed and opened again, everything is there."""
    if mode["url"] == "sqlite::memory:":
        pytest.skip("a storage in memory is gone with it")
    async with Storage.connect(plugin, **mode) as storage:
        await storage.table("t").define([Column("n", "integer")])
        await storage.table("t").insert({"n": 1})
        await storage.kv.set("a", {"b": None})
    async with Storage.connect(plugin, **mode) as storage:
        assert (await storage.table("t").select()).rows[0]["n"] == 1
        assert await storage.kv.get("a") == {"b": None}


async def test_plugins_do_not_see_each_other(mode, plugin):
    """The same names in two plugins are two keys and two tables."""
    async with (
        Storage.connect(plugin, **mode) as mine,
        Storage.connect(f"{plugin}-x", **mode) as other,
    ):
        await mine.table("t").define([Column("n", "integer")])
        await mine.kv.set("a", 1)
        assert await other.kv.get("a") is None
        with pytest.raises(TableNotFound):
            await other.table("t").select()


async def test_a_value_that_is_too_large_for_a_reply_or_a_request(mode, plugin):
    """Both limits have their code, and nothing is cut or written."""
    async with Storage.connect(plugin, **mode) as storage:
        table = storage.table("t")
        await table.define([Column("text", "text")])
        with pytest.raises(StorageError) as caught:
            await table.insert({"text": "x" * 3_000_000})
        assert caught.value.code == "request_too_large"
        await table.insert_many([{"text": "x" * 300_000} for _ in range(3)])
        await table.insert_many([{"text": "x" * 300_000} for _ in range(3)])
        assert len([row async for row in table.rows(page_size=100)]) == 6
        with pytest.raises(StorageError) as caught:
            await table.update({}, {"text": {"$set": "y" * 300_000}}, all_rows=True, returning=True)
        assert caught.value.code == "reply_too_large"
        assert len(await table.select({"text": {"$startswith": "y"}}, columns=["id"])) == 0


async def test_types_are_not_coerced(mode, plugin):
    """A text is no number and true is no 1, in each mode."""
    async with Storage.connect(plugin, **mode) as storage:
        table = storage.table("t")
        await table.define([Column("n", "integer"), Column("b", "boolean")])
        for row in ({"n": "5"}, {"n": True}, {"n": 5.0}, {"b": 1}, {"b": "true"}):
            with pytest.raises(TypeMismatch):
                await table.insert(row)
        assert len(await table.select()) == 0


# The reference plugin


async def test_the_reference_plugin(mode, plugins_file, quotes_module):
    """Migrations, quotes, votes, preferences and games work the same in each mode."""
    async with Storage.connect("quotes-in-modes", plugins=plugins_file, **mode) as storage:
        quotes = quotes_module.QuotesPlugin(storage)
        assert len((await quotes.start()).applied) == 6
        assert (await quotes.start()).applied == []
        assert (await storage.migrations.status()).drift == []
        new = await quotes.import_file()
        assert new >= 200
        assert await quotes.import_file() == 0

        page = await quotes.quotes.select({"author": "Charles Dickens"}, order_by=["id"])
        first, second = page.rows[0]["id"], page.rows[1]["id"]
        await asyncio.gather(*(quotes.vote(first, f"u{n}") for n in range(20)), quotes.vote(second, "u0", -1))
        with pytest.raises(quotes_module.AlreadyVoted):
            await quotes.vote(first, "u0")
        with pytest.raises(quotes_module.QuoteNotFound):
            await quotes.vote(10**9, "u0")
        assert [(row["id"], row["score"]) for row in await quotes.leaderboard()] == [(first, 20)]
        assert (await quotes.authors(1))[0]["author"] == "Charles Dickens"

        assert await quotes.choose("alice", quotes_per_page=2) == quotes_module.Preferences(quotes_per_page=2)
        assert len(await quotes.search("the", "alice")) == 2
        assert len(await quotes.search("the", "bob")) == 5

        async with storage.kv.watch(prefix="game:") as changes:
            game = await quotes.ask("#lobby", seconds=60)
            with pytest.raises(KeyExists):
                await quotes.ask("#lobby")
            assert await quotes.guess("#lobby", "carol", "nobody") is False
            answers = await asyncio.gather(*(quotes.guess("#lobby", f"u{n}", game.author) for n in range(8)))
            assert answers.count(True) == 1
            assert sum(row["points"] for row in await quotes.scores(20)) == 1
            await quotes.ask("#lobby", seconds=1)
            async with asyncio.timeout(20):
                seen = []
                async for change in changes:
                    seen.append(change.operation)
                    if change.operation == "expire":
                        break
        assert seen == ["set", "delete", "set", "expire"]
        assert await quotes.guess("#lobby", "carol", "anyone") is None
