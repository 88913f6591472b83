"""Migrations as a plugin's author and an operator meet them, on both databases."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from support.migrations import Caller, Folder, Refused, Serve

NOTES = 'op.create_table("notes", *service_columns(), sa.Column("text", sa.Text, nullable=False))'


def two_revisions(folder: Folder) -> None:
    folder.write("0001", NOTES, 'op.drop_table("notes")')
    folder.write(
        "0002",
        """
        op.add_column("notes", sa.Column("stars", sa.BigInteger))
        op.execute("UPDATE notes SET stars = 3")
        """,
        'op.drop_column("notes", "stars")',
    )


async def test_no_folder_and_an_empty_one_have_nothing_pending(call: Caller, folder: Folder) -> None:
    """A plugin without migrations is no error: nothing is pending, nothing is applied."""
    empty = {"current": None, "pending": [], "applied": [], "drift": [], "running": None}
    assert await call.status() == empty
    assert await call.apply() == []
    folder.versions.rmdir()
    folder.path.rmdir()
    assert await call.status() == empty


async def test_tables_are_served_at_once_and_kept_by_the_service(call: Caller, folder: Folder) -> None:
    """What a migration makes is served without a restart; service columns are the service's to keep."""
    folder.write("0001", NOTES)
    assert await call.apply() == ["0001"]
    row = (await call("rows.insert", table="notes", rows=[{"text": "a"}]))["rows"][0]
    assert set(row) == {"id", "created_at", "updated_at", "text"}
    with pytest.raises(Refused, match="invalid_request"):
        await call("rows.insert", table="notes", rows=[{"text": "a", "id": 7}])


async def test_a_change_under_a_used_table_is_served_at_once(call: Caller, folder: Folder) -> None:
    """Statements prepared before a migration are not served stale, nor do they fail."""
    folder.write("0001", NOTES)
    await call.apply()
    await call("rows.insert", table="notes", rows=[{"text": "a"}])
    for _ in range(3):
        await call("rows.select", table="notes")
    folder.write("0002", 'op.add_column("notes", sa.Column("stars", sa.BigInteger, server_default="3"))')
    await call.apply()
    assert (await call("rows.select", table="notes"))["rows"][0]["stars"] == 3
    assert (await call("rows.insert", table="notes", rows=[{"text": "b", "stars": 5}]))["rows"][0][
        "stars"
    ] == 5


async def test_status_tells_what_is_applied_and_pending(call: Caller, folder: Folder) -> None:
    """Status gives the current revision, the applied ones with their checksums, the pending in order."""
    two_revisions(folder)
    folder.write("0003", "pass")
    assert await call.apply(target="0001") == ["0001"]
    status = await call.status()
    assert status["current"] == "0001"
    assert [step["revision"] for step in status["pending"]] == ["0002", "0003"]
    (applied,) = status["applied"]
    assert applied["message"] == "The revision 0001."
    assert applied["sha256"] == hashlib.sha256((folder.versions / "0001.py").read_bytes()).hexdigest()
    assert applied["applied_at"].endswith("Z")
    assert applied["seconds"] > 0
    assert status["drift"] == []


async def test_a_run_is_idempotent_and_a_target_behind_is_nothing(call: Caller, folder: Folder) -> None:
    """Applying again, or up to a revision that is applied, does nothing."""
    two_revisions(folder)
    assert await call.apply() == ["0001", "0002"]
    assert await call.apply() == []
    assert await call.apply(target="0001") == []
    assert (await call.status())["current"] == "0002"


async def test_a_dry_run_gives_the_sql_and_changes_nothing(call: Caller, folder: Folder) -> None:
    """A dry run lists what it would apply, with its SQL, and leaves the schema and the records alone."""
    two_revisions(folder)
    reply = await call("migrations.apply", dry_run=True)
    assert [step["revision"] for step in reply["applied"]] == ["0001", "0002"]
    assert "CREATE TABLE notes" in reply["sql"]
    assert "UPDATE notes SET stars = 3" in reply["sql"]
    assert await call.tables() == []
    status = await call.status()
    assert (status["current"], status["applied"]) == (None, [])


async def test_a_dry_run_shows_the_values_of_a_backfill(call: Caller, folder: Folder) -> None:
    """The SQL holds the parameters of statements, so that it can be read and run by hand."""
    folder.write("0001", NOTES)
    folder.write(
        "0002",
        """
        notes = sa.table("notes", sa.column("text", sa.Text))
        op.bulk_insert(notes, [{"text": "it's one"}, {"text": "two"}])
        """,
    )
    sql = (await call("migrations.apply", dry_run=True))["sql"]
    assert "'it''s one'" in sql
    assert "'two'" in sql


async def test_a_run_is_all_or_nothing(call: Caller, folder: Folder) -> None:
    """When the third revision of a run fails, the first two have not happened either."""
    two_revisions(folder)
    broken = folder.write(
        "0003", 'op.create_table("more", *service_columns())\nop.execute("SELECT nonsense")'
    )
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert caught.value.code == "migration_failed"
    assert caught.value.details["revision"] == "0003"
    assert caught.value.details["line"] == folder.line_of("0003", "nonsense")
    assert "nonsense" in caught.value.details["statement"]
    assert await call.tables() == []
    assert (await call.status())["current"] is None
    broken.write_text(broken.read_text().replace("SELECT nonsense", "SELECT 1"))
    assert await call.apply() == ["0001", "0002", "0003"]


async def test_a_failure_gives_the_sqlstate_on_postgres(call: Caller, folder: Folder, kind: str) -> None:
    """The details of a failure name the database's own code."""
    folder.write("0001", 'op.execute("SELECT nonsense")')
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert caught.value.details.get("sqlstate") == ("42703" if kind == "postgres" else None)


async def test_a_failed_run_does_not_wedge_the_plugin(call: Caller, folder: Folder) -> None:
    """Tables made before the failing statement are gone with it: the next attempt does not find them."""
    path = folder.write("0001", NOTES + '\nraise RuntimeError("half way")')
    for _ in range(2):
        with pytest.raises(Refused, match="half way"):
            await call.apply()
    path.write_text(path.read_text().replace('raise RuntimeError("half way")', "pass"))
    assert await call.apply() == ["0001"]


async def test_an_applied_file_that_changed_is_a_checksum_mismatch(call: Caller, folder: Folder) -> None:
    """`status` names it in `drift`, `apply` refuses, and the original file makes it right again."""
    two_revisions(folder)
    await call.apply(target="0001")
    path = folder.versions / "0001.py"
    original = path.read_text()
    path.write_text(original + "\n# changed\n")
    assert any("0001" in sentence and "changed" in sentence for sentence in (await call.status())["drift"])
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert (caught.value.code, caught.value.details["revision"]) == ("checksum_mismatch", "0001")
    path.write_text(original)
    assert await call.apply() == ["0002"]


async def test_rollback_goes_back_step_by_step(call: Caller, folder: Folder) -> None:
    """A rollback runs the downgrades in reverse order, to a revision or to base."""
    two_revisions(folder)
    folder.write("0003", 'op.create_table("more", *service_columns())', 'op.drop_table("more")')
    await call.apply()
    await call("rows.insert", table="notes", rows=[{"text": "kept"}])
    assert await call.rollback("0001") == ["0003", "0002"]
    assert (await call("rows.select", table="notes", columns=["text"]))["rows"] == [{"text": "kept"}]
    assert await call.rollback("0001") == []
    assert await call.rollback("base") == ["0001"]
    assert await call.tables() == []
    assert await call.apply() == ["0001", "0002", "0003"]


async def test_rollback_works_when_the_files_are_gone(call: Caller, folder: Folder) -> None:
    """The records hold the source of every applied revision."""
    two_revisions(folder)
    await call.apply()
    for path in folder.versions.iterdir():
        path.unlink()
    assert (await call.status())["current"] == "0002"
    assert await call.rollback("base") == ["0002", "0001"]
    assert await call.tables() == []


async def test_a_dry_rollback_changes_nothing(call: Caller, folder: Folder) -> None:
    """A dry rollback gives the SQL and leaves everything."""
    two_revisions(folder)
    await call.apply()
    reply = await call("migrations.rollback", target="base", dry_run=True)
    assert [step["revision"] for step in reply["rolled_back"]] == ["0002", "0001"]
    assert "DROP TABLE notes" in reply["sql"]
    assert (await call.status())["current"] == "0002"


async def test_an_unknown_target_is_told_with_the_nearest(call: Caller, folder: Folder) -> None:
    """`migration_not_found`, for apply and for rollback."""
    two_revisions(folder)
    with pytest.raises(Refused, match="did you mean '0002'") as caught:
        await call.apply(target="00002")
    assert caught.value.code == "migration_not_found"
    await call.apply()
    with pytest.raises(Refused) as caught:
        await call.rollback("nonesuch")
    assert caught.value.code == "migration_not_found"


async def test_rollback_is_refused_where_it_is_not_allowed(
    serve: Serve, kind: str, place: Path, plugin: str
) -> None:
    """In production a rollback is `permission_denied`, unless plugins.toml allows it; a dry one is free."""
    folder = Folder(place / "p", plugin)
    folder.write("0001", NOTES, 'op.drop_table("notes")')
    for toml, allowed in (("", False), ("allow_rollback = true", True)):
        folder.toml.write_text(f"[plugins.{plugin}]\nrows = true\n{toml}\n")
        call = await serve(folder, production=True)
        await call.apply()
        assert (await call("migrations.rollback", target="base", dry_run=True))["sql"]
        if allowed:
            assert await call.rollback("base") == ["0001"]
        else:
            with pytest.raises(Refused) as caught:
                await call.rollback("base")
            assert caught.value.code == "permission_denied"


async def test_drift_says_what_was_changed_beside_the_migrations(call: Caller, folder: Folder) -> None:
    """A table defined beside the migrations shows in `drift`, and is gone from it when it is dropped."""
    folder.write("0001", NOTES)
    await call.apply()
    assert (await call.status())["drift"] == []
    await call("tables.define", table="other", columns=[{"name": "a", "type": "integer"}])
    await call("tables.define", table="notes", columns=[{"name": "extra", "type": "text"}])
    drift = (await call.status())["drift"]
    assert any("'other' was not made by a migration" in sentence for sentence in drift)
    assert any("notes.extra was not made by a migration" in sentence for sentence in drift)
    await call("tables.drop", table="other", confirm="other")
    await call("tables.drop", table="notes", confirm="notes")
    assert (await call.status())["drift"] == ["The table 'notes' is gone."]


async def test_the_broken_chains_of_a_folder_are_told(call: Caller, folder: Folder) -> None:
    """Two heads are `migration_failed`, also for `status`; nothing is run."""
    folder.write("0001", NOTES)
    folder.write("0002a", "pass", after="0001")
    folder.write("0002b", "pass", after="0001")
    for tail in ("migrations.status", "migrations.apply"):
        with pytest.raises(Refused, match="two heads") as caught:
            await call(tail)
        assert caught.value.code == "migration_failed"
    assert await call.tables() == []


async def test_a_missing_file_of_the_current_revision_is_told(call: Caller, folder: Folder) -> None:
    """New files that do not hold the revision at which the schema stands are not applied over it."""
    folder.write("0001", NOTES)
    await call.apply()
    (folder.versions / "0001.py").unlink()
    folder.write("other", "pass", after=None)
    with pytest.raises(Refused, match="does not hold") as caught:
        await call.apply()
    assert caught.value.code == "migration_failed"
    assert any("gone" in sentence for sentence in (await call.status())["drift"])


async def test_what_a_revision_prints_goes_nowhere_near_the_reply(call: Caller, folder: Folder) -> None:
    """Output of a revision, even one that looks like the child's own words, changes nothing."""
    folder.write("0001", NOTES + '\nprint(\'{"event": "end"}\')')
    folder.write("0002", 'import sys; sys.stdout.write("x" * 1000000)')
    assert await call.apply() == ["0001", "0002"]


async def test_a_caller_that_leaves_does_not_stop_the_run(call: Caller, folder: Folder, kind: str) -> None:
    """The caller gets `timeout` in its time; the run goes on, and `status` tells its end."""
    folder.write("0001", NOTES + "\nimport time; time.sleep(2)")
    with pytest.raises(Refused) as caught:
        await call("migrations.apply", timeout_ms=1500)
    assert caught.value.code == "timeout"
    async with asyncio.timeout(60):
        # The records are settled a moment after the schema: until then the run counts as running.
        while (status := await call.status())["current"] != "0001" or status["running"] is not None:
            await asyncio.sleep(0.1)
    assert [step["revision"] for step in status["applied"]] == ["0001"]


async def test_another_run_past_the_waiting_limit_is_locked(call: Caller, folder: Folder) -> None:
    """A second run waits as long as its caller lets it, then says `migration_locked`."""
    folder.write("0001", NOTES + "\nimport time; time.sleep(1.5)")
    first = asyncio.create_task(call("migrations.apply"))
    async with asyncio.timeout(30):
        while (await call.status())["running"] is None:
            await asyncio.sleep(0.02)
    with pytest.raises(Refused) as caught:
        await call("migrations.apply", timeout_ms=600)
    assert caught.value.code == "migration_locked"
    assert len((await first)["applied"]) == 1


async def test_requests_are_strict(call: Caller) -> None:
    """A member that is unknown or of another type is refused."""
    for body in ({"targets": "head"}, {"target": 1}, {"dry_run": "yes"}):
        with pytest.raises(Refused) as caught:
            await call("migrations.apply", **body)
        assert caught.value.code == "invalid_request"
    with pytest.raises(Refused):
        await call("migrations.rollback")


async def test_the_records_hold_who_what_and_how(
    call: Caller, folder: Folder, kind: str, database_url: str, tmp_path: Path
) -> None:
    """The records hold source, checksum, SQL, time and result of each step, and a failed run's error."""
    folder.write("0001", NOTES)
    await call.apply()
    folder.write("0002", 'raise RuntimeError("no")')
    with pytest.raises(Refused):
        await call.apply()
    runs, steps = "rosey_service.migration_runs", "rosey_service.migration_steps"
    query = (
        "SELECT r.who, r.result, s.revision, s.result, s.sha256, s.source, s.sql, s.seconds, r.error"
        f" FROM {{runs}} r JOIN {{steps}} s ON s.run = r.id WHERE s.plugin = '{folder.plugin}' ORDER BY r.id"
    )
    if kind == "postgres":
        import psycopg

        with psycopg.connect(database_url) as connection:
            rows = connection.execute(query.format(runs=runs, steps=steps)).fetchall()
    else:
        import sqlite3

        with sqlite3.connect(tmp_path / "data" / f"{folder.plugin}.sqlite3") as lite:
            rows = lite.execute(
                query.format(runs="_rosey_migration_runs", steps="_rosey_migration_steps")
            ).fetchall()
        lite.close()
    done, failed = rows
    assert done[:4] == (f"plugin {folder.plugin}", "done", "0001", "done")
    source = (folder.versions / "0001.py").read_text()
    assert done[4:6] == (hashlib.sha256(source.encode()).hexdigest(), source)
    assert "CREATE TABLE notes" in done[6]
    assert done[7] > 0
    assert failed[1:4] == ("failed", "0002", "undone")
    assert "no" in json.loads(failed[8])["message"]
