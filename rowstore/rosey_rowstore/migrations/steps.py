"""Revisions run one after another, each watched: its statements, what it loses, the line where it fails."""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import sqlite3
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        many: bool,
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
    _Execution(order, target, emit, target.snapshot() if order.checked else None).run()


@frozen
class _Execution:
    """The steps of an order on a target; `before` is the schema at the start, where losses are refused."""

    order: Order
    target: Target
    emit: Emit
    before: Snapshot | None

    def run(self) -> None:
        at, left = self.order.start, list(self.order.steps)
        while left:
            # Neighbours that are transactional share one transaction.
            together = list(itertools.takewhile(lambda step: step.transactional, left))
            if together:
                self._run_together(together, at)
            elif self.order.dry_run:
                self._show(left)
                return
            else:
                self._run_outside(left[0], at)
            done = together or left[:1]
            at, left = done[-1].leaves, left[len(done) :]

    def _run_together(self, steps: Sequence[Step], at: str | None) -> None:
        target = self.target
        with _explained(None):
            target.begin()
        try:
            self._check_place(at)
            for step in steps:
                self.emit("start", revision=step.revision)
                recorder = _Recorder(target, outside=False, checked=self.order.checked)
                began = time.monotonic()
                with _explained(step):
                    self._call(step, recorder)
                    target.check()
                    target.write_version(step.leaves)
                self._check_destroyed(step)
                self._tell_done(step, began, recorder)
            if not self.order.dry_run:
                with _explained(None):
                    target.commit(announce=True)
                    self.emit("committed", revision=steps[-1].leaves)
        finally:
            with contextlib.suppress(Exception):
                target.rollback()

    def _run_outside(self, step: Step, at: str | None) -> None:
        target = self.target
        self._check_place(at)
        self.emit("start", revision=step.revision)
        recorder = _Recorder(target, outside=True, checked=self.order.checked)
        began = time.monotonic()
        with _explained(step):
            with target.outside():
                self._call(step, recorder)
            target.begin()
            try:
                target.write_version(step.leaves)
                target.commit(announce=True)
            finally:
                target.rollback()
        self._tell_done(step, began, recorder)
        self.emit("committed", revision=step.leaves)

    def _show(self, steps: Sequence[Step]) -> None:
        """Write the SQL of steps that cannot be run and undone, without running it."""
        for step in steps:
            text = io.StringIO()
            context = MigrationContext.configure(
                dialect_name=self.target.connection.dialect.name, opts={"as_sql": True, "output_buffer": text}
            )
            self.emit("start", revision=step.revision)
            with _explained(step), Operations.context(context):
                getattr(_module(step), self._function)()
            self.emit("done", revision=step.revision, seconds=0.0, sql=text.getvalue().strip())

    @property
    def _function(self) -> str:
        return "upgrade" if self.order.up else "downgrade"

    def _tell_done(self, step: Step, began: float, recorder: _Recorder) -> None:
        self.emit("done", revision=step.revision, seconds=time.monotonic() - began, sql=recorder.text)

    def _call(self, step: Step, recorder: _Recorder) -> None:
        connection = self.target.connection
        context = MigrationContext.configure(connection)
        # What it would commit is the run's one transaction.
        context.autocommit_block = _refuse_autocommit  # type: ignore[method-assign]
        sa.event.listen(connection, "before_cursor_execute", recorder.before)
        try:
            with Operations.context(context), _watched(self.target, outside=recorder.outside):
                getattr(_module(step), self._function)()
        finally:
            sa.event.remove(connection, "before_cursor_execute", recorder.before)

    def _check_place(self, at: str | None) -> None:
        found = self.target.read_version()
        if found != at:
            raise MovedError(f"The schema stands at {found!r}, not at {at!r}.")

    def _check_destroyed(self, step: Step) -> None:
        if self.before is None:
            return
        if found := destroyed(self.before, self.target.snapshot()):
            more = f", and {len(found) - 1} more." if found[1:] else "."
            raise StepError(
                f"The revision {step.revision!r} {found[0]}{more}",
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
