"""Replies to reads are kept while nothing has changed, and no caller can tell but by the clock."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from integration.databases.world import World, work
from rosey_rowstore.application import Application
from rosey_rowstore.databases.base import StaleReplyError, Work
from rosey_rowstore.databases.postgres.database import PostgresDatabase
from rosey_rowstore.databases.postgres.lanes import PluginLanes
from rosey_rowstore.databases.readcache import ReadCache, Reads
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugins

PLUGIN = "reader"
CROWD = 24
TERMS = (Limits(), {})
REQUESTS = {
    "rows.select": [
        {"table": "t"},
        {"table": "t", "where": {"id": 1}},
        {"table": "t", "where": {"n": {"$gte": 0}}, "order_by": ["-n"], "limit": 2},
    ],
    "rows.search": [{"table": "t", "query": "a"}],
    "rows.aggregate": [{"table": "t", "measures": {"most": {"$max": "n"}, "all": {"$count": "*"}}}],
}


class Desk:
    """A plugin's requests to one application, and the superuser's hand in the same database."""

    def __init__(self, application: Application, dsn: str) -> None:
        self.application = application
        self.dsn = dsn

    async def ask(self, tail: str, body: Any) -> Any:
        """Return the result, or the error under `error`."""
        reply, _ = await self.application.handle(PLUGIN, tail, json.dumps(body).encode(), None)
        found = json.loads(reply)
        return found.get("result", found)

    async def crowd(self, tail: str, body: Any) -> list[Any]:
        """Ask the same many times at once."""
        return await asyncio.gather(*(self.ask(tail, body) for _ in range(CROWD)))

    async def sql(self, *statements: str) -> None:
        """Run statements as the superuser in the plugin's schema."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as connection:
            await connection.execute(f'SET search_path TO "plugin_{PLUGIN}"'.encode())
            for statement in statements:
                await connection.execute(statement.encode())

    @property
    def hits(self) -> int:
        """How many kept replies were given again."""
        database = self.application._database
        assert isinstance(database, PostgresDatabase)
        return database._plugins[PLUGIN].reads.hits


@pytest.fixture
async def desks(postgres_database: str) -> AsyncIterator[tuple[Desk, Desk]]:
    """An application, and another one that keeps nothing; the table t with three rows."""
    made = [
        Application(postgres_database, Plugins(), provision=True),
        Application(postgres_database, Plugins(), provision=True, read_cache=0),
    ]
    for application in made:
        await application.open()
    first, second = (Desk(application, postgres_database) for application in made)
    try:
        columns = [{"name": "n", "type": "integer"}, {"name": "word", "type": "text"}]
        assert "error" not in await first.ask("tables.define", {"table": "t", "columns": columns})
        rows = [{"n": number, "word": "a"} for number in range(3)]
        assert "error" not in await first.ask("rows.insert", {"table": "t", "rows": rows})
        yield first, second
    finally:
        for application in made:
            await application.close()


async def warm(desk: Desk, tail: str, body: Any) -> None:
    """Ask until replies are given from what is kept."""
    deadline = time.monotonic() + 20
    before, found = desk.hits, None
    while desk.hits == before:
        assert time.monotonic() < deadline, f"nothing is kept of {tail} {body}: {found}"
        found = await desk.crowd(tail, body)


async def test_a_crowd_is_answered_from_what_is_kept(desks: tuple[Desk, Desk]) -> None:
    """While nothing is written every read of a crowd is given again, and as the database would answer."""
    desk, plain = desks
    for tail, bodies in REQUESTS.items():
        for body in bodies:
            await warm(desk, tail, body)
            assert await desk.crowd(tail, body) == [await plain.ask(tail, body)] * CROWD


RIPPLE = """
CREATE FUNCTION ripple() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$ BEGIN UPDATE t SET n = 1234; RETURN NULL; END $$
"""
CHANGES = {
    "an insert": ["INSERT INTO t (n, word) VALUES (77, 'a')"],
    "an update": ["UPDATE t SET n = n + 100"],
    "a delete": ["DELETE FROM t WHERE n = 2"],
    "a rollback and an update": [
        "BEGIN",
        "UPDATE t SET n = 5",
        "ROLLBACK",
        "UPDATE t SET n = 6 WHERE id = 1",
    ],
    "a savepoint": ["BEGIN", "SAVEPOINT a", "UPDATE t SET n = 8", "RELEASE a", "COMMIT"],
    "truncate": ["TRUNCATE t"],
    "another table of the same name": [
        "ALTER TABLE t RENAME TO old",
        "CREATE TABLE t (LIKE old INCLUDING ALL)",
        "GRANT ALL ON t TO plugin_reader",
        "SELECT pg_notify('rosey_schema', 'reader')",
    ],
    "a trigger's write": [
        "CREATE TABLE other (n bigint)",
        RIPPLE,
        "CREATE TRIGGER ripple AFTER INSERT ON other EXECUTE FUNCTION ripple()",
        "INSERT INTO other VALUES (1)",
    ],
}


@pytest.mark.parametrize("change", CHANGES)
async def test_whoever_writes_it_is_seen(desks: tuple[Desk, Desk], change: str) -> None:
    """After any change by anybody a crowd gets what a service without a cache answers."""
    desk, plain = desks
    for tail, bodies in REQUESTS.items():
        for body in bodies:
            await warm(desk, tail, body)
    await desk.sql(*CHANGES[change])
    for tail, bodies in REQUESTS.items():
        for body in bodies:
            wanted = await plain.ask(tail, body)
            assert await desk.crowd(tail, body) == [wanted] * CROWD


async def test_a_new_column_is_seen(desks: tuple[Desk, Desk]) -> None:
    """Nothing that was planned before the service heard of a column is given once it has heard of it.

    Nothing is written after the column was made, so no snapshot would tell.
    """
    desk, _ = desks
    body = {"table": "t"}
    for number in range(12):
        await warm(desk, "rows.select", body)
        told = False

        async def ask_on() -> None:
            while not told:  # noqa: B023 - it ends within the round
                await desk.ask("rows.select", body)

        asking = asyncio.gather(*(ask_on() for _ in range(CROWD)))
        await desk.sql(
            f"ALTER TABLE t ADD COLUMN extra{number} bigint DEFAULT {number}",
            "SELECT pg_notify('rosey_schema', 'reader')",
        )
        await asyncio.sleep(0.02)
        told = True
        await asking
        deadline = time.monotonic() + 10
        while f"extra{number}" not in (await desk.ask("rows.select", body))["rows"][0]:
            assert time.monotonic() < deadline, f"round {number}"
            await asyncio.sleep(0.01)
        for _ in range(4):
            for found in await desk.crowd("rows.select", body):
                assert found["rows"][0][f"extra{number}"] == number


@pytest.mark.parametrize("writer", ["this service", "another service", "the superuser"])
async def test_no_reply_is_older_than_its_request(desks: tuple[Desk, Desk], writer: str) -> None:
    """What was acknowledged before a read was sent is in its reply, also where it is given from memory."""
    desk, other = desks
    body = {"table": "t", "where": {"id": 1}}
    acknowledged = 0
    writing = True

    async def write(number: int) -> None:
        if writer == "the superuser":
            await connection.execute(f"UPDATE plugin_{PLUGIN}.t SET n = {number} WHERE id = 1".encode())
        else:
            by = desk if writer == "this service" else other
            found = await by.ask("rows.update", {"table": "t", "where": {"id": 1}, "set": {"n": number}})
            assert found["count"] == 1, found

    async def write_on() -> None:
        nonlocal acknowledged, writing
        await write(0)
        deadline = time.monotonic() + 30
        while acknowledged < 120 or desk.hits - before <= CROWD:
            assert time.monotonic() < deadline, "nothing was given from what is kept"
            await write(acknowledged + 1)
            acknowledged += 1
            # Sometimes at once, sometimes with time for replies to be kept; in the end with more of it.
            pauses = [0, 0, 0.001, 0.005, 0.03] if acknowledged < 120 else [0.1]
            await asyncio.sleep(random.choice(pauses))
        writing = False

    async def read_on() -> None:
        while writing:
            least = acknowledged
            found = await desk.ask("rows.select", body)
            assert found["rows"][0]["n"] >= least
            seen.add(found["rows"][0]["n"])

    seen: set[int] = set()
    before = desk.hits
    async with await psycopg.AsyncConnection.connect(desk.dsn, autocommit=True) as connection:
        task = asyncio.create_task(write_on())
        await asyncio.sleep(0)
        readers = asyncio.gather(*(read_on() for _ in range(CROWD)))
        try:
            await asyncio.gather(task, readers)
        finally:
            writing = False
    assert len(seen) > 60


async def test_after_a_lost_connection_nothing_old_is_given(desks: tuple[Desk, Desk]) -> None:
    """When the server's processes were killed and rows changed meanwhile, a crowd gets the new ones."""
    desk, _ = desks
    body = {"table": "t", "where": {"id": 1}}
    for number in range(5):
        await warm(desk, "rows.select", body)
        await desk.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'plugin_reader'",
            f"UPDATE t SET n = {1000 + number} WHERE id = 1",
        )
        for found in await desk.crowd("rows.select", body):
            assert found["rows"][0]["n"] == 1000 + number


UNSTEADY = {
    "row security": [
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY clock ON t USING (clock_timestamp() > '2020-01-01')",
    ],
    "inheritance": ["CREATE TABLE child () INHERITS (t)"],
    "partitions": [
        "DROP TABLE t",
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint, word text) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF t DEFAULT",
        "GRANT ALL ON t TO plugin_reader",
    ],
}


@pytest.mark.parametrize("kind", UNSTEADY)
async def test_rows_that_change_without_a_write_are_not_kept(desks: tuple[Desk, Desk], kind: str) -> None:
    """A policy may look at the clock, another table may stand elsewhere: such tables are read each time."""
    desk, plain = desks
    await desk.sql(*UNSTEADY[kind], "SELECT pg_notify('rosey_schema', 'reader')")
    body = {"table": "t"}
    deadline = time.monotonic() + 20
    while True:  # until it has heard of the change
        before = desk.hits
        for _ in range(5):
            assert await desk.crowd("rows.select", body) == [await plain.ask("rows.select", body)] * CROWD
        if desk.hits == before:
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("kept", [False, True])
async def test_without_the_right_to_ask_everything_works(desks: tuple[Desk, Desk], kept: bool) -> None:
    """Where an operator forbids the function that tells the snapshot, reads go to the database as ever."""
    desk, plain = desks
    body = {"table": "t"}
    if kept:
        await warm(desk, "rows.select", body)
    hits = desk.hits
    await desk.sql("REVOKE EXECUTE ON FUNCTION pg_current_snapshot() FROM PUBLIC")
    for _ in range(3):
        assert await desk.crowd("rows.select", body) == [await plain.ask("rows.select", body)] * CROWD
    assert desk.hits == hits


# the lane


@pytest.fixture
async def reads() -> Reads:
    """A plugin's share of a cache."""
    made = ReadCache(1 << 20).reads()
    made.get(key("any"), TERMS)
    return made


@pytest.fixture
async def lanes(world: World, reads: Reads) -> AsyncIterator[PluginLanes]:
    """Lanes that keep replies, connected."""
    made = PluginLanes(world.connections, world.plugin, reads)
    await asyncio.gather(*(made.submit(work("SELECT 1")) for _ in range(2)))
    try:
        yield made
    finally:
        await made.close()


def key(name: str) -> tuple[str, bytes]:
    """The key of a request that was not made of JSON."""
    return ("rows.select", name.encode())


def read(sql: str) -> Work:
    """A read whose reply may be kept."""
    made = work(sql)
    made.key, made.terms = key(sql), TERMS
    return made


def again(reads: Reads, sql: str) -> Work:
    """The same, answered by what is kept."""
    made = work()
    made.kept, made.era = reads.get(key(sql), TERMS), reads.era
    assert made.kept is not None
    return made


async def keep(lanes: PluginLanes, reads: Reads, *queries: str) -> None:
    """Have replies kept."""
    deadline = time.monotonic() + 20
    while any(reads.get(key(sql), TERMS) is None for sql in queries):
        assert time.monotonic() < deadline
        await asyncio.gather(*(lanes.submit(read(sql)) for sql in queries * 8))


async def test_a_bad_read_leaves_the_others_right(lanes: PluginLanes, reads: Reads) -> None:
    """Where one read of a pipeline fails the others are answered, and what was kept is asked for anew."""
    await keep(lanes, reads, "SELECT 1", "SELECT 2")
    works = [read("SELECT 3"), again(reads, "SELECT 1"), read("SELECT 1/0")]
    works += [read(f"SELECT {number}") for number in range(4, 20)]  # enough for one lane to take them all
    answers = await asyncio.gather(*map(lanes.submit, works), return_exceptions=True)
    assert answers[0] == b'{"result":[[(3,)]]}'
    assert isinstance(answers[1], StaleReplyError)
    assert isinstance(answers[2], Exception)
    assert not isinstance(answers[2], StaleReplyError)
    assert answers[3:] == [b'{"result":[[(%d,)]]}' % number for number in range(4, 20)]


async def test_a_kept_reply_is_given_while_it_is_true(world: World, lanes: PluginLanes, reads: Reads) -> None:
    """It is given as it is, and after a write by somebody else it is to be read anew, alone or in a crowd."""
    await keep(lanes, reads, "SELECT 1", "SELECT count(*) FROM t")
    for alone in (True, False):
        found = again(reads, "SELECT count(*) FROM t")
        others = [] if alone else [read("SELECT 5"), read("SELECT 6")]
        answers = await asyncio.gather(*(lanes.submit(each) for each in (found, *others)))
        assert answers[0] == b'{"result":[[(0,)]]}'
    for alone in (True, False):
        await keep(lanes, reads, "SELECT 1", "SELECT count(*) FROM t")
        found = again(reads, "SELECT count(*) FROM t")
        await world.rows(f"INSERT INTO t (n) VALUES ({int(alone)})")
        others = [] if alone else [read("SELECT 5"), read("SELECT 6")]
        answers = await asyncio.gather(
            *(lanes.submit(each) for each in (found, *others)), return_exceptions=True
        )
        assert isinstance(answers[0], StaleReplyError)
        assert len(answers) == len(others) + 1
        assert not any(isinstance(answer, BaseException) for answer in answers[1:])


async def test_a_new_connection_forgets(world: World, lanes: PluginLanes, reads: Reads) -> None:
    """What was read before a connection was opened is not given on it."""
    await keep(lanes, reads, "SELECT 1", "SELECT 2")
    found = again(reads, "SELECT 1")
    await asyncio.gather(*(lane.let_go() for lane in lanes._lanes))
    with pytest.raises(StaleReplyError):
        await lanes.submit(found)
    await lanes.submit(read("SELECT 1"))
    assert reads.get(key("SELECT 2"), TERMS) is None
