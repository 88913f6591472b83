"""One run in a child process: started, listened to, and ended when its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

__all__ = ["Outcome", "Progress", "run_child"]

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Called with each event while it happens: `start`, `done`, `committed` with their revision."""

_LONGEST_LINE: Final = 16 * 1024 * 1024
_LAST_WORDS: Final = 4_000
_START_SECONDS: Final = 60.0
_END_SECONDS: Final = 5.0


@define(kw_only=True)
class Outcome:
    """What became of a child.

    Attributes:
        end: `ended`, `failed` (a revision did), `moved` (another run was first), `late` or `died`.
        done: The `done` events: revision, seconds, sql.
        message, code, details, retry: Of a failure, as the child told it.
        running: The revision that had started and was not done.
        written: What autogeneration wrote.
        layers: Those of the sandbox.
        last_words: The end of its stderr.
    """

    end: str = "died"
    done: list[Mapping[str, Any]] = field(factory=list)
    message: str = ""
    code: str = "migration_failed"
    details: dict[str, Any] = field(factory=dict)
    retry: bool = False
    running: str | None = None
    written: Mapping[str, Any] | None = None
    layers: list[str] = field(factory=list)
    last_words: str = ""
    status: int | None = None


async def run_child(
    order: Mapping[str, Any],
    *,
    seconds: float,
    inherited: Sequence[int] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Run a child and return what became of it; it has ended then, in every case.

    Args:
        order: What it gets on stdin.
        seconds: After so many it is killed.
        inherited: Descriptors it keeps open (the lock's file), so that the lock lasts as long as it does.
        progress: Called with each event.
    """
    outcome = Outcome()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "rosey_rowstore.migrations.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
        cwd="/",
        start_new_session=True,
        pass_fds=tuple(inherited),
        limit=_LONGEST_LINE,
    )
    words = asyncio.ensure_future(_last_words(process))
    try:
        # A busy machine's time to load Python's libraries is not the revisions' time.
        async with asyncio.timeout(_START_SECONDS + seconds) as limit:
            await _tell(process, order)
            await _listen(process, outcome, progress, lambda: limit.reschedule(_from_now(seconds)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
    except TimeoutError:
        outcome.end = "late"
    except ValueError as error:  # a line too long, or none of ours
        outcome.message = f"what it told could not be read ({error})"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        outcome.status = await asyncio.shield(process.wait())
        words.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            outcome.last_words = await words
    return outcome


def _environment() -> dict[str, str]:
    """Nothing of this process's own: its settings and secrets are none of a revision's business."""
    return {"LANG": "C.UTF-8", "TZ": "UTC", "PATH": os.defpath}


async def _tell(process: asyncio.subprocess.Process, order: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    body = json.dumps({**order, "parent": os.getpid()}).encode()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(b"%d\n" % len(body) + body)
        await process.stdin.drain()


def _from_now(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def _listen(
    process: asyncio.subprocess.Process,
    outcome: Outcome,
    progress: Progress | None,
    ready: Callable[[], None],
) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    while line := await process.stdout.readline():
        event = json.loads(line)
        if event["event"] == "ready" and not outcome.layers:
            ready()
        _note(event, outcome)
        if progress is not None:
            await progress(event)
        if outcome.end != "died":
            return


def _note(event: Mapping[str, Any], outcome: Outcome) -> None:
    kind = event["event"]
    if kind == "ready":
        outcome.layers = outcome.layers or list(event["layers"])
    elif kind == "start":
        outcome.running = event["revision"]
    elif kind == "done":
        outcome.running = None
        outcome.done.append(event)
    elif kind == "written":
        outcome.written = event
    elif kind == "failed":
        outcome.end, outcome.code, outcome.message = "failed", event["code"], event["message"]
        outcome.details, outcome.retry = dict(event["details"]), bool(event["retry"])
    elif kind == "moved":
        outcome.end, outcome.message = "moved", event["message"]
    elif kind == "end":
        outcome.end = "ended"


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    kept = b""
    with contextlib.suppress(asyncio.CancelledError):
        while chunk := await process.stderr.read(65_536):
            kept = (kept + chunk)[-_LAST_WORDS:]
    return kept.decode("utf-8", "replace")
