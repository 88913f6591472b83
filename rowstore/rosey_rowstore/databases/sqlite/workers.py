"""The threads of one file: a writer whose transactions carry many requests, and readers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import define

from rosey_rowstore.databases.base import (
    REPLY_KEPT_SECONDS,
    Answer,
    StaleSchemaError,
    Work,
    placed,
    same_request,
)
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.databases.sqlite.connection import FileConnection
from rosey_rowstore.databases.sqlite.errors import busy_fault, fault_of
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.engine.plans import Plan
from rosey_rowstore.protocol import Fault

__all__ = ["BATCH", "Call", "Job", "Schema", "reader", "start", "writer"]

BATCH: Final = 64
_CLEANING_SECONDS: Final = 30.0
_FIND: Final = "SELECT digest, reply FROM _rosey_replies WHERE id = ? AND at > ?"
_STORE: Final = "INSERT OR REPLACE INTO _rosey_replies (id, digest, reply, at) VALUES (?, ?, ?, ?)"
_CLEAN: Final = (
    "DELETE FROM _rosey_replies WHERE id IN (SELECT id FROM _rosey_replies WHERE at <= ? LIMIT 5000)"
)


@define
class Schema:
    """The version of the schema for which plans are made; every thread compares with it."""

    version: int = -1


@define(eq=False)
class Job:
    """A plan to run; `deadline` is on the clock of `time.monotonic`."""

    work: Work
    deadline: float
    loop: asyncio.AbstractEventLoop
    answer: Answer


@define(eq=False)
class Call:
    """Anything else to do with the connection, alone, outside of a transaction."""

    function: Callable[[FileConnection], Any]
    deadline: float
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


Item = Job | Call
Items = queue.SimpleQueue[Item | None]
Outcome = bytes | BaseException


def start(name: str, target: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Start a thread that does not keep the process alive."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    thread.start()
    return thread


def writer(items: Items, connection: FileConnection, schema: Schema) -> None:
    """Take what waits, run it in one transaction, answer after the commit; end at None."""
    keeper = _Writer(connection, schema)
    following: Item | None = None
    while True:
        item = following if following is not None else items.get()
        following = None
        if item is None:
            break
        if isinstance(item, Call):
            _run_call(item, connection)
            continue
        batch = [item]
        while len(batch) < BATCH:
            try:
                another = items.get_nowait()
            except queue.Empty:
                break
            if not isinstance(another, Job):
                following = another
                if another is None:
                    items.put(None)  # found again after this batch
                break
            batch.append(another)
        keeper.run(batch)
    connection.close()


def reader(items: Items, connection: FileConnection, schema: Schema) -> None:
    """Run reads one by one; end at None."""
    while (item := items.get()) is not None:
        if isinstance(item, Call):
            _run_call(item, connection)
        else:
            _deliver([(item, _guarded(item, lambda job: _read(job, connection, schema)))])
    connection.close()


def _run_call(call: Call, connection: FileConnection) -> None:
    connection.deadline = call.deadline
    outcome: Any
    try:
        outcome = call.function(connection)
    except BaseException as error:  # noqa: BLE001 - handed to the caller
        outcome = _translated(error, ())
    finally:
        connection.deadline = float("inf")
        connection.roll_back()
    call.loop.call_soon_threadsafe(_answer, call.answer, outcome)


def _read(job: Job, connection: FileConnection, schema: Schema) -> bytes:
    plan = job.work.plan
    connection.deadline = job.deadline
    connection.wait_for_lock(job.deadline - time.monotonic())
    try:
        if connection.schema_version() != schema.version:
            raise StaleSchemaError("the schema changed")
        if plan.atomic:
            connection.raw.execute("BEGIN")  # all of it sees one state
        return job.work.complete(connection.run_all(plan.statements))
    finally:
        connection.deadline = float("inf")
        connection.roll_back()


class _Writer:
    """Transactions of many requests, each of which happens wholly or not at all."""

    def __init__(self, connection: FileConnection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema
        self._cleaned_at = 0.0

    def run(self, batch: Sequence[Job]) -> None:
        """Answer every job of the batch."""
        outcomes: list[tuple[Job, Outcome]] = []
        try:
            self._begin(batch)
            for place, job in enumerate(batch):
                outcome = _guarded(job, self._write)
                outcomes.append((job, outcome))
                if not self._connection.raw.in_transaction:
                    # SQLite undid all of the transaction with this job: the others run again, alone.
                    _deliver([(job, outcome)])
                    for other in (*batch[:place], *batch[place + 1 :]):
                        self.run([other])
                    return
            self._clean()
            self._connection.deadline = float("inf")
            self._connection.raw.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - the answer of all of them
            with contextlib.suppress(sqlite3.Error):
                self._connection.roll_back()
            outcomes = [(job, _translated(error, job.work.plan.tables)) for job in batch]
        finally:
            self._connection.deadline = float("inf")
        _deliver(outcomes)

    def _begin(self, batch: Sequence[Job]) -> None:
        self._connection.wait_for_lock(min(job.deadline for job in batch) - time.monotonic())
        try:
            self._connection.raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise busy_fault() from error
            raise
        if self._connection.schema_version() != self._schema.version:
            raise StaleSchemaError("the schema changed")

    def _write(self, job: Job) -> bytes:
        work, raw = job.work, self._connection.raw
        self._connection.deadline = job.deadline
        if work.message_id is not None:
            found = raw.execute(_FIND, (work.message_id, time.time() - REPLY_KEPT_SECONDS)).fetchone()
            if found is not None:
                same_request(work, found[0])
                return bytes(found[1])
        if not work.plan.atomic and work.message_id is None:
            return work.complete(
                self._connection.run_all(work.plan.statements)
            )  # a statement is all or nothing
        raw.execute("SAVEPOINT request")
        try:
            body = work.complete(self._run_all(work.plan))
            if work.message_id is not None:
                raw.execute(_STORE, (work.message_id, work.digest, body, time.time()))
        except BaseException:
            if raw.in_transaction:
                self._connection.deadline = float("inf")
                raw.execute("ROLLBACK TO request")
                raw.execute("RELEASE request")
            raise
        raw.execute("RELEASE request")
        return body

    def _run_all(self, plan: Plan) -> list[Result]:
        """Run a plan's statements, and say of a refusal which of them it was."""
        if not plan.places:
            return self._connection.run_all(plan.statements)
        results = []
        for index, statement in enumerate(plan.statements):
            try:
                results.append(self._connection.run(statement))
            except (sqlite3.Error, OverflowError, Fault) as error:
                raise placed(fault_of(error, plan.tables), plan, index) from error
        return results

    def _clean(self) -> None:
        """Remove replies past their time, now and then, with a batch that writes anyway."""
        now = time.monotonic()
        if now - self._cleaned_at > _CLEANING_SECONDS:
            self._cleaned_at = now
            self._connection.deadline = now + 1.0
            self._connection.run(Statement(_CLEAN, (time.time() - REPLY_KEPT_SECONDS,)))


def _guarded(job: Job, run: Callable[[Job], bytes]) -> Outcome:
    if job.deadline <= time.monotonic():
        return Fault("timeout", "The time was over before the request ran; nothing was written.")
    try:
        return run(job)
    except BaseException as error:  # noqa: BLE001 - every job gets an answer
        return _translated(error, job.work.plan.tables)


def _translated(error: BaseException, tables: Sequence[str]) -> BaseException:
    if isinstance(error, sqlite3.Error | OverflowError):
        try:
            return fault_of(error, tables)
        except StaleSchemaError as stale:
            return stale
    if isinstance(error, Exception):
        return error
    return internal_fault("a thread of SQLite failed", error)


def _deliver(outcomes: Sequence[tuple[Job, Outcome]]) -> None:
    if outcomes:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            outcomes[0][0].loop.call_soon_threadsafe(_answer_all, outcomes)


def _answer_all(outcomes: Sequence[tuple[Job, Outcome]]) -> None:
    for job, outcome in outcomes:
        _answer(job.answer, outcome)


def _answer(answer: Answer | asyncio.Future[Any], outcome: Any) -> None:
    if answer.done():
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
