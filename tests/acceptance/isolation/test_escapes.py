"""Text that means to become SQL: in the row service it stays text, in a careless one it is a way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from acceptance.isolation.worlds import World, strong
from support.secure import Installation

WORD = "the victim's word"


def ways_out(victim: str) -> list[str]:
    """Texts that leave a quoted value, a quoted name or a bare place, and take another role."""
    read = f'SELECT word FROM "{victim}".secrets'
    endings = [f"; RESET ROLE; {read}; --", f"; RESET SESSION AUTHORIZATION; {read}; --", f" UNION {read} --"]
    starts = ["'", '"', "", "own", "own'", 'own"', "1=1", "\\'", "')", '")']
    return [
        *(start + ending for start in starts for ending in endings),
        "RESET ROLE",
        f"{victim}.secrets",
        f'"{victim}"."secrets"',
        f'{victim}"."secrets',
        "pg_catalog.pg_shadow",
        "rosey_service.logins",
        f"(SELECT word FROM {victim}.secrets)",
        f"$$; RESET ROLE; {read}; $$",
        "$1; RESET ROLE",
        "%s; RESET ROLE",
        f"E'\\x27; {read}; --",
    ]


def requests(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One request for each place that takes text."""
    yield "rows.select", {"table": text}
    yield "rows.select", {"table": "own", "columns": [text]}
    yield "rows.select", {"table": "own", "where": {text: 1}}
    yield "rows.select", {"table": "own", "where": {"word": text}}
    yield "rows.select", {"table": "own", "where": {"word": {"$in": [text]}}}
    yield "rows.select", {"table": "own", "where": {"word": {"$like": text}}}
    yield "rows.select", {"table": "own", "where": {"word": {text: 1}}}
    yield "rows.select", {"table": "own", "order_by": [text]}
    yield "rows.select", {"table": "own", "cursor": text}
    yield "rows.search", {"table": "own", "query": text}
    yield "rows.search", {"table": "own", "query": "a", "columns": [text]}
    yield "rows.aggregate", {"table": "own", "measures": {text: {"$count": "*"}}}
    yield "rows.aggregate", {"table": "own", "measures": {"n": {"$max": text}}}
    yield "rows.aggregate", {"table": "own", "measures": {"n": {"$count": "*"}}, "group_by": [text]}
    yield "rows.insert", {"table": "own", "rows": [{"word": text}]}
    yield "rows.insert", {"table": "own", "rows": [{text: 1}]}
    yield "rows.update", {"table": "own", "where": {"id": 1}, "set": {"word": text}, "returning": True}
    yield "rows.update", {"table": "own", "where": {"id": 1}, "set": {text: 1}}
    yield "rows.upsert", {"table": "own", "rows": [{"id": 1}], "key": [text]}
    yield "rows.delete", {"table": text, "where": {"id": 1}}
    yield "rows.transact", {"operations": [{"op": "insert", "table": text, "rows": [{"word": "a"}]}]}
    yield "tables.define", {"table": text, "columns": [{"name": "a", "type": "text"}]}
    yield "tables.define", {"table": "other", "columns": [{"name": text, "type": "text"}]}
    yield "tables.define", {"table": "other", "columns": [{"name": "a", "type": text}]}
    yield "tables.define", {"table": "own", "columns": [{"name": "more", "type": "text", "default": text}]}
    yield (
        "tables.define",
        {"table": "other", "columns": [{"name": "a", "references": text}]},
    )
    yield "tables.define", {"table": "own", "columns": [], "indexes": [{"columns": [text]}]}
    yield "tables.describe", {"table": text}
    yield "tables.drop", {"table": text, "confirm": text}


async def ask(world: World, tail: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    subject = f"storage.v1.{world.mallory}.{tail}"
    reply = await world.attacker.request(subject, json.dumps(body).encode(), headers=headers, timeout=20)
    return json.loads(reply.data)


async def prepare(world: World) -> None:
    for connection, plugin, table, word in (
        (world.watch, world.victim, "secrets", WORD),
        (world.own, world.mallory, "own", "mine"),
    ):
        for tail, body in (
            ("tables.define", {"table": table, "columns": [{"name": "word", "type": "text"}]}),
            ("rows.insert", {"table": table, "rows": [{"word": word}]}),
        ):
            reply = await connection.request(
                f"storage.v1.{plugin}.{tail}", json.dumps(body).encode(), timeout=20
            )
            assert b'"error"' not in reply.data, reply.data


async def test_text_stays_text(installation: Installation, plugin: str) -> None:
    """Whatever stands in whatever place, nothing of another plugin is answered, changed or dropped."""
    world = await strong(installation, plugin, admin=False)
    async with world.stack:
        await prepare(world)
        count = 0
        for text in ways_out(world.theirs):
            for tail, body in requests(text):
                answer = await ask(world, tail, body)
                count += 1
                assert WORD not in json.dumps(answer), (tail, body)
                assert answer.get("error", {}).get("code") != "internal", (tail, body, answer)
            for header in ("Nats-Msg-Id", "traceparent"):
                body = {"table": "own", "rows": [{"word": "a"}]}
                answer = await ask(world, "rows.insert", body, {header: text})
                assert WORD not in json.dumps(answer), (header, text)
        assert count > 1000
        reply = await world.watch.request(
            f"storage.v1.{world.victim}.rows.select", b'{"table": "secrets"}', timeout=20
        )
        assert [row["word"] for row in json.loads(reply.data)["result"]["rows"]] == [WORD]
        # What was stored as text comes back as it was.
        text = ways_out(world.theirs)[0]
        answer = await ask(
            world, "rows.select", {"table": "own", "where": {"word": text}, "columns": ["word"]}
        )
        assert {row["word"] for row in answer["result"]["rows"]} == {text}


def careless(connection: psycopg.Connection[Any], plugin: str, **places: str) -> str:
    """A row service as nobody should write one: one login for all, a role per plugin, texts joined."""
    given = {"table": "own", "column": "word", "value": "mine", "order": "id", **places}
    statement = (
        f'SET ROLE "plugin_{plugin}"; SET search_path TO "plugin_{plugin}";'
        f" SELECT * FROM {given['table']} WHERE {given['column']} = '{given['value']}'"
        f" ORDER BY {given['order']}"
    )
    answers = []
    try:
        cursor = connection.execute(statement.encode())
        more: bool | None = True
        while more:
            if cursor.description is not None:
                answers += cursor.fetchall()
            more = cursor.nextset()
    except psycopg.Error as error:
        answers.append((str(error),))
    connection.execute("RESET ROLE")
    return json.dumps(answers, default=str)


@pytest.mark.parametrize("place", ["table", "column", "value", "order"])
async def test_the_same_texts_are_ways_out_of_a_careless_service(
    place: str, installation: Installation, plugin: str
) -> None:
    """In each place at least one of the texts reads the neighbour's table: so the test above can fail."""
    world = await strong(installation, plugin, admin=False)
    async with world.stack:
        await prepare(world)
        with psycopg.connect(installation.database, autocommit=True) as connection:
            connection.execute("SET standard_conforming_strings TO on")
            leaked = [
                text
                for text in ways_out(world.theirs)
                if WORD in careless(connection, world.mallory, **{place: text})
            ]
        assert leaked


async def test_a_login_of_its_own_has_no_way_out(installation: Installation, plugin: str) -> None:
    """Even SQL itself, run as the plugin's own logins, reaches neither a neighbour nor the passwords."""
    world = await strong(installation, plugin, admin=False)
    async with world.stack:
        await prepare(world)
    with psycopg.connect(installation.database, autocommit=True) as admin:
        rows = admin.execute(
            "SELECT role, password FROM rosey_service.logins WHERE plugin = %s", (world.mallory,)
        ).fetchall()
    assert len(rows) == 2
    for role, password in rows:
        with psycopg.connect(installation.database, user=role, password=password, autocommit=True) as own:
            for statement in (
                f'SELECT * FROM "{world.theirs}".secrets',
                f'RESET ROLE; SELECT * FROM "{world.theirs}".secrets',
                f'RESET SESSION AUTHORIZATION; SELECT * FROM "{world.theirs}".secrets',
                f'SET ROLE "{world.theirs}"',
                f'SET ROLE "{world.theirs}_owner"',
                "SET ROLE rosey_service",
                "SET SESSION AUTHORIZATION postgres",
                "SELECT * FROM rosey_service.logins",
                "SELECT rolpassword FROM pg_authid",
                f'DROP SCHEMA "{world.theirs}" CASCADE',
                f'CREATE TABLE "{world.theirs}".mine (n int)',
                "CREATE TABLE public.mine (n int)",
                "CREATE SCHEMA mine",
                "CREATE TEMP TABLE mine (n int)",
                "SELECT lo_from_bytea(0, 'x')",
                "COPY (SELECT 1) TO PROGRAM 'true'",
                "SELECT pg_read_file('/etc/passwd')",
                "CREATE ROLE mine",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    own.execute(statement.encode())
            seen = own.execute(
                "SELECT query FROM pg_stat_activity WHERE usename <> current_user"
                " AND query <> '' AND query <> '<insufficient privilege>'"
            )
            assert seen.fetchall() == []
