"""One run from its record to its end: a child for its steps, another one where a lock was in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from rosey_rowstore.migrations.hosts import Session
from rosey_rowstore.migrations.ledger import Ledger, Planned
from rosey_rowstore.migrations.runner import Outcome, Progress, run_child
from rosey_rowstore.protocol import RanMigration

__all__ = ["MOST_ATTEMPTS", "Run", "execute", "ran", "sql_of"]

MOST_ATTEMPTS: Final = 6
_FIRST_PAUSE: Final = 0.2


@frozen(kw_only=True)
class Run:
    """A run about to be made.

    Attributes:
        start: Where the schema stands.
        steps: What to run, in order.
        up: Apply; False rolls back.
        dry_run: Undo everything at the end, and keep no record.
        checked: Refuse what drops or narrows.
        who: Who asked, for the records.
        seconds: The wall-clock limit, of all attempts together.
        progress: Told each event while it happens.
    """

    start: str | None
    steps: Sequence[Planned]
    up: bool
    dry_run: bool
    checked: bool
    who: str
    seconds: float
    progress: Progress | None


async def execute(session: Session, ledger: Ledger, run: Run) -> tuple[Outcome, int]:
    """Run the steps, and settle the record by what the database says; return how many are done.

    A deadlock or a lock that could not be had is tried again, as long as there is time.
    """
    record = None
    if not run.dry_run:
        record = await ledger.begin(up=run.up, start=run.start, steps=run.steps, who=run.who)
    messages = {step.revision.revision: step.revision.message for step in run.steps}
    began = time.monotonic()
    outcome = await _attempts(session, run, _Shown(ledger, record, run.progress, messages))
    if record is None:
        return outcome, len(run.steps) if outcome.end == "ended" else 0
    # A child that was killed after its commit did everything all the same.
    return outcome, await ledger.settle(record, time.monotonic() - began, outcome)


@frozen
class _Shown:
    """How far a run is, for other processes, and for the caller in this one."""

    ledger: Ledger
    record: str | None
    progress: Progress | None
    messages: Mapping[str, str]
    states: dict[str, dict[str, Any]] = field(factory=dict)

    async def tell(self, event: Mapping[str, Any]) -> None:
        if event["event"] in ("start", "done") and self.record is not None:
            done = event["event"] == "done"
            self.states[event["revision"]] = (
                {"state": "done", "seconds": round(event["seconds"], 6)} if done else {"state": "running"}
            )
            await self.ledger.progress(self.record, self.states)
        if self.progress is not None:
            await self.progress({**event, "message": self.messages.get(event.get("revision", ""), "")})


async def _attempts(session: Session, run: Run, shown: _Shown) -> Outcome:
    deadline, pause = time.monotonic() + run.seconds, _FIRST_PAUSE
    start, steps = run.start, list(run.steps)
    done: list[Mapping[str, Any]] = []
    for attempt in range(1, MOST_ATTEMPTS + 1):
        seconds = max(0.1, deadline - time.monotonic())
        database, inherited = await session.child(seconds)
        order = {
            "task": "run",
            "database": database,
            "seconds": seconds,
            "start": start,
            "up": run.up,
            "dry_run": run.dry_run,
            "checked": run.checked,
            "steps": [_step(step) for step in steps],
        }
        outcome = await run_child(order, seconds=seconds, inherited=inherited, progress=shown.tell)
        outcome.done[:0] = done
        again = outcome.end == "failed" and outcome.retry and deadline - time.monotonic() > pause
        if not again or attempt == MOST_ATTEMPTS:
            break
        await asyncio.sleep(pause)
        pause *= 2
        # Steps outside of a transaction that are done stay done.
        start = await session.version()
        left = next((place + 1 for place, step in enumerate(steps) if step.leaves == start), 0)
        kept = {step.revision.revision for step in steps[:left]}
        done = [event for event in outcome.done if event["revision"] in kept or event in done]
        steps = steps[left:]
    return outcome


def _step(step: Planned) -> dict[str, Any]:
    revision = step.revision
    return {
        "revision": revision.revision,
        "file": revision.file,
        "source": revision.source,
        "leaves": step.leaves,
        "transactional": revision.transactional,
    }


def ran(outcome: Outcome, steps: Sequence[Planned]) -> list[RanMigration]:
    """Return the steps of a run that did all of them, as the reply lists them."""
    seconds = {event["revision"]: float(event["seconds"]) for event in outcome.done}
    return [
        RanMigration(
            revision=step.revision.revision,
            message=step.revision.message,
            seconds=round(seconds.get(step.revision.revision, 0.0), 6),
        )
        for step in steps
    ]


def sql_of(outcome: Outcome) -> str:
    """Return the SQL of every step, under its revision."""
    return "\n\n".join(f"-- {event['revision']}\n{event['sql']}" for event in outcome.done)
