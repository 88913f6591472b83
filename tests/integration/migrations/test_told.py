"""What is told of a run: while it is, to those who ask; at its end, as an event and in the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from rosey_rowstore.application import Application
from support.migrations import Caller, Events, Folder, Refused

PAUSE = "import time; time.sleep(0.8)"


async def seen(call: Caller) -> list[dict[str, str]]:
    """Return what `status` tells of a run until there is none, each state once."""
    told: list[dict[str, str]] = []
    for _ in range(300):
        running = (await call.status())["running"]
        if running is None and told:
            return told
        if running is not None:
            states = {step["revision"]: step["state"] for step in running["steps"]}
            if not told or told[-1] != states:
                told.append(states)
        await asyncio.sleep(0.02)
    raise AssertionError(told)


async def test_status_tells_how_far_a_run_is(
    call: Caller, folder: Folder, database_url: str, kind: str
) -> None:
    """Another service process sees it too: what waits, what runs, what is done; at the end nothing."""
    folder.write("0001", 'op.create_table("notes", *service_columns())')
    folder.write("0002", PAUSE)
    folder.write("0003", PAUSE)
    await call.status()
    other = Application(database_url, folder.plugins, provision=False)
    await other.open()
    try:
        run = asyncio.create_task(call("migrations.apply"))
        told = await seen(Caller(other, folder.plugin))
        assert (await call.status())["running"] is None
        await run
    finally:
        await other.close()
    assert {"0001": "done", "0002": "running", "0003": "waiting"} in told
    assert {"0001": "done", "0002": "done", "0003": "running"} in told


async def test_status_names_who_runs(call: Caller, folder: Folder) -> None:
    """Who asked for the run that is under way, which way it goes, and since when."""
    folder.write("0001", PAUSE)
    run = asyncio.create_task(call("migrations.apply"))
    running = None
    while running is None:
        await asyncio.sleep(0.02)
        running = (await call.status())["running"]
    assert (running["who"], running["direction"]) == (f"plugin {folder.plugin}", "apply")
    assert running["started_at"].endswith("Z")
    await run


async def test_a_failure_is_an_event_and_a_log_line(
    call: Caller, folder: Folder, kind: str, events: Events, caplog: Any
) -> None:
    """Plugin, revision, statement, SQLSTATE, message and line of the file, in both."""
    folder.write("0001", 'op.execute("SELECT nonsense")')
    with caplog.at_level(logging.INFO, "rosey_rowstore.migrations"), pytest.raises(Refused):
        await call.apply()
    ((place, event),) = await events(1)
    assert place == f"{folder.plugin}.migration"
    assert event["plugin"] == folder.plugin
    assert (event["kind"], event["direction"], event["result"]) == ("migration", "apply", "failed")
    assert (event["code"], event["revision"]) == ("migration_failed", "0001")
    assert event["line"] == folder.line_of("0001", "nonsense")
    assert event["statement"] == "SELECT nonsense"
    assert event["sqlstate"] == ("42703" if kind == "postgres" else None)
    assert "nonsense" in event["error"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert {name: vars(record)[name] for name in ("plugin", "revision", "statement", "sqlstate", "line")} == {
        name: event[name] for name in ("plugin", "revision", "statement", "sqlstate", "line")
    }


async def test_a_run_that_did_something_is_an_event(call: Caller, folder: Folder, events: Events) -> None:
    """What was applied or rolled back, by whom; nothing to do is no news, and neither is a dry run."""
    folder.write("0001", 'op.create_table("notes", *service_columns())', 'op.drop_table("notes")')
    await call.apply(dry_run=True)
    await call.apply()
    await call.apply()
    await call.rollback("base")
    found = await events(2)
    assert [(event["direction"], event["result"], event["revisions"]) for _, event in found] == [
        ("apply", "done", ["0001"]),
        ("rollback", "done", ["0001"]),
    ]
    assert found[0][1]["who"] == f"plugin {folder.plugin}"


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "memory"], indirect=True)
async def test_a_failure_says_that_the_schema_is_as_before(call: Caller, folder: Folder) -> None:
    """A database in memory included, which a child sees as a copy: what fails leaves it as it was."""
    folder.write("0001", 'op.create_table("notes", *service_columns())', 'op.drop_table("notes")')
    assert await call.apply() == ["0001"]
    await call("rows.insert", table="notes", rows=[{}])
    path = folder.write("0002", 'op.create_table("more", *service_columns())\nraise RuntimeError("no")')
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert "The schema is as before." in caught.value.error["hint"]
    assert await call.tables() == ["notes"]
    path.write_text(path.read_text().replace('raise RuntimeError("no")', ""))
    assert await call.apply() == ["0002"]
    assert len((await call("rows.select", table="notes"))["rows"]) == 1
    assert await call.rollback("base") == ["0002", "0001"]
