"""What an earlier service of this kind got wrong, each held by a test that fails on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contract.rows.speaker import Speaker
from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins

COLUMNS = [
    {"name": "name", "type": "string"},
    {"name": "n", "type": "integer"},
    {"name": "m", "type": "integer"},
    {"name": "at", "type": "datetime"},
]


async def table(speaker: Speaker, *rows: dict[str, Any], name: str = "things") -> None:
    """Make a table with rows in it."""
    await speaker.call("tables.define", table=name, columns=COLUMNS)
    await speaker.call("rows.insert", table=name, rows=list(rows))


async def names(speaker: Speaker, where: dict[str, Any]) -> list[str]:
    """Return the names of the matching rows, sorted."""
    page = await speaker.call("rows.select", table="things", where=where, order_by=["name"])
    return [row["name"] for row in page["rows"]]


@pytest.mark.parametrize(
    ("operator", "operand", "results"),
    [("$max", 5, [5, 7, 5]), ("$min", 5, [1, 5, 5])],
)
async def test_max_and_min_work_on_both_databases(
    speaker: Speaker, operator: str, operand: int, results: list[int]
) -> None:
    """`$max` and `$min` exist on SQLite too, and take the value where null was."""
    await table(speaker, {"name": "a", "n": 1}, {"name": "b", "n": 7}, {"name": "c"})
    await speaker.call("rows.update", table="things", where={}, all_rows=True, set={"n": {operator: operand}})
    page = await speaker.call("rows.select", table="things", order_by=["name"])
    assert [row["n"] for row in page["rows"]] == results


async def test_names_joined_by_underscores_do_not_meet(speaker: Speaker) -> None:
    """Plugin `a` with table `b_c` does not read plugin `a_b` with table `c`."""
    one = Speaker(speaker.application, speaker.plugin)
    other = Speaker(speaker.application, f"{speaker.plugin}_b")
    await table(other, {"name": "secret"}, name="c")
    await table(one, {"name": "own"}, name="b_c")
    page = await one.call("rows.select", table="b_c")
    assert [row["name"] for row in page["rows"]] == ["own"]
    assert (await one.refusal("rows.select", table="c")).code == "table_not_found"
    assert [entry["table"] for entry in (await one.call("tables.list"))["tables"]] == ["b_c"]


async def test_or_branches_keep_their_columns_together(speaker: Speaker) -> None:
    """A branch of `$or` with two columns asks for both of them."""
    await table(
        speaker, {"name": "a", "n": 1, "m": 1}, {"name": "b", "n": 1, "m": 2}, {"name": "c", "n": 2, "m": 2}
    )
    assert await names(speaker, {"$or": [{"n": 1, "m": 1}, {"n": 2, "m": 2}]}) == ["a", "c"]


async def test_columns_beside_or_still_count(speaker: Speaker) -> None:
    """A column beside `$or` narrows it."""
    await table(
        speaker, {"name": "a", "n": 1, "m": 1}, {"name": "b", "n": 1, "m": 2}, {"name": "c", "n": 2, "m": 1}
    )
    assert await names(speaker, {"m": 1, "$or": [{"n": 1}, {"n": 3}]}) == ["a"]


async def test_another_definition_is_a_conflict_and_not_a_success(speaker: Speaker) -> None:
    """Defining a table otherwise is refused with what differs, and the table stays."""
    await table(speaker, {"name": "a", "n": 1})
    refused = await speaker.refusal(
        "tables.define",
        table="things",
        columns=[{"name": "n", "type": "text"}, {"name": "new", "type": "text"}],
    )
    assert refused.code == "schema_conflict"
    described = await speaker.call("tables.describe", table="things")
    kinds = {column["name"]: column["type"] for column in described["columns"]}
    assert kinds["n"] == "integer"
    assert "new" not in kinds


async def test_datetimes_compare_as_times(speaker: Speaker) -> None:
    """Two ways to write one moment are equal, and a later one with a smaller text is later."""
    await table(
        speaker,
        {"name": "a", "at": "2026-11-23T12:00:00+02:00"},
        {"name": "b", "at": "2026-11-23T11:00:00Z"},
    )
    assert await names(speaker, {"at": "2026-11-23T10:00:00Z"}) == ["a"]
    assert await names(speaker, {"at": {"$gt": "2026-11-23T11:30:00+01:00"}}) == ["b"]


async def test_inc_counts_from_zero_where_null_was(speaker: Speaker) -> None:
    """`$inc` on null gives the increment."""
    await table(speaker, {"name": "a"})
    reply = await speaker.call(
        "rows.update", table="things", where={"name": "a"}, set={"n": {"$inc": 2}}, returning=True
    )
    assert reply["rows"][0]["n"] == 2


async def test_set_checks_types(speaker: Speaker) -> None:
    """`$set` and a plain value are checked alike, also when no row matches."""
    await table(speaker)
    for change in ("5", {"$set": "5"}, {"$set": True}, {"$set": 5.0}):
        refused = await speaker.refusal("rows.update", table="things", where={"name": "x"}, set={"n": change})
        assert (refused.code, (refused.path or "")[:5]) == ("type_mismatch", "set.n")


@pytest.mark.parametrize("payload", [b"[]", b"null", b"5", b'"x"', b"[null]", b"true"])
async def test_bodies_that_are_no_object_are_the_callers_fault(speaker: Speaker, payload: bytes) -> None:
    """A list or null as the body is refused as such."""
    reply, headers = await speaker.application.handle(speaker.plugin, "rows.select", payload, None)
    assert b'"invalid_request"' in reply
    assert headers is not None
    assert headers["Nats-Service-Error-Code"] == "400"


async def test_a_page_ends_before_it_is_too_large(speaker: Speaker) -> None:
    """Two megabytes of rows come as several pages, each within a reply, and none is lost."""
    await speaker.call("tables.define", table="big", columns=[{"name": "t", "type": "text"}])
    for start in range(0, 40, 10):
        rows = [{"t": f"{number:04}" + "é" * 25_000} for number in range(start, start + 10)]
        await speaker.call("rows.insert", table="big", rows=rows, returning=False)
    cursor, seen, pages = None, [], 0
    while True:
        page = await speaker.call("rows.select", table="big", limit=1000, cursor=cursor)
        seen += [int(row["t"][:4]) for row in page["rows"]]
        pages += 1
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == list(range(40))
    assert pages > 1


async def test_replies_past_the_limit_have_a_code_and_write_nothing(speaker: Speaker) -> None:
    """An update that would return more than a reply holds is refused and changes nothing."""
    await speaker.call(
        "tables.define",
        table="big",
        columns=[{"name": "t", "type": "text"}, {"name": "n", "type": "integer"}],
    )
    for _ in range(3):
        rows = [{"t": "x" * 90_000} for _ in range(5)]
        await speaker.call("rows.insert", table="big", rows=rows, returning=False)
    refused = await speaker.refusal(
        "rows.update", table="big", where={}, all_rows=True, set={"n": 1}, returning=True
    )
    assert refused.code == "reply_too_large"
    assert (await speaker.call("rows.select", table="big", where={"n": 1}, columns=["id"]))["rows"] == []


async def test_many_services_have_one_effect(
    request: pytest.FixtureRequest, speaker: Speaker, plugin: str
) -> None:
    """The same message at two applications of one database, at once and again, inserts one row."""
    await table(speaker)
    again = Application(speaker.application.database_url, Plugins.load(None), provision=True)
    await again.open()
    try:
        speakers = [speaker, Speaker(again, plugin)] * 5
        headers = {"Nats-Msg-Id": "once"}
        replies = await asyncio.gather(
            *(one.call("rows.insert", headers, table="things", rows=[{"name": "a"}]) for one in speakers)
        )
    finally:
        await again.close()
    assert len({reply["rows"][0]["id"] for reply in replies}) == 1
    assert await names(speaker, {}) == ["a"]
