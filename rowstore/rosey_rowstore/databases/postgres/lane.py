"""One lane: a connection, and the batches that run on it one after the other.

The common batch, of statements that need no transaction of their own, is sent and answered from the
event loop's own callbacks: a task a batch and a future a request would cost more than the statement.
Whatever else may be to do (to connect, to hold a transaction open, to mend after an error) is a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Sequence
from typing import Final

from rosey_rowstore.databases.base import StaleReplyError, StaleSchemaError, Work, placed
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.databases.postgres import replies
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.errors import CANCELLED, fault_of
from rosey_rowstore.databases.postgres.jobs import Job, Queue, expired
from rosey_rowstore.databases.postgres.link import Failure, Link, LinkLostError, Outcome
from rosey_rowstore.databases.postgres.pipelines import Pipeline
from rosey_rowstore.databases.readcache import Reads
from rosey_rowstore.engine.model import Result, Statement
from rosey_rowstore.protocol import Fault

__all__ = ["Lane"]

log = logging.getLogger("rosey_rowstore.databases")

_CANCEL_GRACE: Final = 2.0
_WATCHED_SECONDS: Final = 0.0001
"""A row by its key takes 40 to 80 µs on the machines we measured; watched twice as long, none is faster."""
_CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

_BEGIN: Final = Statement("BEGIN")
_BEGIN_READING: Final = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT: Final = Statement("COMMIT")
_ROLLBACK: Final = Statement("ROLLBACK")

_NOTHING_SENT: Final = Pipeline(())
UNKNOWN_OUTCOME: Final = "The connection to the database was lost; the write may have happened."
_UNKNOWN_HINT: Final = "Ask again with the same Nats-Msg-Id: it has one effect at most."


class Lane:
    """One connection and the batches that run on it, one after the other.

    Args:
        connections: Opens the connection, and closes it for another plugin's sake.
        plugin: Whose lane it is.
        queue: What waits.
        reads: Keeps replies to reads; None for never.
    """

    def __init__(
        self, connections: Connections, plugin: str, queue: Queue, reads: Reads | None = None
    ) -> None:
        self.queue = queue
        self.busy = False
        self.since = 0.0
        self._loop = asyncio.get_running_loop()
        self._connections = connections
        self._plugin = plugin
        self._reads = reads
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._batch: Sequence[Job] = ()
        self._pipeline = _NOTHING_SENT
        self._timer: asyncio.TimerHandle | None = None
        self._closing: list[asyncio.Future[None]] = []
        self._stale = False
        self._replies_stored = False
        self._cleaned_at = float("-inf")

    def wake(self) -> None:
        """Take up work at the next turn of the loop, so that all that arrives in this one goes together."""
        self.busy = True
        self.queue.woken.append(self)
        self._connections.busy(self)
        self._loop.call_soon(self.begin)

    def forget_statements(self) -> None:
        """Prepare everything anew before the next batch."""
        self._stale = True

    async def close(self) -> None:
        """Answer what was taken and what waits, then close the connection."""
        while self.busy:
            rested: asyncio.Future[None] = self._loop.create_future()
            self._closing.append(rested)
            await rested
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

    # from batch to batch

    def begin(self) -> None:
        """Take what waits, unless it was taken since the lane was woken."""
        if self in self.queue.woken:
            batch = self.queue.take()
            self.queue.woken.remove(self)
            self._next(batch)

    def _next(self, batch: Sequence[Job] | None = None) -> None:
        """Run a batch, or what waits, or rest."""
        if batch is None:
            batch = self.queue.take()
        if not batch:
            self._rest()
            return
        self.since = time.monotonic()
        link = self._link
        if link is not None and link.ready and not self._stale and not _held(batch):
            self._send(link, batch)
        else:
            self._task = self._loop.create_task(self._work(batch))

    def _rest(self) -> None:
        self.busy = False
        self._connections.idle(self, self._link)
        for waiting in self._closing:
            if not waiting.done():
                waiting.set_result(None)
        self._closing.clear()

    async def _work(self, batch: Sequence[Job]) -> None:
        """Run a batch as a task of its own."""
        await self._guarded(batch, self._run(batch))

    async def _guarded(self, batch: Sequence[Job], work: Awaitable[None]) -> None:
        """A lane never dies of one batch."""
        try:
            await work
            if self._replies_stored:
                await self._clean_replies()
        except BaseException as error:
            for job in batch:
                job.refuse(internal_fault("a lane failed", error))
            await self.let_go()
            if not isinstance(error, Exception):
                raise
        finally:
            self._next()

    # the common batch, without a task

    def _send(self, link: Link, batch: Sequence[Job]) -> None:
        """Send single statements as one pipeline, which is one transaction by itself."""
        self._batch = batch
        deadline = min([job.work.deadline for job in batch])
        self._timer = self._loop.call_at(deadline, link.cancel, _CANCEL_GRACE)
        try:
            self._pipeline = Pipeline(batch, self._reads)
            link.start(self._pipeline.statements(), self._answered)
        except Exception as error:  # noqa: BLE001 - a parameter that cannot be sent; nothing was
            self._answered(LinkLostError(str(error)), error)
        else:
            if len(batch) == 1 and not batch[0].work.plan.writes and self._alone():
                link.watch(_WATCHED_SECONDS)

    def _alone(self) -> bool:
        """Whether nobody waits for this lane or another, and the database has a core of its own."""
        return _CORES > 1 and not self.queue.jobs and self._connections.quiet

    def _answered(self, outcome: Outcome, cause: Exception | None = None) -> None:
        """Answer the batch that was sent, and go on with the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, pipeline = self._batch, self._pipeline
        self._batch, self._pipeline = (), _NOTHING_SENT
        if isinstance(outcome, list):
            pipeline.confirm(outcome)
            # The database works on what waits while the replies to this are made.
            self._next()
            pipeline.answer(outcome)
        else:
            self._task = self._loop.create_task(
                self._guarded(batch, self._mend(batch, pipeline, outcome, cause))
            )

    async def _mend(
        self, batch: Sequence[Job], pipeline: Pipeline, outcome: Outcome, cause: Exception | None
    ) -> None:
        pipeline.give_up()
        if cause is not None:
            raise cause
        if isinstance(outcome, Failure):
            try:
                await self._after_group(pipeline, outcome)
            except LinkLostError:
                await self._lose(batch)
        else:
            await self._lose(batch)

    async def _run(self, batch: Sequence[Job]) -> None:
        """Answer every job of the batch."""
        batch = _still_wanted(batch)
        if not batch:
            return
        try:
            link = await self._opened(min(job.work.deadline for job in batch))
        except Fault as fault:
            for job in batch:
                job.refuse(fault)
            return
        try:
            if _held(batch):
                await self._run_held(link, batch)
            else:
                await self._run_plain(link, batch)
        except LinkLostError:
            await self._lose(batch)

    async def _lose(self, batch: Sequence[Job]) -> None:
        await self.let_go()
        await self._after_loss(batch)

    async def _opened(self, deadline: float) -> Link:
        if self._link is not None and self._link.lost:
            await self.let_go()
        if self._link is None:
            self._link = await self._connections.open(self, self._plugin, deadline)
            if self._reads is not None:  # also what the other lane has kept meanwhile
                self._reads.forget()
            self._stale = False
        if self._stale:
            self._stale = False
            self._link.forget_statements()
        return self._link

    async def _exchange(
        self, link: Link, statements: Sequence[Statement], batch: Sequence[Job]
    ) -> list[Result]:
        """Run a pipeline; the first deadline of the batch cancels it."""
        deadline = batch[0].work.deadline if len(batch) == 1 else min(job.work.deadline for job in batch)
        timer = self._loop.call_at(deadline, link.cancel, _CANCEL_GRACE)
        try:
            return await link.exchange(statements)
        finally:
            timer.cancel()

    async def _clean_replies(self) -> None:
        """Remove replies past their time, now and then, after a batch that stored some."""
        self._replies_stored = False
        now = self._loop.time()
        if now - self._cleaned_at < replies.CLEANING_SECONDS or self._link is None or self._link.lost:
            return
        self._cleaned_at = now
        try:
            await self._link.exchange([replies.CLEAN])
        except (Failure, LinkLostError) as error:
            log.warning("stored replies of %s were not cleaned: %s", self._plugin, error)

    # one implicit transaction

    async def _run_plain(self, link: Link, batch: Sequence[Job]) -> None:
        """Run single statements as one pipeline, which is one transaction by itself."""
        pipeline = Pipeline(batch)
        try:
            results = await self._exchange(link, pipeline.statements(), batch)
        except Failure as failure:
            await self._after_group(pipeline, failure)
            return
        pipeline.answer(results)

    # a transaction that stays open until the replies are made

    async def _run_held(self, link: Link, batch: Sequence[Job]) -> None:
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

    async def _commit(self, link: Link, batch: Sequence[Job], bodies: Sequence[bytes]) -> None:
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

    async def _after_failure(self, batch: Sequence[Job], failure: Failure, index: int) -> None:
        """Answer the job whose statement failed, and run the others without it."""
        now = self._loop.time()
        if failure.error.sqlstate == CANCELLED and any(job.work.deadline <= now for job in batch):
            await self._run(batch)  # those whose time is over are answered, the others run
            return
        if len(batch) == 1:
            await self._settle(batch[0], _translated(failure, batch[0].work))
            return
        await self._split(batch, index)

    async def _after_group(self, pipeline: Pipeline, failure: Failure) -> None:
        """Do what follows the failure of a group's statement; of a shared one, find out whose it was."""
        batch, groups = pipeline.jobs, pipeline.groups
        index = pipeline.failed_at(failure)
        if index < 0:
            if failure.error.sqlstate != CANCELLED and self._reads is not None:
                log.warning("until a restart no reply of %s is kept: %s", self._plugin, failure.error)
                self._reads.stop()
            await self._run(batch)
            return
        culprit = groups[index]
        if culprit.shared is None:
            before = sum(len(group.jobs) for group in groups[:index])
            await self._after_failure(batch, failure, before)
        else:
            culprit.part()
            await self._run(batch)

    async def _split(self, batch: Sequence[Job], index: int) -> None:
        """Run what stood before, the culprit alone, and what stood after: each is answered by its own run."""
        for part in (batch[:index], batch[index : index + 1], batch[index + 1 :]):
            if part:
                await self._run(part)

    async def _after_refusal(self, batch: Sequence[Job], index: int, error: Exception) -> None:
        if len(batch) == 1:
            await self._settle(batch[0], error)
        else:
            await self._split(batch, index)

    async def _after_repeat(self, link: Link, batch: Sequence[Job]) -> None:
        """Answer from the stored replies; the batch did nothing, because one of its ids has its effect."""
        if len(batch) > 1:
            for job in batch:
                await self._run([job])
        elif not await self._reply_again(link, batch[0]):
            batch[0].refuse(
                Fault("unavailable", "The stored reply is gone; nothing was written.", hint="Ask again.")
            )

    async def _settle(self, job: Job, error: BaseException) -> None:
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

    async def _reply_again(self, link: Link, job: Job) -> bool:
        """Answer a job from the stored reply of its id; False when there is none."""
        (found,) = await self._exchange(link, [replies.find(job.work)], [job])
        if not found.rows:
            return False
        try:
            job.reply(replies.reply_for(job.work, found.rows[0]))
        except Fault as fault:
            job.refuse(fault)
        return True

    async def _after_loss(self, batch: Sequence[Job]) -> None:
        """Answer what was under way when the connection ended: reads run again once, writes are not known."""
        now = self._loop.time()
        for job in batch:
            if job.answer.done():
                continue
            if job.work.kept is not None:
                job.refuse(StaleReplyError())
            elif job.work.plan.writes:
                code = "timeout" if job.work.deadline <= now else "unavailable"
                job.refuse(Fault(code, UNKNOWN_OUTCOME, hint=_UNKNOWN_HINT))
            elif job.work.deadline <= now:
                job.refuse(expired(job.work))
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


def _held(batch: Sequence[Job]) -> bool:
    """Whether the batch needs a transaction that stays open until its replies are made, and stored."""
    return batch[0].work.plan.atomic or any(job.work.message_id is not None for job in batch)


def _still_wanted(batch: Sequence[Job]) -> list[Job]:
    now = asyncio.get_running_loop().time()
    wanted = []
    for job in batch:
        if job.answer.done():
            continue
        if job.work.deadline <= now:
            job.refuse(expired(job.work))
        elif job.work.kept is not None:  # only a pipeline that asks for the snapshot may give it
            job.refuse(StaleReplyError())
        else:
            wanted.append(job)
    return wanted


def _translated(failure: Failure, work: Work) -> BaseException:
    try:
        return placed(fault_of(failure.error, work.plan.tables), work.plan, failure.statement)
    except StaleSchemaError as stale:
        return stale
