"""What a revision's columns are served as: the same on both databases, whichever way they were declared."""

from __future__ import annotations

import pytest

from support.migrations import Caller, Folder, Refused

TABLE = """
op.create_table("t", *service_columns(),
    sa.Column("yes", sa.Boolean), sa.Column("day", sa.Date), sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("ratio", sa.Float), sa.Column("double", sa.Double), sa.Column("data", sa.JSON),
    sa.Column("price", sa.Numeric(30, 2)), sa.Column("exact", sa.Numeric), sa.Column("code", sa.Uuid),
    sa.Column("short", sa.String(10)), sa.Column("long", sa.Text), sa.Column("n", sa.BigInteger),
)
"""
OURS = """
op.create_table("t", *service_columns(),
    sa.Column("yes", sa.Boolean), sa.Column("day", sa.Date), sa.Column("at", columns.Datetime),
    sa.Column("ratio", columns.Double), sa.Column("double", columns.Double), sa.Column("data", columns.Json),
    sa.Column("price", columns.Decimal(30, 2)), sa.Column("exact", columns.Decimal),
    sa.Column("code", columns.Uuid), sa.Column("short", sa.String(10)), sa.Column("long", sa.Text),
    sa.Column("n", sa.BigInteger),
)
"""
KINDS = ["boolean", "date", "datetime", "float", "float", "json"]
KINDS += ["decimal", "decimal", "uuid", "string", "text", "integer"]
ROW = {
    "yes": True,
    "day": "2026-01-02",
    "at": "2026-01-02T03:04:05.000000Z",
    "ratio": 1.5,
    "double": 2.5,
    "data": {"a": [1, None]},
    "price": "1234567890123456789012345678.25",
    "exact": "12345678901234567890123456789.125",
    "code": "0b3bcb3a-2f1c-4a58-9d8e-2c24a1f3c0f1",
    "short": "ten letter",
    "long": "z",
    "n": 2**62,
}


@pytest.mark.parametrize("table", [TABLE, OURS], ids=["SQLAlchemy's types", "our types"])
async def test_values_come_back_as_they_were_given(call: Caller, folder: Folder, table: str) -> None:
    """Every type, exact to the last digit, also through a rebuild of the table; and can be asked for."""
    folder.write("0001", "from rosey_rowstore.migrations import columns\n" + table)
    await call.apply()
    (stored,) = (await call("rows.insert", table="t", rows=[ROW]))["rows"]
    assert {name: stored[name] for name in ROW} == ROW
    folder.write(
        "0002",
        'with op.batch_alter_table("t") as batch: batch.alter_column("short", type_=sa.String(20))',
    )
    await call.apply()
    for name, value in ROW.items():
        found = (await call("rows.select", table="t", where={name: value}))["rows"]
        if name != "data":  # an object in `where` is an operator's place, see docs/rows.md
            assert [{name: row[name] for name in ROW} for row in found] == [ROW], name
    columns = (await call("tables.describe", table="t"))["columns"]
    kinds = {column["name"]: column["type"] for column in columns}
    assert [kinds[name] for name in ROW] == KINDS
    with pytest.raises(Refused, match="out_of_range"):
        await call("rows.insert", table="t", rows=[{"price": "1.255"}])


async def test_a_table_without_a_primary_key_is_not_served(call: Caller, folder: Folder) -> None:
    """It is there, and the answer says why it cannot be used."""
    folder.write("0001", 'op.create_table("t", sa.Column("a", sa.Text))')
    await call.apply()
    with pytest.raises(Refused) as caught:
        await call("rows.select", table="t")
    assert caught.value.code == "table_not_found"
    assert "primary key" in caught.value.error["hint"]
