"""Lanes: a plugin's requests, first in first out, as pipelines on its own few connections.

A plugin has one lane for writes and two for reads. A free lane takes what waits, up to 32 requests,
sends it as one pipeline (one implicit transaction, one commit) and answers after the Sync. Of what it
took, requests of one shape share a statement where their plans say how (`groups`). A request
that is alone goes alone, so nothing is added where there is no crowd.
"""

from __future__ import annotations

import asyncio
from typing import Final

from rosey_rowstore.databases.base import Answer, Work
from rosey_rowstore.databases.postgres.connections import Connections
from rosey_rowstore.databases.postgres.jobs import BATCH, CROWD, Job, Queue
from rosey_rowstore.databases.postgres.lane import Lane
from rosey_rowstore.databases.readcache import Reads

__all__ = ["BATCH", "PluginLanes"]

READ_LANES: Final = 2


class PluginLanes:
    """The lanes of one plugin; opening costs nothing, the first request connects.

    Args:
        connections: Open and close what the lanes run on.
        plugin: Whose.
        reads: Keeps replies to reads; None for never.
    """

    def __init__(self, connections: Connections, plugin: str, reads: Reads | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._writes = Queue(BATCH)
        self._reads = Queue(CROWD)
        self._lanes = [
            Lane(connections, plugin, self._writes),
            *(Lane(connections, plugin, self._reads, reads) for _ in range(READ_LANES)),
        ]
        for lane in self._lanes:
            lane.queue.lanes.append(lane)

    @property
    def waiting(self) -> int:
        """The requests that no lane has taken yet."""
        return len(self._writes.jobs) + len(self._reads.jobs)

    def submit(self, work: Work) -> asyncio.Future[bytes]:
        """Put work at the end of its queue; the future has the reply's bytes."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self.submit_to(work, answer)
        return answer

    def submit_to(self, work: Work, answer: Answer) -> None:
        """Put work at the end of its queue; `answer` gets the reply's bytes."""
        (self._writes if work.plan.writes else self._reads).add(Job(work, answer))

    def forget_statements(self) -> None:
        """Prepare everything anew, after a change of the schema."""
        for lane in self._lanes:
            lane.forget_statements()

    async def close(self) -> None:
        """Answer what was taken and what waits, then close the connections."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))
