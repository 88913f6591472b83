"""One Postgres connection driven from the event loop: pipelines of prepared statements.

psycopg's own cursors cost several times the work of the statement they carry. psycopg connects,
authenticates, adapts values and cancels here as everywhere; sending and collecting is done directly on
its libpq object, with one reader on the socket for the life of the connection.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from psycopg import AsyncConnection, errors, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.string import TextLoader

from rosey_rowstore.databases.postgres.results import Prepared
from rosey_rowstore.engine.model import Result, Statement

__all__ = ["Failure", "Link", "LinkLostError", "Outcome", "RawText"]

_PREPARED_LIMIT: Final = 512
_OK: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_TUPLES: Final = pq.ExecStatus.TUPLES_OK
_COMMAND_OK: Final = pq.ExecStatus.COMMAND_OK


# The engine makes replies of text: objects in between would be made and taken apart again for nothing,
# and could not hold what Postgres can (infinity, years beyond 9999).
_READ_AS_TEXT: Final = ("timestamptz", "timestamp", "date", "numeric", "uuid", "json", "jsonb")


class LinkLostError(Exception):
    """The connection ended; what was under way may or may not have happened."""


class Failure(Exception):
    """A pipeline failed at the statement `index`; outside of a transaction all of it was rolled back.

    Attributes:
        statement: Which of the only request's statements it was, where that is known; -1 otherwise.
    """

    def __init__(self, index: int, error: errors.Error) -> None:
        super().__init__(str(error))
        self.index = index
        self.error = error
        self.statement = -1


Outcome = list[Result] | Failure | LinkLostError
"""What becomes of a pipeline: a result a statement, or why there is none."""


class RawText(bytes):
    """UTF-8 that goes to the server as it is, for a parameter of type text."""

    __slots__ = ()


def _plain_text(value: Any) -> bytes:
    return str(value).encode()


# The plain kinds go as text without a type: the statement's own casts say what they are, so that one
# prepared statement serves every size of number.
_DUMPERS: Final[dict[type, Callable[[Any], bytes | None]]] = {
    str: str.encode,
    int: _plain_text,
    bool: lambda value: b"t" if value else b"f",
    float: lambda value: repr(value).encode(),
    bytes: lambda value: b"\\x" + value.hex().encode(),
    RawText: lambda value: value,
    type(None): lambda _: None,
}


class Link:
    """A connection in pipeline mode; one exchange at a time.

    Not a reader and a writer: everything happens on the event loop's thread.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._socket = self._pg.socket
        self._prepared: dict[str, Prepared] = {}
        self._names = 0
        for name in _READ_AS_TEXT:
            connection.adapters.register_loader(name, TextLoader)
        self._transformer = Transformer(connection)
        self._done: Callable[[Outcome], None] | None = None
        self._sent: list[tuple[int, Prepared]] = []
        self._results: list[pq.abc.PGresult] = []
        self._exchanges = 0
        self._syncs_to_skip = 0
        self._writing = False
        self._cancelling: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self.lost = False
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._on_readable)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        self._poll = poll.poll

    @property
    def backend_pid(self) -> int:
        """The server process of this connection."""
        return self._pg.backend_pid

    @property
    def ready(self) -> bool:
        """Whether `start` may be called: the connection stands, and no cancel request is under way."""
        return self._cancelling is None and not self.lost

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, in error or not."""
        return self._pg.transaction_status in (
            pq.TransactionStatus.INTRANS,
            pq.TransactionStatus.INERROR,
        )

    def start(self, statements: Sequence[Statement], done: Callable[[Outcome], None]) -> None:
        """Send statements as one pipeline that ends in a Sync; `done` is told what became of it.

        Outside of a transaction the pipeline is one: all of it commits at the Sync, or none. `done` is
        called once, from the reader's turn of the loop (or at once, when sending fails), and does not
        raise; it may start the next exchange. What needs no task of its own costs none.
        """
        self._exchanges += 1
        self._done = done
        try:
            self._send(statements)
        except LinkLostError as error:
            if self._done is done:
                self._finish(error)
            return
        self._flush()

    def watch(self, seconds: float) -> None:
        """Look for the answer for so long, before the loop goes to sleep for it.

        A process that sleeps is woken tens of microseconds after the answer came, which is as long as the
        database needs for a row by its key. Nothing else of the loop runs meanwhile.
        """
        poll, clock = self._poll, time.perf_counter
        until = clock() + seconds
        while self._done is not None and clock() < until:
            if poll(0):
                self._on_readable()

    async def exchange(self, statements: Sequence[Statement]) -> list[Result]:
        """Do what `start` does, and return what each statement gave.

        Raises:
            Failure: A statement failed; the ones after it did not run.
            LinkLostError: The connection ended before the Sync was answered.
        """
        if self._cancelling is not None:  # a late cancel must not hit the next statement
            await asyncio.wait([self._cancelling])
            self._cancelling = None
        if self.lost:
            raise LinkLostError("the connection was closed")
        waiter: asyncio.Future[list[Result]] = self._loop.create_future()
        self.start(statements, partial(_settle, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            self.abort()  # nobody collects the answers: the connection cannot be used again
            raise

    def _send(self, statements: Sequence[Statement]) -> None:
        """Put the pipeline into libpq's buffer; note, per result to come, its statement (or ~statement)."""
        sent = self._sent = []
        pg, prepared = self._pg, self._prepared
        self._results = []
        try:
            if len(prepared) + len(statements) > _PREPARED_LIMIT and not self.in_transaction:
                self.forget_statements()
            for index, statement in enumerate(statements):
                sql = statement.sql
                known = prepared.get(sql)
                if known is None:
                    self._names += 1
                    known = prepared[sql] = Prepared(b"s%d" % self._names, self._connection)
                    pg.send_prepare(known.name, sql.encode())
                    sent.append((~index, known))
                pg.send_query_prepared(
                    known.name, self._dump(statement.parameters), result_format=known.format
                )
                sent.append((index, known))
            pg.pipeline_sync()
        except errors.OperationalError as error:
            self._lose(error)
            raise LinkLostError(str(error)) from error
        except BaseException:
            self._done = None  # the caller learns it from what is raised
            self.abort()  # half a pipeline stands in the buffer
            raise

    def forget_statements(self) -> None:
        """Let the next exchange prepare everything anew, after a change of the schema."""
        self._prepared.clear()
        self._pg.send_query_params(b"DEALLOCATE ALL", None)
        self._pg.pipeline_sync()
        self._syncs_to_skip += 1

    def _dump(self, parameters: Sequence[Any]) -> list[Any] | None:
        if not parameters:
            return None
        found: list[Any] = []
        for value in parameters:
            dumper = _DUMPERS.get(type(value))
            if dumper is None:
                found.append(self._transformer.get_dumper(value, PyFormat.TEXT).dump(value))
            else:
                found.append(dumper(value))
        return found

    def _collect(self) -> list[Result] | Failure:
        collected = []
        for (owner, prepared), result in zip(self._sent, self._results, strict=True):
            status = result.status
            if status == _TUPLES:
                collected.append(Result(prepared.rows(result), result.command_tuples or 0))
            elif status == _COMMAND_OK:
                if owner >= 0:
                    collected.append(Result((), result.command_tuples or 0))
            else:
                self._drop_unprepared()
                error = errors.error_from_result(result, encoding="utf-8")
                return Failure(owner if owner >= 0 else ~owner, error)
        return collected

    def _drop_unprepared(self) -> None:
        """Forget the statements whose preparation did not succeed."""
        failed = {
            prepared.name
            for (owner, prepared), result in zip(self._sent, self._results, strict=True)
            if owner < 0 and result.status not in _OK
        }
        if failed:
            self._prepared = {
                sql: prepared for sql, prepared in self._prepared.items() if prepared.name not in failed
            }

    # the socket

    def _flush(self) -> None:
        try:
            unsent = self._pg.flush()
        except errors.OperationalError as error:
            self._lose(error)
            return
        if unsent and not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._flush)
        elif not unsent and self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _on_readable(self) -> None:
        pg = self._pg
        try:
            pg.consume_input()
            while not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    result = pg.get_result() if not pg.is_busy() else None
                    if result is None:
                        break
                status = result.status
                if status != _SYNC:
                    self._results.append(result)
                elif self._syncs_to_skip:
                    self._syncs_to_skip -= 1
                    self._results = []
                else:
                    self._finish(self._collect())
                    return
        except errors.Error as error:
            self._lose(error)
            return
        if self._done is None and pg.status != pq.ConnStatus.OK:
            self._lose(errors.OperationalError("the server ended the connection"))

    def _finish(self, outcome: Outcome) -> None:
        """Tell whoever started the exchange; the next may be started from there."""
        done, self._done = self._done, None
        self._sent, self._results = [], []
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if done is not None:
            done(outcome)

    def _lose(self, error: BaseException) -> None:
        if self.lost:
            return
        self.lost = True
        self._let_go()
        self._finish(LinkLostError(str(error).strip()))

    def _let_go(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)

    # the end

    def cancel(self, grace: float) -> None:
        """Ask the server, on a second connection, to stop what runs; after `grace` seconds give up."""
        if self._cancelling is None and not self.lost:
            self._cancelling = self._loop.create_task(self._cancel(grace))

    async def _cancel(self, grace: float) -> None:
        exchange = self._exchanges
        try:
            await self._connection.cancel_safe(timeout=grace)
        except errors.Error as error:
            self._lose(error)
            return
        if self._done is not None and self._exchanges == exchange:
            self._ended = self._loop.create_future()
            await asyncio.wait([self._ended], timeout=grace)
            if not self._ended.done():
                self._lose(errors.OperationalError("the server did not answer a cancel request"))

    def abort(self) -> None:
        """End the connection at once; what runs on it has an unknown outcome."""
        self._lose(errors.OperationalError("the connection was closed"))

    async def close(self) -> None:
        """End the connection."""
        self.abort()
        if self._cancelling is not None:
            await asyncio.wait([self._cancelling])
        await self._connection.close()


def _settle(waiter: asyncio.Future[list[Result]], outcome: Outcome) -> None:
    if waiter.done():
        return
    if isinstance(outcome, list):
        waiter.set_result(outcome)
    else:
        waiter.set_exception(outcome)
