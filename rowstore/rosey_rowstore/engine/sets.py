"""The `set` of an update and the merge rules of an upsert: checked, and as SQL expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from attrs import frozen

from rosey_rowstore.engine.model import Column, ColumnType
from rosey_rowstore.engine.sql import Expression, Sql, literal
from rosey_rowstore.engine.tables import TableFacts
from rosey_rowstore.engine.values import NUMERIC, ORDERED, check_value, check_written
from rosey_rowstore.protocol import Fault, nearest

__all__ = ["Change", "check_rule", "merged", "parse_set", "stored_change"]

_OPERATORS: Final = ("$set", "$inc", "$mul", "$max", "$min", "$unset", "$now")
_ARITHMETIC: Final = ("$inc", "$mul")
_MOMENTS: Final = (ColumnType.DATETIME, ColumnType.DATE)


@frozen
class Change:
    """What happens to one column; `rule` takes one value unless it is `$unset` or `$now`."""

    rule: str
    column: str


def parse_set(
    facts: TableFacts, sql: Sql, changes: Mapping[str, Any]
) -> tuple[tuple[Change, ...], list[Any]]:
    """Return the changes of an update, and their driver values in order.

    Raises:
        Fault: With a path that begins at `set`.
    """
    if not changes:
        raise Fault("invalid_request", "The update sets nothing.", path="set", hint='As {"score": 5}.')
    found: list[Change] = []
    values: list[Any] = []
    for name, operand in changes.items():
        try:
            column = facts.writable(name)
            rule, value = _rule(column, operand)
            found.append(_change(sql, column, rule, value, values))
        except Fault as fault:
            raise fault.at(f"set.{name}") from None
    return tuple(found), values


def _rule(column: Column, operand: Any) -> tuple[str, Any]:
    if type(operand) is not dict:
        return "$set", operand
    operators = [name for name in operand if name[:1] == "$"]
    if not operators:
        return "$set", operand  # a json value, or what the column's check refuses
    # A misspelt operator is told before a plain member beside one, whichever stands first.
    unknown = next((name for name in (*operators, *operand) if name not in _OPERATORS), None)
    if unknown is not None:
        near = nearest(unknown, _OPERATORS)
        raise Fault(
            "unknown_operator" if unknown[:1] == "$" else "invalid_request",
            f"{unknown[:80]!r} is no operator of an update" + (f"; did you mean {near!r}?" if near else "."),
            hint="One of " + ", ".join(_OPERATORS) + '; {"$set": …} stores any json.',
        )
    if len(operand) > 1:
        raise Fault("invalid_request", f"The column {column.name} is changed by more than one operator.")
    return operators[0], operand[operators[0]]


def _change(sql: Sql, column: Column, rule: str, operand: Any, values: list[Any]) -> Change:
    if rule == "$set":
        values.append(sql.codec.written(column.type, check_written(column, operand)))
        return Change(rule, column.name)
    if rule in ("$unset", "$now"):
        if operand is not True:
            raise Fault("type_mismatch", f"{rule} takes true.")
        if rule == "$unset":
            check_written(column, None)
        elif column.type not in _MOMENTS:
            raise _not_for(rule, column)
        return Change(rule, column.name)
    check_rule(column, rule)
    if operand is None:
        raise Fault("value_required", f"{rule} takes a value, not null.")
    # A factor need not fit where the product does.
    check = check_value if rule == "$mul" else check_written
    values.append(sql.codec.written(column.type, check(column, operand)))
    return Change(rule, column.name)


def check_rule(column: Column, rule: str) -> None:
    """Check that `$inc`, `$mul`, `$max` or `$min` works on a column.

    Raises:
        Fault: `type_mismatch`, without a path.
    """
    if column.type not in (NUMERIC if rule in _ARITHMETIC else ORDERED):
        raise _not_for(rule, column)


def _not_for(rule: str, column: Column) -> Fault:
    return Fault("type_mismatch", f"{rule} does not work on {column.name}, a column of type {column.type}.")


def stored_change(sql: Sql, column: Column, rule: str, before: Expression, value: Expression) -> Expression:
    """Return what a column holds after an operator that takes a value, with one that is not null."""
    if rule == "$set":
        return value
    if rule in _ARITHMETIC:
        return _computed(sql, column, rule, before, value)
    compared = sql.comparable(column, before)
    moves = compared < value if rule == "$max" else compared > value
    # CASE and no greatest() or max(): SQLite's gives null beside a null, and knows no collation.
    return sa.case((sa.or_(before.is_(None), moves), value), else_=before)


def _computed(sql: Sql, column: Column, rule: str, before: Expression, value: Expression) -> Expression:
    present: Expression = sa.func.coalesce(before, literal("'0'" if _as_text(sql, column) else "0"))
    if sql.postgres:
        return present + value if rule == "$inc" else present * value
    verb = "add" if rule == "$inc" else "mul"
    function = getattr(sa.func, f"rosey_{column.type.value}_{verb}")
    # SQLite's own arithmetic turns a sum past 64 bits into a float, and knows no decimals.
    if column.type is ColumnType.INTEGER:
        return sa.type_coerce(function(present, value, literal(str(column.bits))), sa.types.NullType())
    if column.type is ColumnType.DECIMAL and column.precision is not None:
        return sa.type_coerce(
            function(present, value, literal(str(column.precision)), literal(str(column.scale or 0))),
            sa.types.NullType(),
        )
    return sa.type_coerce(function(present, value), sa.types.NullType())


def _as_text(sql: Sql, column: Column) -> bool:
    return column.type is ColumnType.DECIMAL and not sql.postgres


def merged(sql: Sql, column: Column, rule: str, before: Expression, given: Expression) -> Expression:
    """Return what a row that exists holds after an upsert; a given null moves nothing but `$set`."""
    if rule == "$set":
        return given
    after = stored_change(sql, column, rule, before, given)
    return sa.case((given.is_(None), before), else_=after)
