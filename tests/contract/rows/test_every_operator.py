"""Every operator on every type and on null, against the model; what does not apply is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from contract.rows.model import COLUMNS, TYPES, Model, changed, matches, outer
from contract.rows.requests import LIKES, PATTERNS, RANGES, VALUES
from contract.rows.speaker import Speaker

COLUMN_OF = {kind: name for name, kind in TYPES.items() if name != "k"}
RANGELESS = ("boolean", "json")
NUMERIC = ("integer", "float", "decimal")
TEXTUAL = ("string", "text")


async def fill(speaker: Speaker, kind: str) -> Model:
    """Make the table with one row a value of the type, and one with null."""
    await speaker.call("tables.define", table="things", columns=COLUMNS)
    name, model = COLUMN_OF[kind], Model()
    rows = [{"k": number, name: value} for number, value in enumerate([*VALUES[kind], None])]
    for row in rows:
        model.insert(row)
    await speaker.call("rows.insert", table="things", rows=rows, returning=False)
    return model


def operands(operator: str, kind: str) -> list[Any]:
    """Return the operands worth trying; null last."""
    values = VALUES[kind]
    if operator == "$null":
        return [True, False]
    if operator in ("$in", "$nin"):
        return [[], values[:1], values, [None], [values[0], None]]
    if operator in ("$like", "$ilike"):
        return [*LIKES, None]
    return [*values, None]


def refused_code(operator: str, operand: Any, kind: str) -> str | None:
    """Return the code with which the contract refuses, or None."""
    if operator in RANGES and kind in RANGELESS:
        return "type_mismatch"
    if operator in PATTERNS and kind not in TEXTUAL:
        return "type_mismatch"
    if operand is None and operator in (*RANGES, *PATTERNS):
        return "value_required"
    return None


@pytest.mark.parametrize("kind", sorted(COLUMN_OF))
async def test_every_filter_operator(speaker: Speaker, kind: str) -> None:
    """Each operator with each operand finds the rows that the model finds, alone and negated."""
    model, name = await fill(speaker, kind), COLUMN_OF[kind]
    for operator in ["$eq", "$ne", *RANGES, "$in", "$nin", *PATTERNS, "$null"]:
        for operand in operands(operator, kind):
            condition = {name: {operator: operand}}
            code = refused_code(operator, operand, kind)
            for where in (condition, {"$not": condition}):
                if code:
                    refused = await speaker.refusal("rows.select", table="things", where=where)
                    assert refused.code == code, f"{where}: {refused}"
                    assert (refused.path or "").endswith(f".{name}"), f"{where}: {refused}"
                    continue
                page = await speaker.call("rows.select", table="things", where=where, limit=1000)
                expected = [row["k"] for row in model.rows if matches(row, where)]
                assert [row["k"] for row in page["rows"]] == expected, where


@pytest.mark.parametrize("kind", sorted(COLUMN_OF))
@pytest.mark.parametrize("direction", ["", "-"])
async def test_every_order(speaker: Speaker, kind: str, direction: str) -> None:
    """Each type sorts as the model does, nulls last in both directions, in pages too."""
    if kind == "json":
        pytest.skip("json has no order")
    model, order_by = await fill(speaker, kind), [direction + COLUMN_OF[kind]]
    expected = [row["k"] for row in model.select({}, order_by)]
    for limit in (1, 2, 1000):
        cursor, found = None, []
        while True:
            page = await speaker.call(
                "rows.select", table="things", order_by=order_by, limit=limit, cursor=cursor
            )
            found += [row["k"] for row in page["rows"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert found == expected


def allowed_change(operator: str, kind: str) -> bool:
    """Say whether the contract has this update operator for this type."""
    if operator in ("$inc", "$mul"):
        return kind in NUMERIC
    if operator in ("$max", "$min"):
        return kind not in RANGELESS
    return kind in ("datetime", "date") if operator == "$now" else True


SMALL: dict[str, list[Any]] = {
    "integer": [0, 1, -1, 7],
    "float": [0.0, 0.25, -8.5, 2],
    "decimal": ["0", "1.50", "-0.05", "99999999999999999999999999999999999999.9"],
}


@pytest.mark.parametrize("kind", sorted(COLUMN_OF))
async def test_every_update_operator(speaker: Speaker, kind: str) -> None:
    """Each update operator with each operand makes of each value, null too, what the model makes."""
    name, values = COLUMN_OF[kind], SMALL.get(kind, VALUES[kind])
    await speaker.call("tables.define", table="things", columns=COLUMNS)
    for operator in ["$set", "$inc", "$mul", "$max", "$min", "$unset"]:
        for operand in [True] if operator == "$unset" else [*values, None]:
            change = {name: {operator: operand}}
            if not allowed_change(operator, kind):
                refused = await speaker.refusal(
                    "rows.update", table="things", where={}, all_rows=True, set=change
                )
                assert (refused.code, refused.path) == ("type_mismatch", f"set.{name}"), change
                continue
            if operand is None and operator != "$set":
                refused = await speaker.refusal(
                    "rows.update", table="things", where={}, all_rows=True, set=change
                )
                assert (refused.code, refused.path) == ("value_required", f"set.{name}"), change
                continue
            rows = [{"k": number, name: value} for number, value in enumerate([*values, None])]
            model = Model()
            expected = [outer(name, changed(name, model.insert(row)[name], change[name])) for row in rows]
            await speaker.call("rows.delete", table="things", where={}, all_rows=True)
            await speaker.call("rows.insert", table="things", rows=rows, returning=False)
            reply = await speaker.call(
                "rows.update", table="things", where={}, all_rows=True, set=change, returning=True
            )
            found = [row[name] for row in sorted(reply["rows"], key=lambda row: row["k"])]
            assert found == expected, change


@pytest.mark.parametrize("kind", sorted(COLUMN_OF))
async def test_now_is_for_times(speaker: Speaker, kind: str) -> None:
    """`$now` sets a datetime or a date, and is refused elsewhere."""
    await fill(speaker, kind)
    members: dict[str, Any] = {"table": "things", "where": {"k": 0}, "set": {COLUMN_OF[kind]: {"$now": True}}}
    if not allowed_change("$now", kind):
        assert (await speaker.refusal("rows.update", **members)).code == "type_mismatch"
        return
    row = (await speaker.call("rows.update", **members, returning=True))["rows"][0]
    length = len("2026-11-23") if kind == "date" else len("2026-11-23T04:05:06.000007Z")
    assert len(row[COLUMN_OF[kind]]) == length
    assert row[COLUMN_OF[kind]][:10] == row["updated_at"][:10]


WRONG = {
    "string": [5, 5.5, True, [], {}],
    "text": [5, 5.5, True, [], {}],
    "integer": ["5", 5.5, 5.0, True, [], {}],
    "float": ["5", True, [], {}],
    "decimal": [5, 5.5, True, "x", "1e5", "", " 1", [], {}],
    "boolean": [0, 1, "true", [], {}],
    "datetime": [5, True, "x", "2026-11-23", "2026-11-23T04:05:06", [], {}],
    "date": [5, True, "x", "2026-11-23T00:00:00Z", [], {}],
    "uuid": [5, True, "x", "0" * 32 + "z", [], {}],
}


@pytest.mark.parametrize("kind", sorted(WRONG))
async def test_wrong_kinds_are_refused_everywhere(speaker: Speaker, kind: str) -> None:
    """A value of another kind is refused in an insert, a filter and an update, with its place."""
    await fill(speaker, kind)
    name = COLUMN_OF[kind]
    for value in WRONG[kind]:
        refused = await speaker.refusal("rows.insert", table="things", rows=[{}, {name: value}])
        assert (refused.code, refused.path) == ("type_mismatch", f"rows[1].{name}"), value
        refused = await speaker.refusal(
            "rows.select", table="things", where={"$or": [{name: {"$eq": value}}]}
        )
        assert refused.code == "type_mismatch", value
        assert (refused.path or "").startswith(f"where.$or[0].{name}"), value
        refused = await speaker.refusal(
            "rows.update", table="things", where={"k": -5}, set={name: {"$set": value}}
        )
        assert refused.code == "type_mismatch", value
        assert (refused.path or "").startswith(f"set.{name}"), value
