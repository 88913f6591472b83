"""Revisions run one after another, each watched: its statements, what it destroys, the line where it fails."""

from __future__ import annotations

import contextlib
import linecache
import sqlite3
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import Operations, ops
from alembic.operations.base import AbstractOperations
from alembic.runtime.migration import MigrationContext
from attrs import define, field, frozen
from sqlalchemy.exc import DBAPIError

from rosey_rowstore.migrations import sqltext
from rosey_rowstore.migrations.differences import destroyed
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.migrations.targets import MovedError, Target, TransactionEndedError

__all__ = ["Order", "Step", "StepError", "run"]

_MOST_SQL: Final = 256 * 1024
_MOST_STATEMENT: Final = 2_000
_MOST_MESSAGE: Final = 1_000

_BROKEN: Final = "25P02"  # in_failed_sql_transaction

Emit = Callable[..., None]


@frozen(kw_only=True)
class Step:
    """One revision to run; `leaves` is where the schema stands after it."""

    revision: str
    file: str
    source: str
    leaves: str | None
    transactional: bool


@frozen(kw_only=True)
class Order:
    """A run: from where, which steps, and what is allowed.

    Attributes:
        start: Where the schema must stand.
        up: Apply; False rolls back.
        dry_run: Undo everything at the end.
        checked: Refuse what drops or narrows.
    """

    start: str | None
    steps: Sequence[Step]
    up: bool
    dry_run: bool
    checked: bool


class StepError(Exception):
    """A revision failed; `code` and `details` are those of the reply."""

    def __init__(
        self, message: str, *, code: str = "migration_failed", retry: bool = False, **details: Any
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.details = {name: value for name, value in details.items() if value is not None}


@define
class _Recorder:
    """The statements of one revision, and the guard before each."""

    target: Target
    outside: bool
    checked: bool
    sql: list[str] = field(factory=list)
    size: int = 0

    def before(
        self,
        _: Any,
        __: Any,
        statement: str,
        parameters: Any,
        ___: Any,
        many: bool,  # noqa: FBT001 - SQLAlchemy's call
    ) -> None:
        """Refuse what ends the transaction, then note the statement."""
        if (forbidden := sqltext.forbidden(statement)) is not None:
            raise TransactionEndedError(f"A revision may not run {' '.join(forbidden.split()[:3])!r}.")
        if self.outside and self.checked and (bad := sqltext.destroys(statement)) is not None:
            # Outside of a transaction it could not be undone: what it says is judged before it runs.
            raise _DestroysError(bad[:200])
        self.target.note_statement(statement)
        if not sqltext.is_reading_catalog(statement):
            self.add(statement, parameters, many=many)

    def add(self, statement: str, parameters: Any, *, many: bool = False) -> None:
        """Note a statement as it would be typed."""
        rows = parameters if many and isinstance(parameters, Sequence) else [parameters]
        for row in rows:
            if self.size > _MOST_SQL:
                if self.sql[-1] != "-- more was run than is kept here":
                    self.sql.append("-- more was run than is kept here")
                return
            text = self.target.written(statement, row).strip().rstrip(";") + ";"
            self.sql.append(text)
            self.size += len(text)

    @property
    def text(self) -> str:
        """Everything noted."""
        return "\n\n".join(self.sql)


class _DestroysError(Exception):
    """A statement outside of a transaction would destroy something."""


def run(order: Order, target: Target, emit: Emit) -> None:
    """Run the steps; each part that is one transaction happens wholly or not at all.

    Raises:
        StepError: What the reply says.
    """
    at = order.start
    before = _numbered_start(order, target)
    for transactional, group in groupby(order.steps, key=lambda step: step.transactional):
        steps = list(group)
        if transactional:
            _run_together(order, steps, at, before, target, emit)
        elif order.dry_run:
            _show(
                order,
                [step for step in order.steps if step not in order.steps[: order.steps.index(steps[0])]],
                target,
                emit,
            )
            return
        else:
            for step in steps:
                _run_outside(order, step, at, target, emit)
                at = step.leaves
        at = steps[-1].leaves


def _numbered_start(order: Order, target: Target) -> Snapshot | None:
    return target.snapshot() if order.checked else None


def _run_together(
    order: Order, steps: Sequence[Step], at: str | None, before: Snapshot | None, target: Target, emit: Emit
) -> None:
    with _explained(None):
        target.begin()
    try:
        _check_place(target, at)
        for step in steps:
            emit("start", revision=step.revision)
            recorder = _Recorder(target, outside=False, checked=order.checked)
            began = time.monotonic()
            with _explained(step):
                _call(step, order, target, recorder)
                target.check()
                target.write_version(step.leaves)
            _check_destroyed(step, before, target)
            emit("done", revision=step.revision, seconds=time.monotonic() - began, sql=recorder.text)
        if not order.dry_run:
            with _explained(None):
                emit("committing", revision=steps[-1].leaves)
                target.commit(announce=True)
                emit("committed", revision=steps[-1].leaves)
    finally:
        with contextlib.suppress(Exception):
            target.rollback()


def _run_outside(order: Order, step: Step, at: str | None, target: Target, emit: Emit) -> None:
    _check_place(target, at)
    emit("start", revision=step.revision)
    recorder = _Recorder(target, outside=True, checked=order.checked)
    began = time.monotonic()
    with _explained(step):
        with target.outside():
            _call(step, order, target, recorder)
        target.begin()
        try:
            target.write_version(step.leaves)
            target.commit(announce=True)
        finally:
            target.rollback()
    emit("done", revision=step.revision, seconds=time.monotonic() - began, sql=recorder.text)
    emit("committed", revision=step.leaves)


def _show(order: Order, steps: Sequence[Step], target: Target, emit: Emit) -> None:
    """Write the SQL of revisions that cannot be run and undone, without running it."""
    for step in steps:
        lines: list[str] = []

        class Buffer:
            def write(self, text: str, lines: list[str] = lines) -> None:
                lines.append(text)

            def flush(self) -> None:
                pass

        context = MigrationContext.configure(
            dialect_name=target.connection.dialect.name, opts={"as_sql": True, "output_buffer": Buffer()}
        )
        emit("start", revision=step.revision)
        with _explained(step), Operations.context(context):
            getattr(_module(step), "upgrade" if order.up else "downgrade")()
        emit("done", revision=step.revision, seconds=0.0, sql="".join(lines).strip())


def _check_place(target: Target, at: str | None) -> None:
    found = target.read_version()
    if found != at:
        raise MovedError(f"The schema stands at {found!r}, not at {at!r}.")


def _check_destroyed(step: Step, before: Snapshot | None, target: Target) -> None:
    if before is None:
        return
    if found := destroyed(before, target.snapshot()):
        raise StepError(
            f"The revision {step.revision!r} {found[0]}"
            + (f", and {len(found) - 1} more." if found[1:] else "."),
            code="destructive_migration",
            revision=step.revision,
            changes=found,
        )


def _module(step: Step) -> types.ModuleType:
    """Return the revision as a module; its lines show in tracebacks under its file's name."""
    linecache.cache[step.file] = (len(step.source), None, step.source.splitlines(keepends=True), step.file)
    module = types.ModuleType(f"migration_{step.revision}")
    module.__file__ = step.file
    exec(compile(step.source, step.file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the child's task
    return module


def _call(step: Step, order: Order, target: Target, recorder: _Recorder) -> None:
    context = MigrationContext.configure(target.connection)
    # What it would commit is the run's one transaction.
    context.autocommit_block = _refuse_autocommit  # type: ignore[method-assign]
    sa.event.listen(target.connection, "before_cursor_execute", recorder.before)
    try:
        with Operations.context(context), _watched(target, outside=recorder.outside):
            getattr(_module(step), "upgrade" if order.up else "downgrade")()
    finally:
        sa.event.remove(target.connection, "before_cursor_execute", recorder.before)


def _refuse_autocommit() -> Any:
    raise TransactionEndedError(
        "Mark the revision with `transactional = False` instead of using autocommit_block()."
    )


@contextlib.contextmanager
def _watched(target: Target, *, outside: bool) -> Iterator[None]:
    """Look at Alembic's operations as they are invoked."""
    invoke = AbstractOperations.invoke

    def watched(self: AbstractOperations, operation: ops.MigrateOperation) -> Any:
        if outside:
            # An attempt that was interrupted may have done this one already.
            if isinstance(operation, ops.CreateIndexOp):
                operation.if_not_exists = True
            elif isinstance(operation, ops.DropIndexOp):
                operation.if_exists = True
        if isinstance(operation, ops.AlterColumnOp) and operation.modify_name is not None:
            target.note_rename(operation.table_name, operation.column_name, str(operation.modify_name))
        elif isinstance(operation, ops.DropColumnOp):
            target.note_drop(operation.table_name, operation.column_name)
        return invoke(self, operation)

    AbstractOperations.invoke = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        AbstractOperations.invoke = invoke  # type: ignore[method-assign]


# what failed


@contextlib.contextmanager
def _explained(step: Step | None) -> Iterator[None]:
    """Turn whatever a revision raises into what the reply says."""
    try:
        yield
    except (StepError, MovedError):
        raise
    except _DestroysError as error:
        raise StepError(
            f"The revision runs {str(error)!r} outside of a transaction.",
            code="destructive_migration",
            revision=step.revision if step else None,
        ) from error
    except BaseException as error:
        raise _failure(error, step) from error


def _failure(error: BaseException, step: Step | None) -> StepError:
    details: dict[str, Any] = {
        "revision": step.revision if step else None,
        "line": _line(error, step) if step else None,
    }
    error = _first(error)
    words = " ".join(str(error).split()) or type(error).__name__
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
        details["statement"] = _cut(error.statement, _MOST_STATEMENT)
    state = getattr(cause, "sqlstate", None)
    if isinstance(cause, sqlite3.Error | _psycopg_error()):
        details["sqlstate"] = state
        words = _database_words(cause)
    elif not isinstance(cause, TransactionEndedError):
        words = f"{type(cause).__name__}: {words}" if str(cause) else type(cause).__name__
    place = f"The revision {step.revision!r} failed" if step else "The run failed"
    return StepError(
        f"{place}: {_cut(words, _MOST_MESSAGE)}", retry=state in ("40P01", "40001", "55P03"), **details
    )


def _first(error: BaseException) -> BaseException:
    """Return the error that broke the transaction, where what came after it only says that it is broken."""
    found, seen = error, error
    while seen.__context__ is not None:
        seen = seen.__context__
        if isinstance(seen, DBAPIError):
            found = seen
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return found if state == _BROKEN else error


def _psycopg_error() -> type[Exception]:
    import psycopg  # noqa: PLC0415 - loaded already where it is used

    return psycopg.Error


def _database_words(error: BaseException) -> str:
    diagnosis = getattr(error, "diag", None)
    words = getattr(diagnosis, "message_primary", None) or str(error)
    detail = getattr(diagnosis, "message_detail", None)
    if "not authorized" in words or "prohibited" in words:
        words = f"{words} (the service's own tables, transactions and other files are out of reach)"
    return f"{words} {detail}" if detail else words


def _line(error: BaseException, step: Step) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == step.file:
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == step.file
    ]
    return lines[-1] if lines else None


def _cut(text: str | None, most: int) -> str | None:
    if text is None or len(text) <= most:
        return text
    return text[: most - 1] + "…"


def order_from(body: Mapping[str, Any]) -> Order:
    """Return the order that the parent sent."""
    return Order(
        start=body["start"],
        steps=[Step(**step) for step in body["steps"]],
        up=body["up"],
        dry_run=body["dry_run"],
        checked=body["checked"],
    )
