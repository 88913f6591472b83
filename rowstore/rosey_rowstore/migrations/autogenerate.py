"""A revision written from the difference between declared tables and the schema."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic import autogenerate
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext

from rosey_rowstore.migrations import columns
from rosey_rowstore.migrations.steps import StepError
from rosey_rowstore.migrations.targets import Target

__all__ = ["write"]

_ALL: Final = "all_service_columns"
# What rendered code may name beside `sa`, `op` and our own columns.
_IMPORTS: Final = {
    "postgresql": "from sqlalchemy.dialects import postgresql",
    "sqlite": "from sqlalchemy.dialects import sqlite",
}


def write(tables: str, target: Target) -> dict[str, Any]:
    """Return the bodies of `upgrade` and `downgrade` as `{"upgrade", "downgrade", "imports", "empty"}`.

    Args:
        tables: The source of `tables.py`, which declares `metadata`.
        target: The schema as it is.

    Raises:
        StepError: `tables.py` does not load.
    """
    context = MigrationContext.configure(
        target.connection,
        opts={
            "target_metadata": _metadata(tables),
            "include_name": _is_plugins,
            "compare_type": True,
            # Serves on both databases: SQLite cannot alter a column, so that a batch rebuilds the table.
            "render_as_batch": True,
            "render_item": _render,
        },
    )
    script = autogenerate.produce_migrations(context, context.opts["target_metadata"])
    assert script.upgrade_ops is not None  # noqa: S101 - produced above
    assert script.downgrade_ops is not None  # noqa: S101 - produced above
    for operation in script.upgrade_ops.ops:
        if isinstance(operation, ops.CreateTableOp):
            operation.columns = _shortened(operation.columns)
    bodies = {
        name: autogenerate.render_python_code(
            operations,
            render_as_batch=True,
            render_item=_render,
            migration_context=context,
        )
        for name, operations in (("upgrade", script.upgrade_ops), ("downgrade", script.downgrade_ops))
    }
    text = "".join(bodies.values())
    imports = [line for name, line in _IMPORTS.items() if f"{name}." in text]
    ours = [name for name in sorted(columns.__all__) if re.search(rf"\b{name}\(", text)]
    if ours:
        imports += ["", f"from {columns.__name__} import {', '.join(ours)}"]
    return {**bodies, "imports": imports, "empty": script.upgrade_ops.is_empty()}


def _shortened(items: Sequence[sa.schema.SchemaItem]) -> list[sa.schema.SchemaItem]:
    """Return a new table's parts with the service's own columns, where all are there, as one."""
    rest = [item for item in items if not item.info.get(columns.SERVICE)]
    if len(items) - len(rest) < len(columns.service_columns()):
        return list(items)
    rest = [item for item in rest if not isinstance(item, sa.PrimaryKeyConstraint)]
    return [sa.Column("id", info={_ALL: True}), *rest]


def _metadata(tables: str) -> sa.MetaData:
    names: dict[str, Any] = {"__name__": "tables", "__file__": "tables.py"}
    try:
        exec(compile(tables, "tables.py", "exec", dont_inherit=True), names)  # noqa: S102 - the child's task
    except BaseException as error:
        raise StepError(f"tables.py failed: {type(error).__name__}: {error}") from error
    metadata = names.get("metadata")
    if not isinstance(metadata, sa.MetaData):
        raise StepError("tables.py declares no `metadata = sqlalchemy.MetaData()`.")
    return metadata


def _is_plugins(name: str | None, kind: str, _: Any) -> bool:
    return not (kind == "table" and (name or "").startswith(("_", "sqlite_")))


def _render(kind: str, item: Any, _: Any) -> str | Literal[False]:
    if kind == "column" and item.info.get(_ALL):
        return "*service_columns()"
    if kind == "type" and type(item).__module__ == columns.__name__:
        return f"{type(item).__name__}()"
    if kind == "server_default" and isinstance(getattr(item, "arg", item), columns.moment):
        return "moment()"
    return False
