"""The jobs of a batch by the statements that answer them: one each, or one for many of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rosey_rowstore.databases.postgres.jobs import Job
from rosey_rowstore.engine.model import Result, Shared, Statement

__all__ = ["Group", "grouped"]

_FEW: Final = 4
"""Fewer than these are as fast each by itself, and cause no second statement to be prepared."""


class Group:
    """Jobs that one statement answers.

    Attributes:
        jobs: In the order in which they came.
        shared: How their statement is made; None for the plan's own, of a job alone.
    """

    __slots__ = ("jobs", "shared")

    def __init__(self, jobs: list[Job], shared: Shared | None) -> None:
        self.jobs = jobs
        self.shared = shared

    def statement(self) -> Statement:
        """Return what is sent."""
        if self.shared is None:
            return self.jobs[0].work.plan.statements[0]
        return self.shared.together(self._parameters())

    def results(self, result: Result) -> list[Result]:
        """Return what each job gets of the statement's result."""
        if self.shared is None:
            return [result]
        return self.shared.apart(self._parameters(), result)

    def part(self) -> None:
        """See that each job has a statement of its own from now on."""
        for job in self.jobs:
            job.alone = True

    def _parameters(self) -> list[Sequence[object]]:
        return [job.work.plan.statements[0].parameters for job in self.jobs]


def grouped(batch: Sequence[Job]) -> list[Group]:
    """Return the groups of a batch of single statements.

    Reads of one shape go together wherever they stand in the batch, writes where they follow one another:
    a write takes effect after those that came before it.
    """
    if len(batch) < _FEW:
        return [Group([job], None) for job in batch]
    found: list[Group] = []
    open_groups: dict[Shared, Group] = {}
    for job in batch:
        plan = job.work.plan
        shared = None if job.alone else plan.shared
        if shared is not None and (group := open_groups.get(shared)) is not None:
            group.jobs.append(job)
            continue
        if plan.writes:
            open_groups.clear()
        group = Group([job], shared)
        found.append(group)
        if shared is not None:
            open_groups[shared] = group
    groups: list[Group] = []
    for group in found:
        if group.shared is None:
            groups.append(group)
        elif len(group.jobs) < _FEW:
            groups += [Group([job], None) for job in group.jobs]
        else:
            groups.append(group)
    return groups
