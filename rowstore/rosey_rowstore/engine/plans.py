"""What a request becomes: the statements that answer it, and how their results become its reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from rosey_rowstore.engine.model import Result, Shared, Statement

__all__ = ["NOTHING", "Plan"]


class Plan(Struct, frozen=True, kw_only=True, eq=False):
    """Everything a database needs to answer one request.

    Attributes:
        statements: Run in this order, on one connection.
        finish: Makes the reply, the JSON of the contract's result, from one `Result` a statement; it
            may raise a `Fault`.
        writes: Runs on the write lane.
        atomic: Needs a transaction of its own, because there are several statements or because
            `finish` may refuse after they ran: a `Fault` out of `finish` rolls back. A plan that is
            not atomic is one statement and may share a pipeline with others.
        tables: The names it touches, for the words of an error.
        places: Where in the request each statement comes from, as `operations[1]`; empty where they all
            come from the one request.
        shared: How it may be one statement with other requests that wait; None where it may not.
        cacheable: The reply depends on the request and on the rows of its tables, and on nothing else.
    """

    statements: tuple[Statement, ...]
    finish: Callable[[Sequence[Result]], bytes]
    writes: bool
    atomic: bool
    tables: tuple[str, ...]
    places: tuple[str, ...] = ()
    shared: Shared | None = None
    cacheable: bool = False


def _no_reply(_: Sequence[Result]) -> bytes:
    raise AssertionError("nothing was run")


NOTHING: Final = Plan(statements=(), finish=_no_reply, writes=False, atomic=False, tables=())
"""The plan of a request whose reply is known."""
