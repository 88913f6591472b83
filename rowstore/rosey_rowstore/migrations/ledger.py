"""The service's own records of every run: what, from which source, by whom, when, how long, with what end.

A run is written down before it begins and settled after. One whose process died is settled by whoever
looks next: the version row, which commits with the run, says what became of it.
"""

from __future__ import annotations

import datetime
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from rosey_rowstore.migrations.files import Revision
from rosey_rowstore.migrations.hosts import Session
from rosey_rowstore.migrations.runner import Outcome
from rosey_rowstore.migrations.snapshot import Snapshot
from rosey_rowstore.protocol import RunningMigration, RunningStep

__all__ = ["Ledger", "Planned", "Record"]

_STEP: Final = (
    "SELECT s.revision, s.down_revision, s.message, s.sha256, s.source, s.transactional,"
    " s.seconds, r.started_at FROM {steps} s JOIN {runs} r ON r.id = s.run"
    " WHERE s.plugin = ? AND r.direction = 'up' AND s.result = 'done' ORDER BY s.run, s.number"
)


@frozen(kw_only=True)
class Record:
    """An applied revision, as it was applied."""

    revision: Revision
    applied_at: str
    seconds: float


@frozen(kw_only=True)
class Planned:
    """A step of a run: the revision, and where the schema stands after it."""

    revision: Revision
    leaves: str | None


@frozen
class Ledger:
    """The records of one plugin."""

    session: Session
    plugin: str

    async def applied(self, current: str | None) -> list[Record]:
        """Return what is applied, from the first to `current`; what is not on record is left out."""
        latest: dict[str, Record] = {}
        for row in await self.session.execute(_STEP, (self.plugin,)):
            revision, before, message, sha256, source, transactional, seconds, at = row
            found = Revision(
                revision=revision,
                down_revision=before,
                message=message,
                source=source,
                sha256=sha256,
                file=f"{revision}.py",
                transactional=bool(transactional),
            )
            latest[revision] = Record(revision=found, applied_at=at, seconds=seconds or 0.0)
        chain: list[Record] = []
        while current is not None and (record := latest.pop(current, None)) is not None:
            chain.append(record)
            current = record.revision.down_revision
        return chain[::-1]

    async def made(self) -> Snapshot | None:
        """Return the schema as the last run left it."""
        rows = await self.session.execute(
            "SELECT snapshot FROM {runs} WHERE plugin = ? AND snapshot IS NOT NULL ORDER BY id DESC LIMIT 1",
            (self.plugin,),
        )
        return Snapshot.load(rows[0][0]) if rows else None

    async def begin(self, *, up: bool, start: str | None, steps: Sequence[Planned], who: str) -> str:
        """Write down what is about to run; return the run's id, which sorts by time."""
        run = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        await self.session.execute(
            "INSERT INTO {runs} (id, plugin, direction, start_revision, target_revision, who, started_at,"
            " result) VALUES (?, ?, ?, ?, ?, ?, ?, 'running')",
            (run, self.plugin, "up" if up else "down", start, steps[-1].leaves, who, now),
        )
        for number, step in enumerate(steps):
            revision = step.revision
            await self.session.execute(
                "INSERT INTO {steps} (run, number, plugin, revision, down_revision, message, sha256, source,"
                " transactional, leaves, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'intended')",
                (
                    *(run, number, self.plugin, revision.revision, revision.down_revision, revision.message),
                    *(revision.sha256, revision.source, int(revision.transactional), step.leaves),
                ),
            )
        return run

    async def progress(self, run: str, steps: Mapping[str, Mapping[str, Any]]) -> None:
        """Let others see how far a run is: by revision, `{"state", "seconds"?}`."""
        await self.session.tell(run, json.dumps(steps))

    async def under_way(self) -> RunningMigration | None:
        """Return the run that is not settled, as far as it tells of itself."""
        rows = await self.session.execute(
            "SELECT id, direction, who, started_at FROM {runs} WHERE plugin = ? AND result = 'running'"
            " ORDER BY id DESC LIMIT 1",
            (self.plugin,),
        )
        if not rows:
            return None
        run, direction, who, started_at = rows[0]
        told: dict[str, Any] = json.loads(await self.session.told(run) or "{}")
        steps = await self.session.execute(
            "SELECT revision, message FROM {steps} WHERE run = ? ORDER BY number", (run,)
        )
        return RunningMigration(
            direction="apply" if direction == "up" else "rollback",
            who=who,
            started_at=started_at,
            steps=[
                RunningStep(revision=revision, message=message, **told.get(revision, {"state": "waiting"}))
                for revision, message in steps
            ],
        )

    async def running(self) -> list[str]:
        """Return the runs that were begun and not settled."""
        rows = await self.session.execute(
            "SELECT id FROM {runs} WHERE plugin = ? AND result = 'running' ORDER BY id", (self.plugin,)
        )
        return [row[0] for row in rows]

    async def settle(self, run: str, seconds: float | None, outcome: Outcome | None) -> int:
        """Write down what became of a run, by the version row; return how many of its steps are done.

        Args:
            run: Its id.
            seconds: What it took, None when its process is gone.
            outcome: What the child told, None as well.
        """
        version = await self.session.version()
        rows = await self.session.execute(
            "SELECT number, revision, leaves FROM {steps} WHERE run = ? ORDER BY number", (run,)
        )
        done = next((number + 1 for number, _, leaves in rows if leaves == version), 0)
        told = {event["revision"]: event for event in outcome.done} if outcome else {}
        for number, revision, _ in rows:
            event: Any = told.get(revision, {}) if number < done else {}
            took = None if "seconds" not in event else round(event["seconds"], 6)
            await self.session.execute(
                "UPDATE {steps} SET result = ?, seconds = ?, sql = ? WHERE run = ? AND number = ?",
                ("done" if number < done else "undone", took, event.get("sql"), run, number),
            )
        result = "done" if done == len(rows) else "failed"
        error = None
        if result == "failed":
            body = (
                {"message": "The process of the run is gone."}
                if outcome is None
                else {"code": outcome.code, "message": outcome.message, "details": outcome.details}
            )
            error = json.dumps(body)
        made = (await self.session.snapshot()).dump() if done else None
        await self.session.execute(
            "UPDATE {runs} SET result = ?, seconds = ?, error = ?, snapshot = ? WHERE id = ?",
            (result, seconds, error, made, run),
        )
        return done
