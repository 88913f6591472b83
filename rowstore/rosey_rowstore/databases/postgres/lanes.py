"""Lanes: a plugin's requests, first in first out, as pipelines on its own few connections.

A plugin has one lane for writes and two for reads. A free lane takes what waits, up to 32 requests,
sends it as one pipeline (one implicit transaction, one commit) and answers after the Sync. A request
that is alone goes alone, so nothing is added where there is no crowd.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from attrs import define

from rosey_rowstore.databases.base import StaleSchemaError, Work, placed
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.databases.postgres import replies
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.errors import CANCELLED, fault_of
from rosey_rowstore.databases.postgres.link import Failure, Link, LinkLostError
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.protocol import Fault

__all__ = ["BATCH", "PluginLanes"]

log = logging.getLogger("rosey_rowstore.databases")

BATCH: Final = 32
READ_LANES: Final = 2
_CANCEL_GRACE: Final = 2.0
_SWEEP_SECONDS: Final = 0.1

_BEGIN: Final = Statement("BEGIN")
_BEGIN_READING: Final = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT: Final = Statement("COMMIT")
_ROLLBACK: Final = Statement("ROLLBACK")

UNKNOWN_OUTCOME: Final = "The connection to the database was lost; the write may have happened."
_UNKNOWN_HINT: Final = "Ask again with the same Nats-Msg-Id: it has one effect at most."


@define(eq=False)
class _Job:
    work: Work
    answer: asyncio.Future[bytes]
    repeated: bool = False

    def refuse(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def reply(self, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(body)


def _expired(work: Work) -> Fault:
    if work.plan.writes:
        return Fault("timeout", "The time was over before the write was done; nothing was written.")
    return Fault("timeout", "The time was over before the database had answered.")


class PluginLanes:
    """The lanes of one plugin; opening costs nothing, the first request connects."""

    def __init__(self, connections: Connections, plugin: str) -> None:
        self._writes = _Queue()
        self._reads = _Queue()
        self._lanes = [
            _Lane(connections, plugin, self._writes),
            *(_Lane(connections, plugin, self._reads) for _ in range(READ_LANES)),
        ]
        for lane in self._lanes:
            lane.queue.lanes.append(lane)

    @property
    def waiting(self) -> int:
        """The requests that no lane has taken yet."""
        return len(self._writes.jobs) + len(self._reads.jobs)

    def submit(self, work: Work) -> asyncio.Future[bytes]:
        """Put work at the end of its queue; the future has the reply's bytes."""
        queue = self._writes if work.plan.writes else self._reads
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        queue.add(_Job(work, answer))
        return answer

    def forget_statements(self) -> None:
        """Prepare everything anew, after a change of the schema."""
        for lane in self._lanes:
            lane.forget_statements()

    async def close(self) -> None:
        """Answer what was taken and what waits, then close the connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))


class _Queue:
    """What waits, in order, and the lanes that serve it."""

    def __init__(self) -> None:
        self.jobs: deque[_Job] = deque()
        self.lanes: list[_Lane] = []
        self.woken = 0
        self._sweeper: asyncio.TimerHandle | None = None

    def add(self, job: _Job) -> None:
        self.jobs.append(job)
        for lane in self.lanes:
            if not lane.busy:
                lane.wake()
                return
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Answer those whose time is over while every lane is busy."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        kept = deque(job for job in self.jobs if job.work.deadline > now)
        if len(kept) < len(self.jobs):
            for job in self.jobs:
                if job.work.deadline <= now:
                    job.refuse(_expired(job.work))
            self.jobs = kept
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self.jobs else None

    def take(self) -> list[_Job]:
        """Remove the next batch: one that needs a transaction of its own, or up to `BATCH` others."""
        batch: list[_Job] = []
        ids: set[str] = set()
        # Lanes that woke in the same turn share what waits, so that a slow request holds up its half only.
        most = min(BATCH, -(-len(self.jobs) // max(1, self.woken)))
        while self.jobs and len(batch) < most:
            work = self.jobs[0].work
            if work.plan.atomic:
                return batch or [self.jobs.popleft()]
            if work.message_id is not None:
                if work.message_id in ids:
                    return batch  # the second of the same id finds the first one's reply
                ids.add(work.message_id)
            batch.append(self.jobs.popleft())
        return batch


class _Lane:
    """One connection and the batches that run on it, one after the other."""

    def __init__(self, connections: Connections, plugin: str, queue: _Queue) -> None:
        self.queue = queue
        self.busy = False
        self._connections = connections
        self._plugin = plugin
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._stale = False
        self._replies_stored = False
        self._cleaned_at = float("-inf")

    def wake(self) -> None:
        """Take up work at the next turn of the loop, so that all that arrives in this one goes together."""
        self.busy = True
        self.queue.woken += 1
        self._task = asyncio.get_running_loop().create_task(self._drain())

    def forget_statements(self) -> None:
        self._stale = True

    async def close(self) -> None:
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        await self.let_go()

    async def give_up(self) -> None:
        """Close the connection for another plugin's sake, unless work came in the meantime."""
        if not self.busy:
            await self.let_go()

    async def let_go(self) -> None:
        """Close the connection; the next batch opens another."""
        link, self._link = self._link, None
        if link is not None:
            await self._connections.close(self, link)

    async def _drain(self) -> None:
        batch = self.queue.take()
        self.queue.woken -= 1
        try:
            while batch:
                try:
                    await self._run(batch)
                except BaseException as error:  # a lane never dies of one batch
                    for job in batch:
                        job.refuse(internal_fault("a lane failed", error))
                    await self.let_go()
                    if not isinstance(error, Exception):
                        raise
                if self._replies_stored:
                    await self._clean_replies()
                batch = self.queue.take()
        finally:
            self.busy = False
            if self.queue.jobs:
                self.wake()
            elif self._link is not None:
                self._connections.idle(self)

    async def _run(self, batch: Sequence[_Job]) -> None:
        """Answer every job of the batch."""
        batch = self._still_wanted(batch)
        if not batch:
            return
        try:
            link = await self._opened(min(job.work.deadline for job in batch))
        except Fault as fault:
            for job in batch:
                job.refuse(fault)
            return
        held = batch[0].work.plan.atomic or any(job.work.message_id is not None for job in batch)
        try:
            if held:
                await self._run_held(link, batch)
            else:
                await self._run_plain(link, batch)
        except LinkLostError:
            await self.let_go()
            await self._after_loss(batch)

    @staticmethod
    def _still_wanted(batch: Sequence[_Job]) -> list[_Job]:
        now = asyncio.get_running_loop().time()
        wanted = []
        for job in batch:
            if job.answer.done():
                continue
            if job.work.deadline <= now:
                job.refuse(_expired(job.work))
            else:
                wanted.append(job)
        return wanted

    async def _opened(self, deadline: float) -> Link:
        if self._link is not None and self._link.lost:
            await self.let_go()
        self._connections.busy(self)
        if self._link is None:
            self._link = await self._connections.open(self, self._plugin, deadline)
            self._stale = False
        if self._stale:
            self._stale = False
            self._link.forget_statements()
        return self._link

    async def _exchange(
        self, link: Link, statements: Sequence[Statement], batch: Sequence[_Job]
    ) -> list[Result]:
        """Run a pipeline; the first deadline of the batch cancels it."""
        deadline = batch[0].work.deadline if len(batch) == 1 else min(job.work.deadline for job in batch)
        timer = asyncio.get_running_loop().call_at(deadline, link.cancel, _CANCEL_GRACE)
        try:
            return await link.exchange(statements)
        finally:
            timer.cancel()

    async def _clean_replies(self) -> None:
        """Remove replies past their time, now and then, after a batch that stored some."""
        self._replies_stored = False
        now = asyncio.get_running_loop().time()
        if now - self._cleaned_at < replies.CLEANING_SECONDS or self._link is None or self._link.lost:
            return
        self._cleaned_at = now
        try:
            await self._link.exchange([replies.CLEAN])
        except (Failure, LinkLostError) as error:
            log.warning("stored replies of %s were not cleaned: %s", self._plugin, error)

    # one implicit transaction

    async def _run_plain(self, link: Link, batch: Sequence[_Job]) -> None:
        """Run single statements as one pipeline, which is one transaction by itself."""
        try:
            if len(batch) == 1:
                results = await self._exchange(link, batch[0].work.plan.statements, batch)
            else:
                statements = [job.work.plan.statements[0] for job in batch]
                results = await self._exchange(link, statements, batch)
        except Failure as failure:
            await self._after_failure(batch, failure, failure.index)
            return
        for job, result in zip(batch, results, strict=True):
            try:
                job.reply(job.work.complete((result,)))
            except Exception as error:  # noqa: BLE001 - every job gets an answer
                job.refuse(error)

    # a transaction that stays open until the replies are made

    async def _run_held(self, link: Link, batch: Sequence[_Job]) -> None:
        """Run statements in a transaction that commits when every reply is made, and stored where asked."""
        begin = _BEGIN if batch[0].work.plan.writes else _BEGIN_READING
        statements = [begin, *(statement for job in batch for statement in job.work.plan.statements)]
        owners = [0, *(index for index, job in enumerate(batch) for _ in job.work.plan.statements)]
        try:
            results = await self._exchange(link, statements, batch)
        except Failure as failure:
            await self._roll_back(link)
            failure.statement = failure.index - 1
            await self._after_failure(batch, failure, owners[failure.index])
            return
        bodies: list[bytes] = []
        position = 1
        for index, job in enumerate(batch):
            count = len(job.work.plan.statements)
            try:
                bodies.append(job.work.complete(results[position : position + count]))
            except Exception as error:  # noqa: BLE001 - the answer of this job alone
                await self._roll_back(link)
                await self._after_refusal(batch, index, error)
                return
            position += count
        await self._commit(link, batch, bodies)

    async def _commit(self, link: Link, batch: Sequence[_Job], bodies: Sequence[bytes]) -> None:
        store = replies.store([(job.work, body) for job, body in zip(batch, bodies, strict=True)])
        try:
            await self._exchange(link, [_COMMIT] if store is None else [store, _COMMIT], batch)
        except Failure as failure:
            await self._roll_back(link)
            if store is not None and failure.error.sqlstate == replies.REPEATED:
                await self._after_repeat(link, batch)
            else:  # a constraint that is checked at the end: whose it is, each alone will tell
                await self._after_failure(batch, failure, 0)
            return
        for job, body in zip(batch, bodies, strict=True):
            job.reply(body)
        if store is not None:
            self._replies_stored = True

    @staticmethod
    async def _roll_back(link: Link) -> None:
        if link.in_transaction:
            await link.exchange([_ROLLBACK])

    # when something failed

    async def _after_failure(self, batch: Sequence[_Job], failure: Failure, index: int) -> None:
        """Answer the job whose statement failed, and run the others without it."""
        now = asyncio.get_running_loop().time()
        if failure.error.sqlstate == CANCELLED and any(job.work.deadline <= now for job in batch):
            await self._run(batch)  # those whose time is over are answered, the others run
            return
        if len(batch) == 1:
            await self._settle(batch[0], _translated(failure, batch[0].work))
            return
        await self._split(batch, index)

    async def _split(self, batch: Sequence[_Job], index: int) -> None:
        """Run what stood before, the culprit alone, and what stood after: each is answered by its own run."""
        for part in (batch[:index], batch[index : index + 1], batch[index + 1 :]):
            if part:
                await self._run(part)

    async def _after_refusal(self, batch: Sequence[_Job], index: int, error: Exception) -> None:
        if len(batch) == 1:
            await self._settle(batch[0], error)
        else:
            await self._split(batch, index)

    async def _after_repeat(self, link: Link, batch: Sequence[_Job]) -> None:
        """Answer from the stored replies; the batch did nothing, because one of its ids has its effect."""
        if len(batch) > 1:
            for job in batch:
                await self._run([job])
        elif not await self._reply_again(link, batch[0]):
            batch[0].refuse(
                Fault("unavailable", "The stored reply is gone; nothing was written.", hint="Ask again.")
            )

    async def _settle(self, job: _Job, error: BaseException) -> None:
        """Refuse a job, unless its id has a reply: then the refusal is only the echo of its own effect."""
        if isinstance(error, StaleSchemaError) and self._link is not None:
            self._link.forget_statements()
        if job.work.message_id is not None and self._link is not None and not self._link.lost:
            try:
                if await self._reply_again(self._link, job):
                    return
            except Failure as failure:
                error = _translated(failure, job.work)
        job.refuse(error)

    async def _reply_again(self, link: Link, job: _Job) -> bool:
        """Answer a job from the stored reply of its id; False when there is none."""
        (found,) = await self._exchange(link, [replies.find(job.work)], [job])
        if not found.rows:
            return False
        try:
            job.reply(replies.reply_for(job.work, found.rows[0]))
        except Fault as fault:
            job.refuse(fault)
        return True

    async def _after_loss(self, batch: Sequence[_Job]) -> None:
        """Answer what was under way when the connection ended: reads run again once, writes are not known."""
        now = asyncio.get_running_loop().time()
        for job in batch:
            if job.answer.done():
                continue
            if job.work.plan.writes:
                code = "timeout" if job.work.deadline <= now else "unavailable"
                job.refuse(Fault(code, UNKNOWN_OUTCOME, hint=_UNKNOWN_HINT))
            elif job.work.deadline <= now:
                job.refuse(_expired(job.work))
            elif job.repeated:
                job.refuse(
                    Fault(
                        "unavailable",
                        "The connection to the database was lost.",
                        hint="Ask again in a moment.",
                    )
                )
            else:
                job.repeated = True
                await self._run([job])


def _translated(failure: Failure, work: Work) -> BaseException:
    try:
        return placed(fault_of(failure.error, work.plan.tables), work.plan, failure.statement)
    except StaleSchemaError as stale:
        return stale
