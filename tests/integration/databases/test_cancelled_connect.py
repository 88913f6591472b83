"""Opening a connection to Postgres can be cancelled at any moment."""

from __future__ import annotations

import asyncio

from rosey_rowstore.databases.postgres.sessions import connect


def _inner_is_done(task: asyncio.Task[object]) -> bool:
    waited_for = getattr(task, "_fut_waiter", None)
    return waited_for is not None and waited_for.done()


async def test_a_cancellation_while_connecting_is_never_lost(postgres_database: str) -> None:
    """Whoever is cancelled while the connection comes to stand ends, and does not go on with it."""
    loop = asyncio.get_running_loop()
    took = 0.0
    for _ in range(5):
        began = loop.time()
        await (await connect(postgres_database, None, {})).close()
        took = max(took, loop.time() - began)
    lost = 0
    for number in range(120):
        task = asyncio.create_task(connect(postgres_database, None, {}))
        if number % 2:
            await asyncio.sleep(took * number / 120)
        else:
            # `wait_for` runs the connecting in a task of its own: the moment that matters is the turn
            # between that task's end and the caller's.
            while not task.done() and not _inner_is_done(task):
                await asyncio.sleep(0)
        cancelled = task.cancel()
        try:
            connection = await task
        except asyncio.CancelledError:
            continue
        await connection.close()
        lost += cancelled
    assert lost == 0
