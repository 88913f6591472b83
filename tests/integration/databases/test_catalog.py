"""Reflection: what a migration made is served as it is, and a change reaches every process."""

from __future__ import annotations

import asyncio
import sqlite3

from psycopg import AsyncConnection

from rosey_rowstore.databases.postgres import catalog as postgres_catalog
from rosey_rowstore.databases.postgres.database import PostgresDatabase
from rosey_rowstore.databases.postgres.listener import announce
from rosey_rowstore.databases.postgres.text import detect_text
from rosey_rowstore.databases.sqlite import catalog as sqlite_catalog
from rosey_rowstore.engine.model import ColumnType, Index, Limits

LIMITS = Limits()

TABLES = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN short AS varchar(5);
CREATE TABLE parents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE everything (
    a serial, b smallint NOT NULL DEFAULT 7, c text DEFAULT 'it''s', d numeric(10, 2) DEFAULT 1.50,
    e boolean DEFAULT true, f timestamptz DEFAULT now(), g timestamp, h uuid, i jsonb DEFAULT '{"a": [1]}',
    j mood, k short, l double precision DEFAULT 2.5, m bigint REFERENCES parents,
    n bigint GENERATED ALWAYS AS (b * 2) STORED, o date DEFAULT '2026-01-02', p char(3),
    PRIMARY KEY (b, a), UNIQUE (c));
CREATE INDEX everything_de ON everything (d, e);
CREATE INDEX everything_part ON everything (d) WHERE e;
CREATE INDEX everything_lower ON everything (lower(c));
CREATE TABLE "Not A Name" (id int);
CREATE TABLE bare (n int);
"""


async def test_postgres_tables_as_they_are(postgres_database: str) -> None:
    """Types, defaults, keys, references and plain indexes of a foreign table are all found."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA plain; SET search_path TO plain")
        await connection.execute(TABLES.encode())
        tables = await postgres_catalog.reflect(connection, "plain", 3)
    assert sorted(tables) == ["bare", "everything", "parents"]
    table = tables["everything"]
    assert table.primary_key == ("b", "a")
    assert tables["bare"].primary_key == ()
    assert table.generation == 3
    assert not table.managed
    columns = table.by_name
    assert (columns["a"].generated, columns["a"].has_default) == (False, True)
    assert columns["n"].generated
    assert tables["parents"].by_name["id"].generated
    assert columns["b"].bits == 16
    assert not columns["b"].nullable
    assert {name: columns[name].default for name in "bcdeflio"} == {
        "b": 7, "c": "it's", "d": "1.5", "e": True, "f": None, "l": 2.5, "i": {"a": [1]}, "o": "2026-01-02",
    }  # fmt: skip
    assert columns["f"].has_default
    assert (columns["d"].precision, columns["d"].scale) == (10, 2)
    assert (columns["f"].aware, columns["g"].aware) == (True, False)
    assert columns["k"].max_length == 5
    assert columns["m"].references == "parents"
    assert columns["j"].type is ColumnType.TEXT
    assert set(table.indexes) == {
        Index(name="everything_c_key", columns=("c",), unique=True),
        Index(name="everything_de", columns=("d", "e"), unique=False),
    }


async def test_text_of_this_server(postgres_database: str) -> None:
    """The embedded server orders by code point and folds every letter by itself."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        text = await detect_text(connection)
    assert (text.order, text.fold) == (None, None)


async def test_text_of_a_plain_c_database(postgres_database: str, plugin: str) -> None:
    """In a database that folds ASCII alone another collation folds."""
    async with await AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute(
            f"CREATE DATABASE {plugin} LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0".encode()
        )
        other = connection.info.get_parameters() | {"dbname": plugin, "password": connection.info.password}
        async with await AsyncConnection.connect(**other, autocommit=True) as plain:
            text = await detect_text(plain)
        await connection.execute(f"DROP DATABASE {plugin} WITH (FORCE)".encode())
    assert text.order is None
    assert text.fold is not None


async def test_a_change_reaches_the_other_process(postgres_database: str, plugin: str) -> None:
    """Two service processes: what one announces the other serves, without being asked to look."""
    first, second = (PostgresDatabase(postgres_database, may_provision=True) for _ in range(2))
    await first.open()
    await second.open()
    try:
        for database in (first, second):
            assert await database.tables(plugin, LIMITS) == {}
        async with await first.owner_session(plugin, LIMITS, 5) as connection:
            await connection.execute("CREATE TABLE t (id bigint PRIMARY KEY)")
            await announce(connection, plugin)
        async with asyncio.timeout(30):
            while "t" not in await second.tables(plugin, LIMITS):
                await asyncio.sleep(0.02)
        assert "t" in await first.tables(plugin, LIMITS)
    finally:
        await first.close()
        await second.close()


async def test_unchanged_tables_stay_the_same(postgres_database: str, plugin: str) -> None:
    """A change of one table gives that one a new generation; what was compiled for others stays."""
    database = PostgresDatabase(postgres_database, may_provision=True)
    await database.open()
    try:
        async with await database.owner_session(plugin, LIMITS, 5) as connection:
            await connection.execute("CREATE TABLE a (id bigint PRIMARY KEY)")
            await connection.execute("CREATE TABLE b (id bigint PRIMARY KEY)")
            before = await database.tables(plugin, LIMITS, stale={})
            await connection.execute("ALTER TABLE b ADD n bigint")
        after = await database.tables(plugin, LIMITS, stale=before)
        assert after["a"] is before["a"]
        assert after["b"].generation > before["b"].generation
    finally:
        await database.close()


def test_sqlite_tables_as_they_are() -> None:
    """Types, defaults, keys, references and plain indexes are found; the stores' own tables are not."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        """
        CREATE TABLE parents (id INTEGER PRIMARY KEY);
        CREATE TABLE everything (
            a INTEGER NOT NULL, b VARCHAR(5) DEFAULT 'it''s', c BOOLEAN DEFAULT 1,
            d NUMERIC(10, 2) DEFAULT 1.50, e DATETIME DEFAULT CURRENT_TIMESTAMP,
            f JSON DEFAULT '{"a": [1]}', g BIGINT REFERENCES parents (id),
            h BIGINT GENERATED ALWAYS AS (a * 2), PRIMARY KEY (b, a), UNIQUE (c, d));
        CREATE INDEX everything_g ON everything (g);
        CREATE INDEX everything_part ON everything (g) WHERE c;
        CREATE INDEX everything_sum ON everything (a + g);
        CREATE TABLE _rosey_replies (id TEXT);
        """
    )
    tables = sqlite_catalog.reflect(connection, 3)
    assert sorted(tables) == ["everything", "parents"]
    table = tables["everything"]
    columns = table.by_name
    assert table.primary_key == ("b", "a")
    number = tables["parents"].by_name["id"]
    assert (number.generated, number.has_default, number.nullable) == (False, True, False)
    assert columns["h"].generated
    assert not columns["b"].nullable
    assert columns["b"].max_length == 5
    assert {name: columns[name].default for name in "bcdef"} == {
        "b": "it's", "c": True, "d": "1.5", "e": None, "f": {"a": [1]},
    }  # fmt: skip
    assert columns["e"].has_default
    assert columns["g"].references == "parents"
    assert [(index.columns, index.unique) for index in table.indexes if index.columns != ("g",)] == [
        (("c", "d"), True)
    ]
    connection.close()
