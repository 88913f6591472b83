"""What SQLite lacks and Postgres has, as functions of Python on each connection."""

from __future__ import annotations

import decimal
import json
import math
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from rosey_rowstore.engine.texts import fold
from rosey_rowstore.engine.values import canonical_decimal, json_key
from rosey_rowstore.protocol import Fault

__all__ = ["FunctionFaults", "register"]

_exact: Final = decimal.Context(
    prec=300_000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN, rounding=decimal.ROUND_HALF_UP
)
_WHOLE_DIGITS: Final = 131_072
_FRACTION_DIGITS: Final = 16_383
_AVERAGE_SCALE: Final = 20


class FunctionFaults:
    """The fault behind an `OperationalError`: SQLite says only that a function raised."""

    def __init__(self) -> None:
        self._fault: Fault | None = None

    def note(self, fault: Fault) -> None:
        """Keep a fault until it is taken."""
        self._fault = fault

    def take(self) -> Fault | None:
        """Return the last fault once, or None."""
        fault, self._fault = self._fault, None
        return fault


def register(connection: sqlite3.Connection) -> FunctionFaults:
    """Give a connection every function and collation that statements of the engine use."""
    faults = FunctionFaults()
    for name, arity, function in _FUNCTIONS:
        connection.create_function(name, arity, _noting(function, faults), deterministic=True)
    for name, aggregate in _AGGREGATES:
        connection.create_aggregate(name, 1, _aggregate_class(aggregate, faults))
    connection.create_collation("rosey_decimal", _compare_decimals)
    return faults


def _noting(function: Callable[..., Any], faults: FunctionFaults) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Fault as fault:
            faults.note(fault)
            raise

    return call


# text and json


def _lower(value: Any) -> Any:
    return fold(value) if type(value) is str else value


def _json_key(value: Any) -> Any:
    if value is None:
        return None
    try:
        return json_key(json.loads(value) if isinstance(value, str | bytes) else value)
    except ValueError:
        return None  # no json at all, put there by another tool: equal to nothing


def _to_float(value: Any) -> Any:
    return None if value is None else float(value)


# arithmetic


def _too_large() -> Fault:
    return Fault("out_of_range", "The result is too large for the column.")


def _whole(value: int, bits: int = 64) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise Fault("out_of_range", f"The result passes the {bits} bits of the column.")
    return value


def _integer_add(before: Any, value: Any, bits: int) -> Any:
    return None if before is None or value is None else _whole(int(before) + value, bits)


def _integer_mul(before: Any, value: Any, bits: int) -> Any:
    return None if before is None or value is None else _whole(int(before) * value, bits)


def _float_add(before: Any, value: Any) -> Any:
    return None if before is None or value is None else _finite(before + value)


def _float_mul(before: Any, value: Any) -> Any:
    if before is None or value is None:
        return None
    product = _finite(float(before) * value)
    if product == 0 and before and value:
        raise Fault("out_of_range", "The result is too near to zero for the column.")
    return product


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise _too_large()
    return value


def _decimal(value: Any) -> Decimal:
    try:
        return Decimal(str(value))
    except decimal.InvalidOperation:
        raise Fault("out_of_range", f"The column holds {str(value)[:40]!r}, which is no decimal.") from None


def _decimal_add(before: Any, value: Any, precision: int | None = None, scale: int = 0) -> Any:
    if before is None or value is None:
        return None
    return _stored(_exact.add(_decimal(before), _decimal(value)), precision, scale)


def _decimal_mul(before: Any, value: Any, precision: int | None = None, scale: int = 0) -> Any:
    if before is None or value is None:
        return None
    return _stored(_exact.multiply(_decimal(before), _decimal(value)), precision, scale)


def _stored(value: Decimal, precision: int | None, scale: int) -> str:
    """Return a result as Postgres would keep it: rounded to the column's scale, within its digits."""
    places = _FRACTION_DIGITS if precision is None else scale
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > places:
        value = value.quantize(Decimal(1).scaleb(-places, _exact), context=_exact)
    text = canonical_decimal(format(value, "f")) or "0"
    whole = text.lstrip("-").partition(".")[0].lstrip("0")
    if len(whole) > (_WHOLE_DIGITS if precision is None else precision - scale):
        raise _too_large()
    return text


def _compare_decimals(left: str, right: str) -> int:
    try:
        first, second = Decimal(left), Decimal(right)
    except decimal.InvalidOperation:  # not ours; a collation may not raise
        return (left > right) - (left < right)
    return (first > second) - (first < second)


# aggregates


class _Exact:
    """A sum without rounding, and how many values it has."""

    def __init__(self) -> None:
        self.total = Decimal(0)
        self.count = 0

    def step(self, value: Any) -> None:
        if value is not None:
            self.total = _exact.add(self.total, _decimal(repr(value) if type(value) is float else value))
            self.count += 1

    def average(self) -> Decimal:
        """Return the average with twenty digits after the point, half away from zero."""
        scaled = _exact.multiply(self.total.copy_abs(), Decimal(2).scaleb(_AVERAGE_SCALE, _exact))
        figures = _exact.divide_int(_exact.add(scaled, Decimal(self.count)), Decimal(2 * self.count))
        return figures.scaleb(-_AVERAGE_SCALE, _exact).copy_sign(self.total)


def _integer_sum(exact: _Exact) -> Any:
    return _whole(int(exact.total))


def _decimal_sum(exact: _Exact) -> Any:
    return _stored(exact.total, None, 0)


def _float_sum(exact: _Exact) -> Any:
    return _finite(float(exact.total))


def _integer_average(exact: _Exact) -> Any:
    return float(exact.average())


def _decimal_average(exact: _Exact) -> Any:
    return _stored(exact.average(), None, 0)


def _float_average(exact: _Exact) -> Any:
    return _float_sum(exact) / exact.count


def _aggregate_class(ending: Callable[[_Exact], Any], faults: FunctionFaults) -> type:
    class Aggregate(_Exact):
        def finalize(self) -> Any:
            return _noting(ending, faults)(self) if self.count else None

    return Aggregate


_FUNCTIONS: Final = (
    ("rosey_lower", 1, _lower),
    ("rosey_json_key", 1, _json_key),
    ("rosey_float", 1, _to_float),
    ("rosey_integer_add", 3, _integer_add),
    ("rosey_integer_mul", 3, _integer_mul),
    ("rosey_float_add", 2, _float_add),
    ("rosey_float_mul", 2, _float_mul),
    ("rosey_decimal_add", 2, _decimal_add),
    ("rosey_decimal_mul", 2, _decimal_mul),
    ("rosey_decimal_add", 4, _decimal_add),
    ("rosey_decimal_mul", 4, _decimal_mul),
)
_AGGREGATES: Final = (
    ("rosey_integer_sum", _integer_sum),
    ("rosey_integer_avg", _integer_average),
    ("rosey_float_sum", _float_sum),
    ("rosey_float_avg", _float_average),
    ("rosey_decimal_sum", _decimal_sum),
    ("rosey_decimal_avg", _decimal_average),
)
