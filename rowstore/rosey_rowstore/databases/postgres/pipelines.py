"""A batch of single statements as it is sent, and how its results become replies.

Reads may be answered from what is kept (`readcache`): the first statement is then for the snapshot, which
tells whether that is still true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rosey_rowstore.databases.base import StaleReplyError, whole_reply
from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.databases.postgres.groups import Group, grouped
from rosey_rowstore.databases.postgres.jobs import Job
from rosey_rowstore.databases.postgres.link import Failure
from rosey_rowstore.databases.readcache import Reads
from rosey_rowstore.engine.model import Result, Shared, Statement

__all__ = ["Pipeline"]

# All transactions that were over when it was taken, and with that all that a read sees. It stands before the
# reads: what they see is this, or newer, and newer shows when it is asked for again.
_SNAPSHOT: Final = Statement("SELECT pg_catalog.pg_current_snapshot()::text")


class Pipeline:
    """One batch on its way.

    Args:
        batch: Jobs of one statement each, or with a kept reply.
        reads: Where replies are kept; None for a batch without any.

    Attributes:
        groups: The jobs that need a statement, by statement.
    """

    __slots__ = ("_kept", "_reads", "_snapshot", "_true", "groups")

    def __init__(self, batch: Sequence[Job], reads: Reads | None = None) -> None:
        self._kept: Sequence[Job] = ()
        self._true: Sequence[Job] = ()
        self._snapshot = ""
        self._reads: Reads | None = None
        if reads is not None:
            kept = [job for job in batch if job.work.kept is not None]
            # A read that is alone costs no more by itself, and nothing is asked before it.
            if kept or (len(batch) > 1 and batch[0].work.key is not None and reads.worthwhile()):
                self._reads, self._kept = reads, kept
                batch = [job for job in batch if job.work.kept is None] if kept else batch
        self.groups: Sequence[Group] = grouped(batch)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that need a statement, in their order."""
        return [job for group in self.groups for job in group.jobs]

    def statements(self) -> list[Statement]:
        """Return what is sent."""
        found = [group.statement() for group in self.groups]
        if self._reads is not None:
            found.insert(0, _SNAPSHOT)
        return found

    def confirm(self, results: Sequence[Result]) -> None:
        """Find out which kept replies are true; to be done before anything else comes to the cache."""
        if self._reads is not None:
            self._snapshot = results[0].rows[0][0]
            self._reads.confirm(self._snapshot)
            era = self._reads.era
            self._true = [job for job in self._kept if job.work.era is era]

    def answer(self, results: Sequence[Result]) -> None:
        """Give every job its reply; a kept one that is not true any more is begun anew."""
        if self._reads is not None:
            self._reads.hits += len(self._true)
            for job in self._true:
                job.reply(job.work.kept or b"")
            if len(self._true) < len(self._kept):
                self.give_up()
            results = results[1:]
        for group, result in zip(self.groups, results, strict=True):
            if group.shared is None:
                self._complete(group.jobs[0], (result,))
                continue
            try:
                self._answer_group(group, group.shared, result)
            except Exception as error:  # noqa: BLE001 - a fault of ours; the lane goes on
                for job in group.jobs:
                    job.refuse(internal_fault("a shared statement", error))

    def _answer_group(self, group: Group, shared: Shared, result: Result) -> None:
        """Give each job of a shared statement what is its own."""
        replies = shared.replies(result)
        if replies is not None:
            for job, reply in zip(group.jobs, replies, strict=True):
                job.reply(whole_reply(reply))
            return
        for job, own in zip(group.jobs, group.results(result), strict=True):
            self._complete(job, (own,))

    def _complete(self, job: Job, results: Sequence[Result]) -> None:
        """Make the reply of a job and give it; every job gets an answer."""
        work = job.work
        try:
            body = work.complete(results)
        except Exception as error:  # noqa: BLE001 - a refusal, or what the caller gets a reference for
            job.refuse(error)
            return
        job.reply(body)
        if self._reads is not None and work.key is not None and work.terms is not None:
            self._reads.keep(work.key, body, self._snapshot, work.terms)

    def failed_at(self, failure: Failure) -> int:
        """Return which group's statement failed; -1 for that of the snapshot."""
        return failure.index if self._reads is None else failure.index - 1

    def give_up(self) -> None:
        """Begin those anew that wait for a kept reply; those that have it are left aside."""
        for job in self._kept:
            job.refuse(StaleReplyError())
