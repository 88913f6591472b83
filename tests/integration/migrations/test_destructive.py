"""What a run may lose is refused unless it is meant; what loses nothing passes."""

from __future__ import annotations

import pytest

from support.migrations import Caller, Folder, Refused, on_sqlite

START = """
op.create_table(
    "notes", *service_columns(),
    sa.Column("text", sa.String(40)),
    sa.Column("n", sa.BigInteger),
    sa.Column("amount", sa.Numeric(10, 2)),
)
op.create_table("old", *service_columns())
op.create_index("notes_n", "notes", ["n"])
"""

BATCH = 'with op.batch_alter_table("notes") as batch:'
REBUILD = 'with op.batch_alter_table("notes", recreate="auto") as batch:'

LOSES = {
    "drop_table": ('op.drop_table("old")', "drops the table 'old'"),
    "drop_column": ('op.drop_column("notes", "amount")', "drops the column notes.amount"),
    "batch_drop_column": (
        f'{REBUILD} batch.drop_column("amount")',
        "drops the column notes.amount",
    ),
    "raw_drop_table": ("op.execute('DROP TABLE old')", "drops the table 'old'"),
    "raw_drop_column": ("op.execute('ALTER TABLE notes DROP COLUMN text')", "drops the column notes.text"),
    "shorter": (
        f'{BATCH} batch.alter_column("text", type_=sa.String(10))',
        "narrows notes.text",
    ),
    "other_type": (
        f'{BATCH} batch.alter_column("n", type_=sa.SmallInteger, postgresql_using="n::smallint")',
        "narrows notes.n",
    ),
    "fewer_digits": (
        f'{BATCH} batch.alter_column("amount", type_=sa.Numeric(8, 2))',
        "narrows notes.amount",
    ),
    "made_again": (
        'op.drop_table("old")\nop.create_table("old", *service_columns())',
        "drops the table 'old'",
    ),
    "column_made_again": (
        'op.drop_column("notes", "amount")\nop.add_column("notes", sa.Column("amount", sa.BigInteger))',
        "drops the column notes.amount",
    ),
}
KEEPS = {
    "add": 'op.add_column("notes", sa.Column("more", sa.Text))',
    "rename_table": 'op.rename_table("old", "new")',
    "raw_rename_column": "op.execute('ALTER TABLE notes RENAME COLUMN n TO m')",
    "batch_rename": f'{BATCH} batch.alter_column("n", new_column_name="m")',
    "rebuild": f'{REBUILD} batch.alter_column("text", nullable=False)',
    "longer": f'{BATCH} batch.alter_column("text", type_=sa.String(80))',
    "to_text": f'{BATCH} batch.alter_column("text", type_=sa.Text())',
    "more_digits": f'{BATCH} batch.alter_column("amount", type_=sa.Numeric(12, 2))',
    "drop_index": 'op.drop_index("notes_n", "notes")',
    "own_helper": 'op.create_table("helper", *service_columns())\nop.drop_table("helper")',
}


@pytest.fixture
async def started(call: Caller, folder: Folder) -> Caller:
    """A plugin with a table and a row in it."""
    folder.write("0001", START)
    await call.apply()
    await call("rows.insert", table="notes", rows=[{"text": "a", "n": 1, "amount": "1.5"}])
    return call


@pytest.mark.slow
async def test_what_loses_is_refused_unless_it_is_meant(started: Caller, folder: Folder) -> None:
    """Dropping and narrowing, by operation or by SQL, is `destructive_migration`; with the flag it may be."""
    for what, (code, words) in LOSES.items():
        folder.write("0002", code, after="0001")
        with pytest.raises(Refused) as caught:
            await started.apply(dry_run=True)
        assert caught.value.code == "destructive_migration", what
        assert words in caught.value.error["message"], what
        assert caught.value.details["revision"] == "0002"
        assert await started.apply(dry_run=True, allow_destructive=True) == ["0002"], what


async def test_a_column_goes_when_that_is_meant(started: Caller, folder: Folder) -> None:
    """Refused, nothing has changed; allowed, it is done, and the rest of the row is kept."""
    folder.write("0002", 'op.drop_column("notes", "amount")')
    before = await started("tables.describe", table="notes")
    with pytest.raises(Refused):
        await started.apply()
    assert await started("tables.describe", table="notes") == before
    assert await started.apply(allow_destructive=True) == ["0002"]
    assert (await started.status())["drift"] == []
    row = (await started("rows.select", table="notes"))["rows"][0]
    assert (row["text"], "amount" in row) == ("a", False)


async def test_what_loses_nothing_passes(started: Caller, folder: Folder) -> None:
    """Additions, renames, rebuilds, wider types and dropped indexes need no flag."""
    for what, code in KEEPS.items():
        folder.write("0002", code, after="0001")
        assert await started.apply(dry_run=True) == ["0002"], what


async def test_rows_stay_through_a_rebuild(started: Caller, folder: Folder) -> None:
    """A table that SQLite has to rebuild keeps its rows."""
    folder.write("0002", KEEPS["rebuild"])
    assert await started.apply() == ["0002"]
    rows = (await started("rows.select", table="notes"))["rows"]
    assert [(row["text"], row["amount"]) for row in rows] == [("a", "1.50")]


async def test_a_fresh_install_needs_no_flag(call: Caller, folder: Folder) -> None:
    """A history that drops what it made itself loses nothing that was there when the run began."""
    folder.write("0001", START)
    folder.write("0002", 'op.drop_table("old")')
    assert await call.apply() == ["0001", "0002"]


async def test_a_dry_run_tells_it_too(started: Caller, folder: Folder) -> None:
    """The refusal comes before anything is done, from a dry run as well."""
    folder.write("0002", 'op.drop_table("old")')
    with pytest.raises(Refused) as caught:
        await started.apply(dry_run=True)
    assert caught.value.code == "destructive_migration"


async def test_rows_survive_a_rebuild_that_others_refer_to(call: Caller, folder: Folder) -> None:
    """On SQLite a rebuilt table is dropped for a moment: rows that refer to it stay, and stay checked."""
    folder.write(
        "0001",
        """
        op.create_table("parents", *service_columns(), sa.Column("n", sa.BigInteger))
        op.create_table(
            "children", *service_columns(),
            sa.Column("parent", sa.BigInteger, sa.ForeignKey("parents.id", ondelete="CASCADE")),
        )
        """,
    )
    await call.apply()
    parent = (await call("rows.insert", table="parents", rows=[{"n": 1}]))["rows"][0]["id"]
    await call("rows.insert", table="children", rows=[{"parent": parent}])
    folder.write(
        "0002",
        """
        with op.batch_alter_table("parents", recreate="auto") as batch:
            batch.add_column(sa.Column("m", sa.Text))
        """,
    )
    await call.apply()
    assert len((await call("rows.select", table="children"))["rows"]) == 1
    with pytest.raises(Refused, match="foreign_key_violation"):
        await call("rows.insert", table="children", rows=[{"parent": parent + 1}])


async def test_a_reference_that_a_revision_breaks_is_found(call: Caller, folder: Folder) -> None:
    """A row left referring to nothing fails the run, on SQLite at its end."""
    folder.write(
        "0001",
        """
        op.create_table("parents", *service_columns())
        parent = sa.Column("parent", sa.BigInteger, sa.ForeignKey("parents.id"))
        op.create_table("children", *service_columns(), parent)
        """,
    )
    await call.apply()
    parent = (await call("rows.insert", table="parents", rows=[{}]))["rows"][0]["id"]
    await call("rows.insert", table="children", rows=[{"parent": parent}])
    folder.write("0002", 'op.execute("DELETE FROM parents")')
    with pytest.raises(Refused) as caught:
        await call.apply()
    assert caught.value.code == "migration_failed"
    assert len((await call("rows.select", table="parents"))["rows"]) == 1


@on_sqlite
async def test_no_id_is_given_twice_after_a_rebuild(call: Caller, folder: Folder) -> None:
    """What a deleted row was called no other row is, also when SQLite had to make the table anew."""
    folder.write("0001", 'op.create_table("notes", *service_columns(), sa.Column("text", sa.String(40)))')
    folder.write("0002", KEEPS["rebuild"])
    assert await call.apply() == ["0001", "0002"]
    first = (await call("rows.insert", table="notes", rows=[{"text": "a"}]))["rows"][0]["id"]
    await call("rows.delete", table="notes", where={"id": first})
    assert (await call("rows.insert", table="notes", rows=[{"text": "b"}]))["rows"][0]["id"] > first
