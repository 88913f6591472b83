"""When a lane takes up what waits: at the end of the loop's turn, or earlier when there is a crowd."""

from __future__ import annotations

import asyncio

from rosey_rowstore.databases.base import Work
from rosey_rowstore.databases.postgres.jobs import Job, Queue
from rosey_rowstore.engine.model import Statement
from rosey_rowstore.engine.plans import Plan


class _Lane:
    """Notes how many it takes at a time, and is busy from then on."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.busy = False
        self.since = 0.0
        self.taken: list[int] = []

    def wake(self) -> None:
        self.busy = True
        self.queue.woken.append(self)
        asyncio.get_running_loop().call_soon(self.begin)

    def begin(self) -> None:
        if self in self.queue.woken:
            self.taken.append(len(self.queue.take()))
            self.queue.woken.remove(self)


def _job() -> Job:
    def finish(results: object) -> bytes:
        del results
        return b"{}"

    loop = asyncio.get_running_loop()
    plan = Plan(statements=(Statement("SELECT 1"),), finish=finish, writes=False, atomic=False, tables=())
    return Job(Work(plan, loop.time() + 60), loop.create_future())


async def test_a_crowd_is_begun_before_the_turn_is_over() -> None:
    """As soon as so many wait as make a crowd the lane takes them; fewer wait for the end of the turn."""
    for crowd, arriving, at_once, later in ((16, 20, [16], [16]), (32, 31, [], [31]), (32, 40, [32], [32])):
        queue = Queue(crowd)
        lane = _Lane(queue)
        queue.lanes.append(lane)
        for _ in range(arriving):
            queue.add(_job())
        assert lane.taken == at_once
        await asyncio.sleep(0)
        assert lane.taken == later
