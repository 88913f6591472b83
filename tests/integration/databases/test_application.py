"""The application answers everything: a result, or a code that says what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rosey_rowstore.application import Application
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin, Plugins
from rosey_rowstore.protocol import Fault

COLUMNS = [{"name": "n", "type": "integer", "unique": True}]
PLUGINS = Plugins(
    default_limits=Limits(request_size=4000),
    plugins={
        "norows": Plugin(name="norows"),
        "small": Plugin(name="small", rows=True, limits=Limits(rows_per_insert=3, rows_per_page=2)),
    },
)


@pytest.fixture(params=["postgres", "sqlite"])
async def application(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Application]:
    """An application on one database; the test runs once on each."""
    url = f"sqlite:{tmp_path}" if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    made = Application(url, PLUGINS, provision=True)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def ask(
    application: Application, plugin: str, tail: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[str, Any]:
    """Return `("", result)` or the error's code and its members."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply, reply_headers = await application.handle(plugin, tail, payload, headers)
    found = json.loads(reply)
    if "result" in found:
        assert reply_headers is None
        return "", found["result"]
    assert reply_headers is not None
    assert reply_headers["Nats-Service-Error"]
    return found["error"]["code"], found["error"]


@pytest.mark.parametrize(
    ("name", "request_", "code"),
    [
        ("p", ("rows.insert", b"x" * 5000, None), "request_too_large"),
        ("p", ("rows.insert", b"{", None), "invalid_json"),
        ("p", ("rows.insert", [1], None), "invalid_request"),
        ("p", ("rows.instert", {}, None), "invalid_request"),
        ("p", ("migrations.apply", {"target": 1}, None), "invalid_request"),
        ("P!", ("rows.select", {"table": "t"}, None), "invalid_name"),
        ("x_owner", ("rows.select", {"table": "t"}, None), None),
        ("norows", ("rows.select", {"table": "t"}, None), "not_provisioned"),
        ("p", ("rows.select", {"table": "t"}, {"Storage-Timeout": "soon"}), "invalid_request"),
        ("p", ("rows.insert", {"table": "t", "rows": []}, {"Nats-Msg-Id": ""}), "invalid_request"),
        ("p", ("rows.select", {"table": "t"}, None), "table_not_found"),
        ("p", ("tables.drop", {"table": "t", "confirm": "u"}, None), "invalid_request"),
        ("p", ("tables.drop", {"table": "t", "confirm": "t"}, None), "table_not_found"),
        ("p", ("tables.describe", {"table": "t"}, None), "table_not_found"),
    ],
)
async def test_coded_refusals(
    application: Application, plugin: str, name: str, request_: tuple[str, Any, Any], code: str | None
) -> None:
    """Every wrong request has its code, the same on both databases."""
    found, error = await ask(application, plugin if name == "p" else name, *request_)
    if code is None:  # a matter of Postgres' roles
        assert found in ("invalid_name", "table_not_found")
    else:
        assert found == code, error


async def test_rows_per_insert(application: Application) -> None:
    """A plugin's own limit on rows of one insert is a code, and nothing is written."""
    await ask(application, "small", "tables.define", {"table": "t", "columns": COLUMNS})
    body = {"table": "t", "rows": [{"n": n} for n in range(4)]}
    assert (await ask(application, "small", "rows.insert", body))[0] == "too_many_rows"
    assert (await ask(application, "small", "rows.select", {"table": "t"}))[1]["rows"] == []


async def test_rows_per_page(application: Application) -> None:
    """A page as large as the plugin may has its rows, one larger a code; without a limit it ends early."""
    await ask(application, "small", "tables.define", {"table": "t", "columns": COLUMNS})
    body = {"table": "t", "rows": [{"n": n} for n in range(3)]}
    assert (await ask(application, "small", "rows.insert", body))[0] == ""
    measures = {"rows": {"$count": "*"}}
    for tail, members in (
        ("rows.select", {}),
        ("rows.search", {"query": "x", "columns": ["s"]}),
        ("rows.aggregate", {"measures": measures, "group_by": ["n"]}),
    ):
        if tail == "rows.search":
            columns = [*COLUMNS, {"name": "s", "type": "text", "default": "x"}]
            await ask(application, "small", "tables.define", {"table": "t", "columns": columns})
        for limit in ({}, {"limit": None}, {"limit": 2}):
            code, found = await ask(application, "small", tail, {"table": "t", **members, **limit})
            assert code == "", found
            assert len(found["rows"]) == 2
            assert found.get("next_cursor") or found.get("truncated")
        code, error = await ask(application, "small", tail, {"table": "t", **members, "limit": 3})
        assert (code, error.get("path")) == ("out_of_range", "limit")


async def test_tables_from_definition_to_drop(application: Application, plugin: str) -> None:
    """A table is defined, listed, described, referred to and dropped, in its order."""
    assert (await ask(application, plugin, "tables.list", {}))[1] == {"tables": []}
    define = {"table": "t", "columns": COLUMNS}
    assert (await ask(application, plugin, "tables.define", define | {"dry_run": True}))[1]["changes"]
    assert (await ask(application, plugin, "tables.list", {}))[1] == {"tables": []}
    assert (await ask(application, plugin, "tables.define", define))[1]["changes"]
    assert (await ask(application, plugin, "tables.define", define))[1] == {"changes": []}
    children = {"table": "u", "columns": [{"name": "t", "type": "integer", "references": "t"}]}
    assert (await ask(application, plugin, "tables.define", children))[0] == ""
    absent = {"table": "v", "columns": [{"name": "t", "type": "integer", "references": "tt"}]}
    assert (await ask(application, plugin, "tables.define", absent))[0] == "table_not_found"
    _, described = await ask(application, plugin, "tables.describe", {"table": "u"})
    columns = {column["name"]: column for column in described["columns"]}
    assert list(columns) == ["id", "created_at", "updated_at", "t"]
    assert columns["t"]["references"] == "t"
    assert [columns[name]["writable"] for name in columns] == [False, False, False, True]
    drop = {"table": "t", "confirm": "t"}
    assert (await ask(application, plugin, "tables.drop", drop))[0] == "foreign_key_violation"
    assert (await ask(application, plugin, "tables.drop", {"table": "u", "confirm": "u"})) == ("", {})
    assert (await ask(application, plugin, "tables.drop", drop)) == ("", {})
    assert (await ask(application, plugin, "rows.select", {"table": "t"}))[0] == "table_not_found"


async def test_definitions_at_once(application: Application, plugin: str) -> None:
    """Twenty callers define one table at once: one makes it, all are answered alike."""
    define = {"table": "t", "columns": COLUMNS, "indexes": [{"columns": ["created_at"]}]}
    answers = await asyncio.gather(*(ask(application, plugin, "tables.define", define) for _ in range(20)))
    assert {code for code, _ in answers} == {""}
    assert sum(bool(result["changes"]) for _, result in answers) == 1


async def test_rows_while_the_table_grows(application: Application, plugin: str) -> None:
    """Requests under way while columns are added all succeed, and see the new column at once."""
    await ask(application, plugin, "tables.define", {"table": "t", "columns": COLUMNS})
    stop = asyncio.Event()
    failures: list[Any] = []

    async def load(start: int) -> None:
        for n in range(start, start + 100_000):
            if stop.is_set():
                return
            for tail, body in (
                ("rows.insert", {"table": "t", "rows": [{"n": n}]}),
                ("rows.select", {"table": "t"}),
            ):
                code, found = await ask(application, plugin, tail, body)
                if code:
                    failures.append(found)

    tasks = [asyncio.create_task(load(k * 1_000_000)) for k in range(4)]
    for number in range(8):
        await asyncio.sleep(0.05)
        column = {"name": f"c{number}", "type": "string", "default": f"d{number}"}
        code, error = await ask(
            application, plugin, "tables.define", {"table": "t", "columns": [*COLUMNS, column]}
        )
        assert code == "", error
        _, page = await ask(application, plugin, "rows.select", {"table": "t", "limit": 1})
        assert page["rows"][0][f"c{number}"] == f"d{number}"
    stop.set()
    await asyncio.gather(*tasks)
    assert failures == []


async def test_two_processes_share_a_new_table_at_once(
    request: pytest.FixtureRequest, plugin: str, tmp_path: Path
) -> None:
    """What one process defines the other serves in the very next request."""
    for url in (request.getfixturevalue("postgres_database"), f"sqlite:{tmp_path}"):
        pair = [Application(url, Plugins.load(None), provision=True) for _ in range(2)]
        for one in pair:
            await one.open()
        try:
            for number in range(10):
                first, second = pair[number % 2], pair[(number + 1) % 2]
                table = f"t{number // 2}"
                columns = [*COLUMNS, {"name": f"c{number}", "type": "integer"}]
                code, error = await ask(first, plugin, "tables.define", {"table": table, "columns": columns})
                assert code == "", error
                body = {"table": table, "rows": [{"n": number, f"c{number}": number}]}
                assert (await ask(second, plugin, "rows.insert", body))[0] == ""
                assert (await ask(first, plugin, "rows.select", {"table": table}))[1]["rows"]
        finally:
            for one in pair:
                await one.close()


async def test_own_faults_show_a_reference_alone(
    application: Application, plugin: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the service's own tells the caller a reference, and the log everything."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret inside")

    await ask(application, plugin, "tables.define", {"table": "t", "columns": COLUMNS})
    monkeypatch.setattr(application._database.planner, "plan", broken)
    code, error = await ask(application, plugin, "rows.select", {"table": "t"})
    assert code == "internal"
    assert "secret" not in json.dumps(error)
    reference = error["message"].rsplit(" ", 1)[1].rstrip(".")
    assert any(reference in record.getMessage() and record.exc_info for record in caplog.records)


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite:", "", "postgres"])
def test_database_url(url: str) -> None:
    """A URL of another database is refused when the application is made."""
    with pytest.raises(Fault) as caught:
        Application(url, Plugins.load(None), provision=True)
    assert caught.value.code == "invalid_request"


async def test_database_away_at_start(tmp_path: Path) -> None:
    """With the database away opening says so, and requests get `unavailable` instead of hanging."""
    application = Application(
        f"postgresql://nobody@/none?host={tmp_path}&port=1", Plugins.load(None), provision=True
    )
    with pytest.raises(Fault):
        await application.open()
    try:
        assert (await ask(application, "q", "rows.select", {"table": "t"}))[0] == "unavailable"
    finally:
        await application.close()
