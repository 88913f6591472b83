"""A revision written from the difference between declared tables and the schema."""

from __future__ import annotations

from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic import autogenerate
from alembic.runtime.migration import MigrationContext

from rosey_rowstore.migrations.columns import moment
from rosey_rowstore.migrations.steps import StepError
from rosey_rowstore.migrations.targets import Target

__all__ = ["write"]

_COLUMNS: Final = "rosey_rowstore.migrations.columns"
# What rendered code may name beside `sa` and `op`.
_IMPORTS: Final = {
    "postgresql": "from sqlalchemy.dialects import postgresql",
    "sqlite": "from sqlalchemy.dialects import sqlite",
    _COLUMNS: f"import {_COLUMNS}",
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
            "render_as_batch": target.connection.dialect.name == "sqlite",
            "render_item": _render,
        },
    )
    script = autogenerate.produce_migrations(context, context.opts["target_metadata"])
    assert script.upgrade_ops is not None  # noqa: S101 - produced above
    assert script.downgrade_ops is not None  # noqa: S101 - produced above
    bodies = {
        name: autogenerate.render_python_code(
            operations,
            render_as_batch=target.connection.dialect.name == "sqlite",
            render_item=_render,
            migration_context=context,
        )
        for name, operations in (("upgrade", script.upgrade_ops), ("downgrade", script.downgrade_ops))
    }
    text = "".join(bodies.values())
    imports = [line for name, line in _IMPORTS.items() if f"{name}." in text]
    return {**bodies, "imports": imports, "empty": script.upgrade_ops.is_empty()}


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
    if kind == "server_default" and isinstance(getattr(item, "arg", item), moment):
        return f"{_COLUMNS}.moment()"
    return False
