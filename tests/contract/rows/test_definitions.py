"""Definitions on both databases: additions are made, anything else is told and nothing is done."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import pytest

from contract.rows.speaker import Speaker


def column(name: str, kind: str = "integer", **members: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **members}


async def define(speaker: Speaker, *columns: dict[str, Any], **members: Any) -> list[str]:
    reply = await speaker.call("tables.define", **{"table": "t", "columns": list(columns), **members})
    changes: list[str] = reply["changes"]
    return changes


DEFAULTS = {
    "string": "it's",
    "text": 'a "quoted" \\ text',
    "integer": -(2**63),
    "float": 1e300,
    "decimal": "99999999999999999999999999999999999999.5",
    "boolean": True,
    "datetime": "2026-11-23T04:05:06.000007Z",
    "date": "2026-11-23",
    "uuid": "00000000-0000-0000-0000-00000000000f",
    "json": {"a": [1, None, "x'y"]},
}


@pytest.mark.parametrize("kind", DEFAULTS)
async def test_the_same_definition_changes_nothing(speaker: Speaker, kind: str) -> None:
    """Every type with its default is as it was defined, filled, and defined again without a change."""
    wanted = [column("c", kind, default=DEFAULTS[kind], required=True), column("n", kind)]
    indexes = [] if kind == "json" else [{"columns": ["c", "n"]}, {"columns": ["n"], "unique": True}]
    assert len(await define(speaker, *wanted, indexes=indexes)) == 1 + len(indexes)
    assert await define(speaker, *wanted, indexes=indexes) == []
    row = (await speaker.call("rows.insert", table="t", rows=[{}]))["rows"][0]
    assert (row["c"], row["n"]) == (DEFAULTS[kind], None)
    rows = (await speaker.call("rows.insert", table="t", rows=[{"n": DEFAULTS[kind]}, {}]))["rows"]
    assert [row["c"] for row in rows] == [DEFAULTS[kind]] * 2
    described = (await speaker.call("tables.describe", table="t"))["columns"]
    assert [(c["type"], c["required"], c["default"]) for c in described if c["name"] == "c"] == [
        (kind, True, DEFAULTS[kind])
    ]


async def test_additions_keep_what_is_there(speaker: Speaker) -> None:
    """New columns, indexes and longer texts come to a table with rows; a column left out is kept."""
    await define(speaker, column("s", "string", max_length=3), column("old"))
    await speaker.call("rows.insert", table="t", rows=[{"s": "abc", "old": 1}])
    assert (await speaker.refusal("rows.insert", table="t", rows=[{"s": "abcd"}])).code == "value_too_large"
    wanted = [column("s", "string", max_length=4), column("new", default=7, required=True)]
    dry = await define(speaker, *wanted, indexes=[{"columns": ["new"]}], dry_run=True)
    assert (await speaker.refusal("rows.select", table="t", columns=["new"])).code == "column_not_found"
    assert await define(speaker, *wanted, indexes=[{"columns": ["new"]}]) == dry
    assert len(dry) == 3
    assert await define(speaker, *wanted, indexes=[{"columns": ["new"]}]) == []
    await speaker.call("rows.insert", table="t", rows=[{"s": "abcd"}])
    rows = (await speaker.call("rows.select", table="t", columns=["s", "old", "new"]))["rows"]
    assert rows == [{"s": "abc", "old": 1, "new": 7}, {"s": "abcd", "old": None, "new": 7}]


BEFORE = [column("i", unique=True), column("s", "string", max_length=9), column("d", default=5)]
CONFLICTS = {
    "another type": [column("i", "text", unique=True)],
    "required": [column("d", default=5, required=True)],
    "another default": [column("d", default=6)],
    "no default": [column("d")],
    "a shorter text": [column("s", "string", max_length=8)],
    "no longer unique": [column("i")],
    "a reference": [column("d", references="t")],
    "a new column that is required": [column("x", required=True)],
}


@pytest.mark.parametrize("wanted", CONFLICTS.values(), ids=CONFLICTS)
async def test_what_is_no_addition_is_refused_whole(speaker: Speaker, wanted: list[Any]) -> None:
    """A definition that takes something away is refused, and its additions are not made either."""
    await define(speaker, *BEFORE)
    refused = await speaker.refusal("tables.define", table="t", columns=[column("added"), *wanted])
    assert refused.code == "schema_conflict"
    assert wanted[0]["name"] in refused.message
    assert await define(speaker, *BEFORE) == []
    assert (await speaker.refusal("rows.select", table="t", columns=["added"])).code == "column_not_found"


MALFORMED = {
    "a bad table name": ({"table": "T"}, "invalid_name", "table"),
    "a bad column name": ({"columns": [column("1")]}, "invalid_name", "columns[0].name"),
    "a service column": ({"columns": [column("id")]}, "invalid_request", "columns[0].name"),
    "a column twice": ({"columns": [column("a"), column("a")]}, "invalid_request", "columns[1].name"),
    "an unknown type": ({"columns": [column("a", "int")]}, "invalid_request", "columns[0].type"),
    "a default of another type": (
        {"columns": [column("a", default="5")]},
        "type_mismatch",
        "columns[0].default",
    ),
    "a default too long": (
        {"columns": [column("a", "string", max_length=2, default="abc")]},
        "value_too_large",
        "columns[0].default",
    ),
    "a length of no text": (
        {"columns": [column("a", max_length=5)]},
        "invalid_request",
        "columns[0].max_length",
    ),
    "a length of nothing": (
        {"columns": [column("a", "string", max_length=0)]},
        "out_of_range",
        "columns[0].max_length",
    ),
    "an index over nothing": ({"indexes": [{"columns": []}]}, "invalid_request", "indexes[0].columns"),
    "an index over no column": (
        {"indexes": [{"columns": ["b"]}]},
        "column_not_found",
        "indexes[0].columns[0]",
    ),
    "an index over json": (
        {"columns": [column("j", "json")], "indexes": [{"columns": ["j"]}]},
        "invalid_request",
        "indexes[0].columns[0]",
    ),
    "an unknown member": (
        {"columns": [{**column("a"), "uniqe": True}]},
        "invalid_request",
        "columns[0].uniqe",
    ),
}


@pytest.mark.parametrize(("members", "code", "path"), MALFORMED.values(), ids=MALFORMED)
async def test_malformed_definitions_name_their_place(
    speaker: Speaker, members: dict[str, Any], code: str, path: str
) -> None:
    """A definition that is wrong in itself is refused with its place, and no table is made."""
    request = {"table": "t", "columns": [column("a")], **members}
    refused = await speaker.refusal("tables.define", **request)
    assert (refused.code, refused.path) == (code, path)
    assert (await speaker.call("tables.list"))["tables"] == []


async def test_names_of_any_length_have_indexes_of_their_own(speaker: Speaker) -> None:
    """The longest names, and names that would run together, give different indexes."""
    names = ["a" * 63, "a" * 62 + "b", "a__b", "a", "b"]
    indexes = [{"columns": [name]} for name in names] + [{"columns": ["a", "b"]}]
    await define(speaker, *[column(name) for name in names], table="x" * 63, indexes=indexes)
    found = (await speaker.call("tables.describe", table="x" * 63))["indexes"]
    assert len({index["name"] for index in found}) == len(indexes)
    assert all(len(index["name"]) <= 63 for index in found)


async def test_a_referenced_row_stays(speaker: Speaker) -> None:
    """A reference holds: what is missing cannot be named, what is named cannot be deleted."""
    missing = await speaker.refusal("tables.define", table="u", columns=[column("t_id", references="t")])
    assert missing.code == "table_not_found", json.dumps(missing.error)
    await define(speaker, column("n"))
    await define(speaker, column("t_id", references="t"), table="u")
    parent = (await speaker.call("rows.insert", table="t", rows=[{}]))["rows"][0]["id"]
    await speaker.call("rows.insert", table="u", rows=[{"t_id": parent}, {"t_id": None}])
    refused = await speaker.refusal("rows.insert", table="u", rows=[{"t_id": parent + 1000}])
    assert refused.code == "foreign_key_violation"
    refused = await speaker.refusal("rows.delete", table="t", where={"id": parent})
    assert refused.code == "foreign_key_violation"


async def test_a_table_that_was_dropped_begins_anew(speaker: Speaker) -> None:
    """Dropping needs the name twice, forgets rows and lengths, and is refused for what is not there."""
    await define(speaker, column("s", "string", max_length=2))
    await define(speaker, column("s", "string", max_length=4))
    refused = await speaker.refusal("tables.drop", table="t", confirm="u")
    assert refused.code == "invalid_request"
    assert await speaker.call("tables.drop", table="t", confirm="t") == {}
    assert (await speaker.refusal("rows.select", table="t")).code == "table_not_found"
    assert (await speaker.refusal("tables.drop", table="t", confirm="t")).code == "table_not_found"
    await define(speaker, column("s", "string", max_length=2))
    assert (await speaker.refusal("rows.insert", table="t", rows=[{"s": "abc"}])).code == "value_too_large"


async def test_estimates_know_a_table_at_once(speaker: Speaker) -> None:
    """A table that was just filled is not told to be empty, in the list and described."""
    for table, count in (("t", 3), ("u", 0), ("v", 700)):
        await speaker.call("tables.define", table=table, columns=[column("n")])
        await speaker.call("rows.insert", table=table, rows=[{"n": n} for n in range(count)], returning=False)
    listed = (await speaker.call("tables.list"))["tables"]
    assert [(table["table"], table["rows"]) for table in listed] == [("t", 3), ("u", 0), ("v", 700)]
    assert all(table["bytes"] > 0 for table in listed)
    described = await speaker.call("tables.describe", table="v")
    assert described["rows"] == 700
    assert described["bytes"] >= listed[2]["bytes"]


async def test_a_text_fits_its_index_or_is_refused(speaker: Speaker) -> None:
    """What an index cannot hold has its code before it reaches a database, the same on both."""
    indexes = [{"columns": ["t"]}]
    await define(
        speaker, column("t", "text"), column("free", "text"), column("n", unique=True), indexes=indexes
    )
    mixed = "".join(random.Random(1).choices(string.ascii_letters, k=2600))  # what no server can compress
    for text in (mixed, "é" * 1300, "😀" * 650):
        rows = [{"t": text, "free": text * 9}]
        await speaker.call("rows.insert", table="t", rows=rows, returning=False)
        found = await speaker.refusal("rows.insert", table="t", rows=[{}, {"t": text + "x"}])
        assert (found.code, found.path) == ("value_too_large", "rows[1].t")
        found = await speaker.refusal("rows.update", table="t", where={"n": 9}, set={"t": text + "x"})
        assert (found.code, found.path) == ("value_too_large", "set.t")
    where = {"t": {"$eq": "x" * 5000}}
    assert (await speaker.call("rows.select", table="t", where=where))["rows"] == []


async def test_several_texts_of_one_index(speaker: Speaker) -> None:
    """Texts that fit an index each and not together: Postgres cannot hold them, and says so with a code."""
    await define(speaker, column("s", "text"), column("t", "text"), indexes=[{"columns": ["s", "t"]}])
    letters = random.Random(1).choices(string.ascii_letters, k=4000)
    row = {"s": "".join(letters[:2000]), "t": "".join(letters[2000:])}
    if speaker.application.database_url.startswith("sqlite"):
        assert (await speaker.call("rows.insert", table="t", rows=[row]))["count"] == 1
        return
    refused = await speaker.refusal("rows.insert", table="t", rows=[row])
    assert (refused.code, "t__s__t__idx" in refused.message) == ("value_too_large", True)
