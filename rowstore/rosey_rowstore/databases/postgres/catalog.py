"""A schema's tables as Postgres' catalog has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection

from rosey_rowstore.databases.base import Size
from rosey_rowstore.databases.defaults import postgres_default
from rosey_rowstore.engine.catalog_types import as_served, column_type
from rosey_rowstore.engine.model import Column, Dialect, Index, Table

__all__ = ["reflect", "schema_exists", "sizes"]

# Names of tables outside the contract's are nobody's to ask for; the service's own begin with `_`.
_SERVED: Final[LiteralString] = """
    c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~ '^[a-z][a-z0-9_]*$'
"""
_COLUMNS: Final[LiteralString] = f"""
    SELECT c.relname, a.attname,
           CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
                          ELSE format_type(a.atttypid, a.atttypmod) END,
           a.attnotnull, a.attidentity::text, a.attgenerated <> '',
           pg_get_expr(d.adbin, d.adrelid),
           c.relhasrules OR c.relhastriggers AND EXISTS (
               SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal),
           c.relkind = 'r' AND NOT c.relhassubclass AND NOT c.relrowsecurity,
           (SELECT f.relname FROM pg_constraint r JOIN pg_class f ON f.oid = r.confrelid
             WHERE r.conrelid = c.oid AND r.contype = 'f' AND r.conkey = ARRAY[a.attnum] LIMIT 1)
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
     WHERE {_SERVED}
     ORDER BY c.relname, a.attnum
"""  # noqa: S608 - constants
_INDEXES: Final[LiteralString] = f"""
    SELECT c.relname, i.relname, x.indisprimary, x.indisunique AND x.indimmediate,
           ARRAY(SELECT a.attname::text FROM unnest(x.indkey[0:x.indnkeyatts - 1]) WITH ORDINALITY k(n, place)
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY k.place)
      FROM pg_class c
      JOIN pg_index x ON x.indrelid = c.oid
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_am m ON m.oid = i.relam
     WHERE {_SERVED} AND x.indpred IS NULL AND x.indexprs IS NULL AND x.indisvalid AND m.amname = 'btree'
     ORDER BY c.relname, i.relname
"""  # noqa: S608 - constants
# Live rows as the statistics count them are fresher than the planner's figure, which -1 leaves unknown.
_SIZES: Final[LiteralString] = f"""
    SELECT c.relname,
           CASE WHEN s.n_live_tup > 0 THEN s.n_live_tup ELSE greatest(c.reltuples, 0)::bigint END,
           pg_total_relation_size(c.oid)
      FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
     WHERE {_SERVED}
     ORDER BY c.relname
"""  # noqa: S608 - constants


async def schema_exists(connection: AsyncConnection[Any], schema: str) -> bool:
    """Return whether there is a schema of this name."""
    cursor = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,))
    return await cursor.fetchone() is not None


async def reflect(connection: AsyncConnection[Any], schema: str, generation: int) -> dict[str, Table]:
    """Return the tables of `schema` by name."""
    name = _quoted(schema)
    columns: dict[str, list[Column]] = defaultdict(list)
    numbered: dict[str, set[str]] = defaultdict(set)
    reacting: set[str] = set()
    steady: set[str] = set()
    cursor = await connection.execute(_COLUMNS, (name,))
    for table, *described in await cursor.fetchall():
        columns[table].append(_column(described))
        if _is_numbered(described):
            numbered[table].add(described[0])
        if described[-3]:
            reacting.add(table)
        if described[-2]:
            steady.add(table)
    keys: dict[str, tuple[str, ...]] = {}
    indexes: dict[str, list[Index]] = defaultdict(list)
    cursor = await connection.execute(_INDEXES, (name,))
    for table, index, primary, unique, over in await cursor.fetchall():
        if primary:
            keys[table] = tuple(over)
        else:
            indexes[table].append(Index(name=index, columns=tuple(over), unique=unique))
    return {
        table: as_served(
            Table(
                name=table,
                columns=tuple(found),
                primary_key=keys.get(table, ()),
                indexes=tuple(indexes[table]),
                reacts=table in reacting,
                steady=table in steady,
                generation=generation,
            ),
            numbered[table],
        )
        for table, found in columns.items()
    }


def _column(row: Sequence[Any]) -> Column:
    name, catalog_type, required, identity, computed, default, _, _, references = row
    members = column_type(catalog_type, Dialect.POSTGRES)
    generated = bool(identity) or computed or _is_numbered(row)
    return Column(
        name=name,
        nullable=not required,
        has_default=generated or default is not None,
        default=None if default is None or generated else postgres_default(default, members["type"]),
        generated=generated,
        references=references,
        **members,
    )


def _is_numbered(row: Sequence[Any]) -> bool:
    """Whether Postgres numbers the column where an insert does not: serial, or an identity by default."""
    _, _, _, identity, _, default, *_ = row
    return identity == "d" or (default is not None and default.startswith("nextval("))


async def sizes(connection: AsyncConnection[Any], schema: str) -> Mapping[str, Size]:
    """Return the server's own estimates of the tables of `schema`."""
    cursor = await connection.execute(_SIZES, (_quoted(schema),))
    return {name: Size(rows=rows, bytes=size) for name, rows, size in await cursor.fetchall()}


def _quoted(name: str) -> str:
    # regnamespace reads its text as an identifier; a plugin's name may hold a dash.
    return '"' + name.replace('"', '""') + '"'
