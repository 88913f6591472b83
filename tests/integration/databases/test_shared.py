"""Requests of one shape that wait together share a statement, and none of them can tell."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins

PLUGIN = "crowd"
MANY = 40
KINDS = {
    "word": {"type": "text"},
    "short": {"type": "string", "max_length": 12},
    "whole": {"type": "integer"},
    "real": {"type": "float"},
    "exact": {"type": "decimal"},
    "flag": {"type": "boolean"},
    "moment": {"type": "datetime"},
    "day": {"type": "date"},
    "token": {"type": "uuid"},
    "body": {"type": "json"},
}
TEXTS = ["", "NULL", "null", 'a "b"', "c\\d", "{a,b}", "a,b", " blank ", "naïve 🙂", "a\nb\tc", "'", "\\N"]


class Crowd:
    """One plugin's requests, many at a time, and the superuser's view."""

    def __init__(self, application: Application, dsn: str) -> None:
        self.application = application
        self.dsn = dsn

    async def ask(self, tail: str, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Return the result, or the error under `error`."""
        reply, _ = await self.application.handle(PLUGIN, tail, json.dumps(body).encode(), headers)
        found: dict[str, Any] = json.loads(reply)
        return found.get("result", found)

    async def insert(self, table: str, row: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Add one row."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} or None
        return await self.ask("rows.insert", {"table": table, "rows": [row]}, named)

    async def define(self, table: str, columns: dict[str, dict[str, Any]]) -> None:
        """Make a table, and look at it: what follows is answered without a task."""
        described = [{"name": name, **members} for name, members in columns.items()]
        assert "error" not in await self.ask("tables.define", {"table": table, "columns": described})
        assert await self.ask("rows.select", {"table": table}) == {"rows": [], "next_cursor": None}

    async def sql(self, *statements: str) -> list[Any]:
        """Run statements as the superuser in the plugin's schema; return the last one's rows."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(f'SET search_path TO "plugin_{PLUGIN}"'.encode())
            for statement in statements:
                cursor = await connection.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []


@pytest.fixture
async def crowd(postgres_database: str) -> AsyncIterator[Crowd]:
    """An application on Postgres."""
    made = Application(postgres_database, Plugins(), provision=True)
    await made.open()
    try:
        yield Crowd(made, postgres_database)
    finally:
        await made.close()


async def statements(crowd: Crowd, table: str) -> int:
    """Return how many statements the rows came by: all rows of one have its moment."""
    return int((await crowd.sql(f"SELECT count(DISTINCT created_at) FROM {table}"))[0][0])


async def test_inserts_share_a_statement_and_each_gets_its_row(crowd: Crowd) -> None:
    """Of rows that arrive together each caller gets its own, numbered in the order of arrival."""
    for attempt in range(5):  # late news of the new table has the service look at it again, row by row
        table = f"t{attempt}"
        await crowd.define(table, {"n": {"type": "integer"}, "word": {"type": "text"}})
        answers = await asyncio.gather(*(crowd.insert(table, {"n": n, "word": f"w{n}"}) for n in range(MANY)))
        assert [answer["rows"][0]["n"] for answer in answers] == list(range(MANY))
        assert [answer["rows"][0]["word"] for answer in answers] == [f"w{n}" for n in range(MANY)]
        assert [answer["rows"][0]["id"] for answer in answers] == list(range(1, MANY + 1))
        stored = await crowd.sql(f"SELECT id, n FROM {table} ORDER BY id")
        assert stored == [(n + 1, n) for n in range(MANY)]
        if await statements(crowd, table) <= MANY // 4:
            return
    pytest.fail("the rows came by a statement each")


async def test_no_value_differs_from_that_of_a_row_alone(crowd: Crowd) -> None:
    """Every type, null, and text that an array could mistake for its own signs come back as they went in."""
    await crowd.define("t", KINDS)
    rows: list[dict[str, Any]] = [
        {
            "word": TEXTS[n % len(TEXTS)],
            "short": TEXTS[-n % len(TEXTS)],
            "whole": (-1) ** n * (2**63 - 1 - n),
            "real": n / 7,
            "exact": f"{n}.{10**20 + n}",
            "flag": n % 2 == 0,
            "moment": f"2026-11-24T01:02:03.{n:06}Z",
            "day": "2026-02-28",
            "token": str(uuid.UUID(int=n * 2**99)),
            "body": [{"a": [1, 2.5, None, 'x"y\\z']}, "NULL", 1.0, True, {}, [], ""][n % 7],
        }
        for n in range(MANY)
    ]
    rows += [{**rows[n], list(KINDS)[n % len(KINDS)]: None} for n in range(MANY)]
    alone = [(await crowd.insert("t", row))["rows"][0] for row in rows]
    together = [answer["rows"][0] for answer in await asyncio.gather(*(crowd.insert("t", r) for r in rows))]
    for one, other in zip(alone, together, strict=True):
        assert {name: one[name] for name in KINDS} == {name: other[name] for name in KINDS}
    assert len({row["created_at"] for row in together}) <= len(together) // 4


@pytest.mark.parametrize("bad", [0, 17, MANY - 1])
async def test_one_bad_row_is_told_apart(crowd: Crowd, bad: int) -> None:
    """Of many rows in one statement the one that breaks a rule gets its own error, and all others stand."""
    await crowd.define("owners", {"name": {"type": "text"}})
    owner = (await crowd.insert("owners", {"name": "a"}))["rows"][0]["id"]
    await crowd.define(
        "t", {"n": {"type": "integer", "unique": True}, "owner": {"type": "integer", "references": "owners"}}
    )
    await crowd.insert("t", {"n": -1, "owner": owner})
    for round_, (fault, code) in enumerate(
        [({"n": -1}, "unique_violation"), ({"owner": owner + 1}, "foreign_key_violation")]
    ):
        rows = [{"n": round_ * MANY + n, "owner": owner} for n in range(MANY)]
        rows[bad] |= fault
        alone = await crowd.insert("t", rows[bad])
        answers = await asyncio.gather(*(crowd.insert("t", row) for row in rows))
        assert answers[bad] == alone
        assert alone["error"]["code"] == code
        assert ["error" in answer for answer in answers] == [n == bad for n in range(MANY)]
        for row, answer in zip(rows, answers, strict=True):
            assert "error" in answer or answer["rows"][0]["n"] == row["n"]
    assert (await crowd.sql("SELECT count(*) FROM t"))[0][0] == 1 + 2 * (MANY - 1)


async def test_many_bad_rows_are_told_apart(crowd: Crowd) -> None:
    """Every second row refused by a check of the plugin's own: the others stand once each."""
    await crowd.define("t", {"n": {"type": "integer"}})
    await crowd.sql("ALTER TABLE t ADD CONSTRAINT odd CHECK (n % 2 = 1)")
    answers = await asyncio.gather(*(crowd.insert("t", {"n": n}) for n in range(MANY)))
    assert ["error" in answer for answer in answers] == [n % 2 == 0 for n in range(MANY)]
    assert [n for (n,) in await crowd.sql("SELECT n FROM t ORDER BY n")] == list(range(1, MANY, 2))


async def test_what_a_request_refuses_by_itself_is_none_of_the_others_business(crowd: Crowd) -> None:
    """A wrong type, a null and an unknown column are refused before; the path is that of the request."""
    await crowd.define("t", {"n": {"type": "integer", "required": True}})
    wrong: dict[int, tuple[dict[str, Any], str, str]] = {
        3: ({"n": "5"}, "type_mismatch", "rows[0].n"),
        11: ({"n": None}, "value_required", "rows[0].n"),
        12: ({"m": 1}, "column_not_found", "rows[0].m"),
    }
    rows = [wrong[n][0] if n in wrong else {"n": n} for n in range(MANY)]
    answers = await asyncio.gather(*(crowd.insert("t", row) for row in rows))
    for n, answer in enumerate(answers):
        if n in wrong:
            assert (answer["error"]["code"], answer["error"]["path"]) == wrong[n][1:]
        else:
            assert answer["rows"][0]["n"] == n


async def test_a_row_of_one_id_is_written_once_among_others(crowd: Crowd) -> None:
    """Rows with a Nats-Msg-Id go their own way: each id has one effect, whatever stands beside it."""
    await crowd.define("t", {"n": {"type": "integer"}})
    named = [{"Nats_Msg_Id": f"id{n % 10}"} if n % 20 < 10 else {} for n in range(MANY)]
    answers = await asyncio.gather(*(crowd.insert("t", {"n": n % 10}, **named[n]) for n in range(MANY)))
    assert not any("error" in answer for answer in answers)
    assert (await crowd.sql("SELECT count(*) FROM t"))[0][0] == 10 + MANY // 2


async def test_writes_keep_their_order(crowd: Crowd) -> None:
    """A statement that many share takes no row past a write that came in between."""
    await crowd.define("t", {"n": {"type": "integer"}})
    change = {"table": "t", "where": {}, "all_rows": True, "set": {"n": {"$inc": 100}}}
    requests = [
        crowd.ask("rows.update", change) if n % 10 == 9 else crowd.insert("t", {"n": n}) for n in range(30)
    ]
    answers = await asyncio.gather(*requests)
    assert [answers[n]["count"] for n in (9, 19, 29)] == [9, 18, 27]


async def test_gets_share_a_statement_and_each_gets_its_row(crowd: Crowd) -> None:
    """Of rows asked for by key each caller gets its own; what is not there is no row, and twice is twice."""
    await crowd.define("t", {"n": {"type": "integer"}})
    await crowd.ask("rows.insert", {"table": "t", "rows": [{"n": n * n} for n in range(1, MANY + 1)]})
    wanted = [1, 1, 2, 10**12, -1, MANY, 0, *range(3, MANY), 7, 2**63 - 1]
    columns = [None, ["n", "id"], ["n"], ["id"]]
    requests = [
        crowd.ask("rows.select", {"table": "t", "where": {"id": key}, "columns": shown})
        for key in wanted
        for shown in columns
    ]
    answers = iter(await asyncio.gather(*requests))
    for key in wanted:
        for shown in columns:
            (*rows,) = next(answers)["rows"]
            assert len(rows) == (1 if 1 <= key <= MANY else 0)
            for row in rows:
                expected = {"id": key, "n": key * key}
                assert {name: row[name] for name in row if name in expected} == {
                    name: expected[name] for name in shown or expected
                }


async def test_gets_by_uuid(crowd: Crowd) -> None:
    """A key of a table that a migration made is found in whatever case it is asked for."""
    await crowd.define("seed", {"n": {"type": "integer"}})
    await crowd.sql(
        "CREATE TABLE t (token uuid PRIMARY KEY, n int)",
        f"GRANT ALL ON t TO plugin_{PLUGIN}",
        "INSERT INTO t SELECT lpad(to_hex(n), 32, 'ab')::uuid, n FROM generate_series(1, 40) n",
    )
    tokens = [str(token) for (token,) in await crowd.sql("SELECT token FROM t ORDER BY n")]
    assert (await crowd.ask("rows.select", {"table": "t", "limit": 1}))["rows"]
    answers = await asyncio.gather(
        *(
            crowd.ask("rows.select", {"table": "t", "where": {"token": token.upper() if n % 2 else token}})
            for n, token in enumerate(tokens)
        )
    )
    assert [answer["rows"] for answer in answers] == [
        [{"token": token, "n": n}] for n, token in enumerate(tokens, 1)
    ]


async def test_a_trigger_fires_for_every_request(crowd: Crowd) -> None:
    """Where a plugin's own trigger acts on a table, each request stays a statement of its own."""
    await crowd.define("seed", {"n": {"type": "integer"}})
    await crowd.sql(
        "CREATE TABLE fired (at timestamptz)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        f' $$BEGIN INSERT INTO "plugin_{PLUGIN}".fired VALUES (now()); RETURN NULL; END$$',
        "CREATE TABLE t (id int PRIMARY KEY)",
        f"GRANT ALL ON t TO plugin_{PLUGIN}",
        "CREATE TRIGGER noted AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION note()",
    )
    assert (await crowd.ask("rows.select", {"table": "t"}))["rows"] == []
    answers = await asyncio.gather(*(crowd.insert("t", {"id": n}) for n in range(MANY)))
    assert [answer["rows"] for answer in answers] == [[{"id": n}] for n in range(MANY)]
    assert (await crowd.sql("SELECT count(*) FROM fired"))[0][0] == MANY


class Blocked:
    """A transaction of somebody else that has written n = 5 and not committed."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd

    async def __aenter__(self) -> None:
        self.connection = await psycopg.AsyncConnection.connect(self.crowd.dsn)
        await self.connection.execute(f'INSERT INTO "plugin_{PLUGIN}".t (n) VALUES (5)'.encode())

    async def __aexit__(self, *_: object) -> None:
        await self.connection.rollback()
        await self.connection.close()


async def waits_for_a_lock(crowd: Crowd) -> None:
    """Return when an insert of the plugin waits for the other transaction."""
    waiting = f"SELECT 1 FROM pg_stat_activity WHERE usename = 'plugin_{PLUGIN}' AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while not await crowd.sql(waiting):
            await asyncio.sleep(0.02)


async def test_a_deadline_is_that_of_its_own_request(crowd: Crowd) -> None:
    """A row that waits past its deadline was not written, and the rows beside it were."""
    await crowd.define("t", {"n": {"type": "integer", "unique": True}})
    async with Blocked(crowd):
        answers = await asyncio.gather(
            *(crowd.insert("t", {"n": n}, Storage_Timeout="800" if n == 5 else "20000") for n in range(MANY))
        )
    assert answers[5]["error"]["code"] == "timeout"
    assert "nothing was written" in answers[5]["error"]["message"]
    assert ["error" in answer for answer in answers] == [n == 5 for n in range(MANY)]
    assert (await crowd.sql("SELECT count(*) FROM t"))[0][0] == MANY - 1


async def test_a_killed_connection_leaves_every_outcome_unknown(crowd: Crowd) -> None:
    """Rows whose shared statement was cut off are told that they may have been written."""
    await crowd.define("t", {"n": {"type": "integer", "unique": True}})
    async with Blocked(crowd):
        waiting = asyncio.gather(*(crowd.insert("t", {"n": n}) for n in range(16)))
        await waits_for_a_lock(crowd)
        ours = f"FROM pg_stat_activity WHERE usename = 'plugin_{PLUGIN}'"
        await crowd.sql(f"SELECT pg_terminate_backend(pid) {ours}")
        answers = await waiting
    cut = [answer["error"] for answer in answers if "error" in answer]
    assert len(cut) >= 10
    for error in cut:
        assert error["code"] == "unavailable"
        assert "may have happened" in error["message"]
    written = [answer["rows"][0]["n"] for answer in answers if "error" not in answer]
    assert await crowd.sql("SELECT n FROM t ORDER BY n") == [(n,) for n in written]
    assert (await crowd.insert("t", {"n": 5}))["count"] == 1
