"""What waits for a lane: jobs in order, taken in batches, refused when their time is over."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from rosey_rowstore.databases.base import Answer, Work
from rosey_rowstore.protocol import Fault

__all__ = ["BATCH", "CROWD", "Job", "Queue", "Worker", "expired"]

BATCH: Final = 32
CROWD: Final = 16
"""As many reads that arrive in one turn of the loop do not wait for its end; of writes, a full batch: each
batch of them is one more commit."""
_SWEEP_SECONDS: Final = 0.1
_PATIENCE: Final = 0.001
"""Seconds that a batch may take before the next lane helps: a full batch of quick statements takes less,
and two lanes that share a crowd send twice as many pipelines, each half as long."""


class Job(Struct, eq=False):
    """Work, and who waits for its reply.

    Attributes:
        alone: It shares no statement: one that it shared has failed, and which job was at fault shows then.
        repeated: It was sent a second time already.
    """

    work: Work
    answer: Answer
    alone: bool = False
    repeated: bool = False

    def refuse(self, error: BaseException) -> None:
        """Answer with an error, unless it was answered or nobody waits any longer."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def reply(self, body: bytes) -> None:
        """Answer, unless nobody waits any longer."""
        if not self.answer.done():
            self.answer.set_result(body)


def expired(work: Work) -> Fault:
    """Return the error of work whose time was over before it began."""
    if work.plan.writes:
        return Fault("timeout", "The time was over before the write was done; nothing was written.")
    return Fault("timeout", "The time was over before the database had answered.")


class Worker(Protocol):
    """What serves a queue.

    Attributes:
        busy: It runs a batch, or will at the next turn of the loop.
        since: The moment (`time.monotonic`: uvloop's own clock counts milliseconds) its batch was sent.
    """

    busy: bool
    since: float

    def wake(self) -> None:
        """Take what waits, at the next turn of the loop."""

    def begin(self) -> None:
        """Take what waits now, when it was woken."""


class Queue:
    """What waits, in order, and the lanes that serve it.

    Args:
        crowd: As many that wait at once are begun before the loop's turn is over.
    """

    def __init__(self, crowd: int) -> None:
        self._crowd = crowd
        self.jobs: deque[Job] = deque()
        self.lanes: list[Worker] = []
        self.woken: list[Worker] = []
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None
        self._helper: asyncio.TimerHandle | None = None

    def add(self, job: Job) -> None:
        """Put a job at the end, and see that a lane takes it."""
        self.jobs.append(job)
        if not self.lanes[0].busy or self.woken:  # of what arrives in one turn, each lane takes its share
            if self.woken and job.work.kept is not None:
                return  # it needs no lane's time, and is confirmed with all others of this turn
            if self.woken and len(self.jobs) >= self._crowd:
                self.woken[0].begin()  # the database works while the rest of a long turn is being read
                return
            for lane in self.lanes:
                if not lane.busy:
                    lane.wake()
                    return
            return
        if self._helper is None and len(self.lanes) > 1:
            self._helper = self._loop.call_later(_PATIENCE, self._help)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _help(self) -> None:
        """Wake another lane when those that run take long; what waits must not wait for one slow request."""
        self._helper = None
        if not self.jobs:
            return
        lately = time.monotonic() - _PATIENCE
        if all(lane.since <= lately for lane in self.lanes if lane.busy):
            for lane in self.lanes:
                if not lane.busy:
                    lane.wake()
                    return
        if not all(lane.busy for lane in self.lanes):
            self._helper = self._loop.call_later(_PATIENCE, self._help)

    def _sweep(self) -> None:
        """Answer those whose time is over while every lane is busy."""
        now = self._loop.time()
        kept = deque(job for job in self.jobs if job.work.deadline > now)
        if len(kept) < len(self.jobs):
            for job in self.jobs:
                if job.work.deadline <= now:
                    job.refuse(expired(job.work))
            self.jobs = kept
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep) if self.jobs else None

    def take(self) -> Sequence[Job]:
        """Remove the next batch of those whose time is not over; empty when nothing waits."""
        while batch := self._next():
            now = self._loop.time()
            wanted = [job for job in batch if job.work.deadline > now and not job.answer.done()]
            if len(wanted) < len(batch):
                for job in batch:
                    if job.work.deadline <= now:
                        job.refuse(expired(job.work))
            if wanted:
                return wanted
        return ()

    def _next(self) -> list[Job]:
        """Remove one that needs a transaction of its own, or up to `BATCH` others.

        Those with a kept reply come on top: to the database any number of them is one statement.
        """
        jobs = self.jobs
        count = 0
        batch: list[Job] = []
        ids: set[str] = set()
        # Lanes that woke in the same turn share what waits, so that a slow request holds up its half only.
        most = BATCH
        if len(self.woken) > 1 and len(jobs) < CROWD:
            most = -(-len(jobs) // len(self.woken))
        while jobs and count < most:
            work = jobs[0].work
            if work.kept is not None:
                batch.append(jobs.popleft())
                continue
            count += 1
            if work.plan.atomic:
                return batch or [jobs.popleft()]
            if work.message_id is not None:
                if work.message_id in ids:
                    return batch  # the second of the same id finds the first one's reply
                ids.add(work.message_id)
            batch.append(jobs.popleft())
        return batch
