"""Steps that cannot run in a transaction, as CREATE INDEX CONCURRENTLY: marked, alone, resumable."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from support.migrations import Caller, Folder, Refused, on_postgres

TABLE = 'op.create_table("notes", *service_columns(), sa.Column("n", sa.BigInteger))'
INDEX = 'op.create_index("notes_n", "notes", ["n"], postgresql_concurrently=True)'
MARK = "transactional = False"


async def test_a_concurrent_index_needs_the_mark(call: Caller, folder: Folder, kind: str) -> None:
    """Without the mark Postgres refuses it inside the run's transaction; with it the run has three parts."""
    folder.write("0001", TABLE)
    path = folder.write("0002", INDEX, 'op.drop_index("notes_n", "notes", postgresql_concurrently=True)')
    folder.write("0003", 'op.add_column("notes", sa.Column("m", sa.Text))')
    if kind == "postgres":
        with pytest.raises(Refused, match="cannot run inside a transaction block"):
            await call.apply()
        assert await call.tables() == []
    path.write_text(
        path.read_text()
        .replace('down_revision = "0001"', "")
        .replace("\n\ndef upgrade", f"\n{MARK}\n\ndef upgrade", 1)
    )
    assert await call.apply() == ["0001", "0002", "0003"]
    indexes = (await call("tables.describe", table="notes"))["indexes"]
    assert [index["name"] for index in indexes] == ["notes_n"]
    assert await call.rollback("0001") == ["0003", "0002"]
    assert (await call("tables.describe", table="notes"))["indexes"] == []


async def test_what_was_done_before_a_failing_part_stays(call: Caller, folder: Folder, kind: str) -> None:
    """A run with a marked step is one transaction per part: the parts before the failing one are applied."""
    folder.write("0001", TABLE)
    folder.write("0002", INDEX, marks=MARK)
    broken = folder.write("0003", 'op.execute("SELECT nonsense")')
    with pytest.raises(Refused):
        await call.apply()
    status = await call.status()
    assert status["current"] == ("0002" if kind == "postgres" else None)
    assert status["drift"] == []
    broken.write_text(broken.read_text().replace("SELECT nonsense", "SELECT 1"))
    assert await call.apply() == (["0003"] if kind == "postgres" else ["0001", "0002", "0003"])


@on_postgres
async def test_an_interrupted_index_is_made_anew(call: Caller, folder: Folder, database_url: str) -> None:
    """An invalid index of an interrupted attempt is removed before the next; a finished one is taken."""
    folder.write("0001", TABLE)
    await call.apply()
    await call("rows.insert", table="notes", rows=[{"n": 1}, {"n": 1}])
    unique = INDEX.replace('["n"]', '["n"], unique=True')
    path = folder.write("0002", unique, marks=MARK)
    with pytest.raises(Refused, match="could not create unique index"):
        await call.apply()
    with psycopg.connect(database_url) as connection:
        left = connection.execute(
            "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE NOT i.indisvalid AND c.relnamespace = %s::regnamespace",
            (f'"plugin_{folder.plugin}"',),
        ).fetchone()
    assert left == (1,)
    path.write_text(path.read_text().replace(", unique=True", ""))
    assert await call.apply() == ["0002"]
    with psycopg.connect(database_url) as connection:
        connection.execute(f'DELETE FROM "plugin_{folder.plugin}"._rosey_version')
        connection.execute(f"""INSERT INTO "plugin_{folder.plugin}"._rosey_version VALUES ('0001')""")
    assert await call.apply() == ["0002"]  # killed after the index, before the version row
    assert (await call.status())["drift"] == []


async def test_a_dry_run_shows_a_marked_step_without_running_it(call: Caller, folder: Folder) -> None:
    """What could not be undone is not run: its SQL is written out."""
    folder.write("0001", TABLE)
    folder.write("0002", INDEX, marks=MARK)
    reply = await call("migrations.apply", dry_run=True)
    assert [step["revision"] for step in reply["applied"]] == ["0001", "0002"]
    assert "INDEX" in reply["sql"]
    assert "notes_n" in reply["sql"]
    assert await call.tables() == []


async def test_a_marked_step_may_not_destroy_either(call: Caller, folder: Folder, kind: str) -> None:
    """Outside of a transaction the statement is judged before it runs."""
    folder.write("0001", TABLE)
    await call.apply()
    folder.write("0002", 'op.drop_table("notes")', marks=MARK)
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert caught.value.code == "destructive_migration"
    assert await call.tables() == ["notes"]
    assert await call.apply(allow_destructive=True) == ["0002"]


async def test_a_concurrent_index_is_made_while_others_wait(call: Caller, folder: Folder, kind: str) -> None:
    """Runs that wait for the lock do not stand in the way of CREATE INDEX CONCURRENTLY."""
    folder.write("0001", TABLE)
    folder.write("0002", INDEX, marks=MARK)
    results = await asyncio.gather(*(call.apply() for _ in range(6)))
    assert sorted(len(result) for result in results) == [0, 0, 0, 0, 0, 2]
