"""A thread with one connection, and the calls that wait for it.

What waits is run together in one transaction, so that a burst of writes pays for one commit; every call is
still all or nothing by itself, and is answered only after the commit.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import frozen

from rosey_kvstore.errors import StorageError, Unavailable
from rosey_kvstore.sqlite.bucket import Bucket
from rosey_kvstore.sqlite.faults import translate

__all__ = ["Lane"]

T = TypeVar("T")
# One transaction stays short, for the other processes that wait for the lock.
BATCH = 128

Work = Callable[[Bucket], Any]


@frozen
class _Call:
    work: Work
    future: asyncio.Future[Any]


@frozen
class _Outcome:
    call: _Call
    result: Any = None
    error: BaseException | None = None


class Lane:
    """Runs calls on its own thread, in the order they came.

    Args:
        opens: Opens the connection, called on the thread.
        file: The name for messages.
    """

    def __init__(self, opens: Callable[[], Bucket], file: str) -> None:
        self._opens = opens
        self._file = file
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._accepts = False

    async def start(self) -> None:
        """Start the thread and wait until its connection is open; raises what opening raised."""
        loop = self._loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        opened: asyncio.Future[None] = loop.create_future()
        # A daemon: a program that forgot to close its storage still ends; the file is safe in any case.
        threading.Thread(
            target=self._serve, args=(opened, self._stopped), name=f"kv {self._file}", daemon=True
        ).start()
        try:
            await opened
        except asyncio.CancelledError:
            self._calls.put(None)
            raise
        self._accepts = True

    async def stop(self) -> None:
        """Finish what waits, then close the connection."""
        if self._accepts:
            self._accepts = False
            self._calls.put(None)
        if self._stopped is not None:
            await asyncio.shield(self._stopped)

    async def run(self, work: Callable[[Bucket], T]) -> T:
        """Run `work` in a transaction and return what it returned, once that is committed."""
        if not self._accepts or self._loop is None:
            raise Unavailable("The storage is closed.", hint="Open it, with `async with`, before calling it.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put(_Call(work, future))
        return await future

    # On the thread.

    def _serve(self, opened: asyncio.Future[None], stopped: asyncio.Future[None]) -> None:
        try:
            bucket = self._opens()
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the caller of `start`
            self._tell(_settle, stopped, None, None)
            self._tell(_settle, opened, None, error)
            return
        self._tell(_settle, opened, None, None)
        try:
            while (batch := self._take()) and self._tell(_answer, self._execute(bucket, batch)):
                pass
        finally:
            bucket.close()
            self._tell(_settle, stopped, None, None)

    def _take(self) -> list[_Call]:
        """Wait for calls; an empty list means the end."""
        batch: list[_Call] = []
        call = self._calls.get()
        while call is not None:
            batch.append(call)
            if len(batch) == BATCH:
                return batch
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            self._calls.put(None)
        return batch

    def _execute(self, bucket: Bucket, batch: Sequence[_Call]) -> list[_Outcome]:
        waiting = [call for call in batch if not call.future.cancelled()]
        if not waiting:
            return []
        try:
            bucket.begin()
        except sqlite3.Error as error:
            bucket.rollback()
            return self._fail(waiting, error)
        try:
            outcomes = [_attempt(bucket, call) for call in waiting]
            bucket.commit()
        except sqlite3.Error as error:
            bucket.rollback()
            if len(waiting) == 1:
                return self._fail(waiting, error)
        else:
            return outcomes
        # One of them met an error of SQLite's: alone, each gets its own answer.
        return [outcome for call in waiting for outcome in self._execute(bucket, [call])]

    def _fail(self, calls: Sequence[_Call], error: sqlite3.Error) -> list[_Outcome]:
        fault = translate(error, self._file)
        fault.__cause__ = error
        return [_Outcome(call, error=_copy(fault)) for call in calls]

    def _tell(self, function: Callable[..., None], *values: Any) -> bool:
        """Call `function` on the event loop; False when the loop is gone."""
        assert self._loop is not None  # noqa: S101  # `start` sets it before the thread begins
        try:
            self._loop.call_soon_threadsafe(function, *values)
        except RuntimeError:
            return False
        return True


def _attempt(bucket: Bucket, call: _Call) -> _Outcome:
    try:
        return _Outcome(call, result=bucket.attempt(call.work))
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001  # it belongs to this call alone
        return _Outcome(call, error=error)


def _copy(fault: StorageError) -> StorageError:
    # Each caller gets its own: a traceback grows on an exception wherever it is raised.
    copy = type(fault)(fault.message, hint=fault.hint)
    copy.__cause__ = fault.__cause__
    return copy


# On the event loop.


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _answer(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        _settle(outcome.call.future, outcome.result, outcome.error)
