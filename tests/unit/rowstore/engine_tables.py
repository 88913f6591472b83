"""A table with a column of every type, for tests of the engine without a database."""

from __future__ import annotations

from rosey_rowstore.engine.model import Column, ColumnType, Index, Table

NAMES = {kind: f"a_{kind.value}" for kind in ColumnType}

EVERYTHING = Table(
    name="things",
    managed=True,
    columns=(
        Column(name="id", type=ColumnType.INTEGER, nullable=False, has_default=True, generated=True),
        Column(name="created_at", type=ColumnType.DATETIME, nullable=False, has_default=True),
        Column(name="updated_at", type=ColumnType.DATETIME, nullable=False, has_default=True),
        *(
            Column(name=name, type=kind, max_length=20 if kind is ColumnType.STRING else None)
            for kind, name in NAMES.items()
        ),
        Column(name="needed", type=ColumnType.INTEGER, nullable=False, has_default=True, default=0),
        Column(name="p0", type=ColumnType.INTEGER),
        Column(name="select", type=ColumnType.TEXT),
    ),
    primary_key=("id",),
    indexes=(Index(name="one", columns=("a_string",), unique=True),),
)
