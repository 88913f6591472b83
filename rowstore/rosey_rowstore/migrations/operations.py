"""`migrations.status`, `.apply` and `.rollback`: what they check, what they run, what they tell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.migrations import differences
from rosey_rowstore.migrations.files import BASE, HEAD, Chain, Revision, failed, not_found, read_chain
from rosey_rowstore.migrations.hosts import Host, Session
from rosey_rowstore.migrations.ledger import Ledger, Planned, Record
from rosey_rowstore.migrations.runner import Outcome, Progress, run_child
from rosey_rowstore.protocol import (
    AppliedMigration,
    ApplyReply,
    ApplyRequest,
    Fault,
    PendingMigration,
    RanMigration,
    RollbackReply,
    RollbackRequest,
    StatusReply,
)

__all__ = ["LOCK_SECONDS", "Migrations"]

log = logging.getLogger("rosey_rowstore.migrations")

LOCK_SECONDS: Final = 60.0
"""How long a run waits for another of the same plugin."""

_MOST_ATTEMPTS: Final = 6
_FIRST_PAUSE: Final = 0.2


@frozen(kw_only=True)
class _Run:
    """A run about to be made."""

    plugin: str
    limits: Limits
    start: str | None
    steps: Sequence[Planned]
    up: bool
    dry_run: bool
    checked: bool
    who: str
    deadline: float
    progress: Progress | None


class Migrations:
    """The migrations of every plugin on one database.

    Args:
        host: The database.
        allow_rollback: False in production: rolling back destroys data.
        lock_seconds: How long a run waits for another of the same plugin.
    """

    def __init__(
        self, host: Host, *, allow_rollback: bool = True, lock_seconds: float = LOCK_SECONDS
    ) -> None:
        self._host = host
        self._allow_rollback = allow_rollback
        self._lock_seconds = lock_seconds
        # One at a time within this process, before the database is asked: waiting costs no connection.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def status(self, plugin: str, limits: Limits, folder: Path | None) -> StatusReply:
        """Return where the schema stands.

        Raises:
            Fault: `migration_failed` when the files form no chain.
        """
        chain = await asyncio.to_thread(read_chain, folder)
        async with self._host.session(plugin, limits) as session:
            ledger = Ledger(session, plugin)
            # A run that nobody settled: its process is gone, or it still runs and holds the lock.
            if await ledger.running() and not self._locks[plugin].locked() and await session.lock(0):
                await self._settle_lost(ledger)
            current = await session.version()
            applied = await ledger.applied(current)
            drift = await self._drift(session, ledger, chain, current, applied)
        pending = chain.after(current) if current is None or current in chain else ()
        return StatusReply(
            current=current,
            pending=[PendingMigration(revision=step.revision, message=step.message) for step in pending],
            applied=[
                AppliedMigration(
                    revision=record.revision.revision,
                    message=record.revision.message,
                    applied_at=record.applied_at,
                    seconds=record.seconds,
                    sha256=record.revision.sha256,
                )
                for record in applied
            ],
            drift=drift,
        )

    async def apply(
        self,
        plugin: str,
        limits: Limits,
        folder: Path | None,
        request: ApplyRequest,
        *,
        who: str,
        deadline: float,
        progress: Progress | None = None,
    ) -> ApplyReply:
        """Apply what is pending, wholly or not at all.

        Args:
            plugin: Whose.
            limits: Its limits.
            folder: Where its revisions are.
            request: What to apply.
            who: Who asks, for the records.
            deadline: The loop's moment until which the run may wait for others.
            progress: Told each event while it happens.

        Raises:
            Fault: As the contract says under "Migrations, precisely".
        """
        async with self._locked(plugin, limits, deadline) as (session, ledger):
            for _ in range(_MOST_ATTEMPTS):
                current = await self._settle_lost(ledger)
                chain = await asyncio.to_thread(read_chain, folder)
                self._check_sums(chain, await ledger.applied(current))
                pending = self._pending(chain, current, request.target)
                if not pending:
                    return ApplyReply(applied=[], sql="" if request.dry_run else None)
                run = _Run(
                    plugin=plugin,
                    limits=limits,
                    start=current,
                    steps=[Planned(revision=self._fitted(step), leaves=step.revision) for step in pending],
                    up=True,
                    dry_run=request.dry_run,
                    checked=not request.allow_destructive,
                    who=who,
                    deadline=time.monotonic() + limits.migration_timeout,
                    progress=progress,
                )
                outcome = await self._run(session, ledger, run)
                if outcome.end != "moved":
                    ran = _ran(outcome, run.steps)
                    return ApplyReply(applied=ran, sql=_sql(outcome) if request.dry_run else None)
        raise failed("The schema moved again and again while the run began.", hint="Ask for the status.")

    async def rollback(
        self,
        plugin: str,
        limits: Limits,
        folder: Path | None,
        request: RollbackRequest,
        *,
        who: str,
        deadline: float,
        progress: Progress | None = None,
        allowed: bool | None = None,
    ) -> RollbackReply:
        """Go back to a revision or `base`, by the sources as they were applied.

        Args and errors as `apply`; `allowed` overrides what this service allows.
        """
        if not request.dry_run and not (self._allow_rollback if allowed is None else allowed):
            raise Fault(
                "permission_denied",
                "Rollbacks are not allowed in production.",
                hint="An operator allows it: allow_rollback = true of the plugin in plugins.toml.",
            )
        async with self._locked(plugin, limits, deadline) as (session, ledger):
            for _ in range(_MOST_ATTEMPTS):
                current = await self._settle_lost(ledger)
                steps = await self._steps_back(ledger, folder, current, request.target)
                if not steps:
                    return RollbackReply(rolled_back=[], sql="" if request.dry_run else None)
                run = _Run(
                    plugin=plugin,
                    limits=limits,
                    start=current,
                    steps=steps,
                    up=False,
                    dry_run=request.dry_run,
                    checked=False,
                    who=who,
                    deadline=time.monotonic() + limits.migration_timeout,
                    progress=progress,
                )
                outcome = await self._run(session, ledger, run)
                if outcome.end != "moved":
                    ran = _ran(outcome, run.steps)
                    return RollbackReply(rolled_back=ran, sql=_sql(outcome) if request.dry_run else None)
        raise failed("The schema moved again and again while the run began.", hint="Ask for the status.")

    async def autogenerate(self, plugin: str, limits: Limits, tables: str) -> Mapping[str, Any]:
        """Return the code that makes the plugin's schema what its declared tables say.

        Args:
            plugin: Whose.
            limits: Its limits.
            tables: The source of a module with `metadata`, a SQLAlchemy `MetaData`.

        Returns:
            `{"upgrade", "downgrade", "imports": […], "empty"}`.
        """
        async with self._host.session(plugin, limits) as session:
            database, inherited = await session.child(limits.migration_timeout)
            order = {
                "task": "autogenerate",
                "database": database,
                "seconds": limits.migration_timeout,
                "tables": tables,
            }
            outcome = await run_child(order, seconds=limits.migration_timeout, inherited=inherited)
        if outcome.written is None:
            raise _fault(outcome, plugin)
        return outcome.written

    # before a run

    @contextlib.asynccontextmanager
    async def _locked(
        self, plugin: str, limits: Limits, deadline: float
    ) -> AsyncIterator[tuple[Session, Ledger]]:
        loop = asyncio.get_running_loop()
        until = min(loop.time() + self._lock_seconds, deadline - 0.2)
        try:
            async with asyncio.timeout_at(until):
                await self._locks[plugin].acquire()
        except TimeoutError as error:
            raise _locked_fault(plugin) from error
        try:
            async with self._host.session(plugin, limits) as session:
                if not await session.lock(max(0.0, until - loop.time())):
                    raise _locked_fault(plugin)
                yield session, Ledger(session, plugin)
        finally:
            self._locks[plugin].release()

    async def _settle_lost(self, ledger: Ledger) -> str | None:
        """Settle what a dead process left, and return where the schema stands."""
        for run in await ledger.running():
            done = await ledger.settle(run, None, None)
            log.warning(
                "a migration run was lost", extra={"plugin": ledger.plugin, "run": run, "steps_done": done}
            )
        return await ledger.session.version()

    def _check_sums(self, chain: Chain, applied: Sequence[Record]) -> None:
        for record in applied:
            name = record.revision.revision
            if name in chain and chain.find(name).sha256 != record.revision.sha256:
                raise Fault(
                    "checksum_mismatch",
                    f"The file of the revision {name!r} has changed since it was applied.",
                    hint="Bring back the file as it was, and make the change a new revision.",
                    details={"revision": name, "file": chain.find(name).file},
                )

    def _pending(self, chain: Chain, current: str | None, target: str) -> Sequence[Revision]:
        if target not in (HEAD, *chain.by_name):
            raise not_found(target, chain.by_name)
        if current is not None and not chain.revisions:
            return ()
        return chain.after(current, target)

    async def _steps_back(
        self, ledger: Ledger, folder: Path | None, current: str | None, target: str
    ) -> list[Planned]:
        applied = [record.revision for record in await ledger.applied(current)]
        if current is not None and (not applied or applied[0].down_revision is not None):
            applied = await self._from_files(folder, current)  # the records are gone, the files may be there
        names = [revision.revision for revision in applied]
        if target not in (BASE, *names):
            raise not_found(target, [*names, BASE])
        keep = 0 if target == BASE else names.index(target) + 1
        return [
            Planned(revision=self._fitted(revision), leaves=revision.down_revision)
            for revision in reversed(applied[keep:])
        ]

    async def _from_files(self, folder: Path | None, current: str) -> list[Revision]:
        chain = await asyncio.to_thread(read_chain, folder)
        if current not in chain:
            raise failed(
                f"There is neither a record nor a file of the revision {current!r}.", revision=current
            )
        return list(chain.revisions[: chain.by_name[current] + 1])

    def _fitted(self, revision: Revision) -> Revision:
        """Every statement of SQLite's is transactional; there is nothing to mark."""
        return evolve(revision, transactional=True) if self._host.dialect is Dialect.SQLITE else revision

    async def _drift(
        self, session: Session, ledger: Ledger, chain: Chain, current: str | None, applied: Sequence[Record]
    ) -> list[str]:
        told = []
        for record in applied:
            name = record.revision.revision
            if chain.revisions and name not in chain:
                told.append(f"The file of the revision {name!r}, which is applied, is gone.")
            elif name in chain and chain.find(name).sha256 != record.revision.sha256:
                told.append(f"The file of the revision {name!r} has changed since it was applied.")
        if current is not None and not applied:
            told.append(f"The schema stands at {current!r}, of which there is no record.")
        made = await ledger.made()
        if made is not None:
            told += differences.drift(made, await session.snapshot())
        return told

    # the run

    async def _run(self, session: Session, ledger: Ledger, run: _Run) -> Outcome:
        """Run the steps in a child, again where a deadlock or a lock was in the way.

        Raises:
            Fault: What failed; the records say it too.
        """
        record = None
        if not run.dry_run:
            record = await ledger.begin(up=run.up, start=run.start, steps=run.steps, who=run.who)
        began = time.monotonic()
        outcome = await self._attempts(session, run)
        done = 0
        if record is not None:
            done = await ledger.settle(record, time.monotonic() - began, outcome)
            if done:
                self._host.changed(run.plugin)
        if outcome.end == "ended" or done == len(run.steps):
            _log_end(run, outcome, time.monotonic() - began)
            return outcome
        if outcome.end == "moved":
            return outcome
        fault = _fault(outcome, run.plugin)
        _log_failure(run, outcome, fault)
        raise fault

    async def _attempts(self, session: Session, run: _Run) -> Outcome:
        pause = _FIRST_PAUSE
        start, steps = run.start, list(run.steps)
        done: list[Mapping[str, Any]] = []
        for attempt in range(_MOST_ATTEMPTS):
            seconds = max(0.1, run.deadline - time.monotonic())
            database, inherited = await session.child(seconds)
            outcome = await run_child(
                {
                    "task": "run",
                    "database": database,
                    "seconds": seconds,
                    "start": start,
                    "up": run.up,
                    "dry_run": run.dry_run,
                    "checked": run.checked,
                    "steps": [_step(step) for step in steps],
                },
                seconds=seconds,
                inherited=inherited,
                progress=run.progress,
            )
            outcome.done[:0] = done
            again = outcome.end == "failed" and outcome.retry and run.deadline - time.monotonic() > pause
            if not again or attempt == _MOST_ATTEMPTS - 1:
                return outcome
            await asyncio.sleep(pause)
            pause *= 2
            # Steps outside of a transaction that are done stay done.
            start = await session.version()
            left = next((place + 1 for place, step in enumerate(steps) if step.leaves == start), 0)
            kept = {step.revision.revision for step in steps[:left]}
            done = [event for event in outcome.done if event["revision"] in kept or event in done]
            steps = steps[left:]
        raise AssertionError("unreachable")


def _step(step: Planned) -> dict[str, Any]:
    revision = step.revision
    return {
        "revision": revision.revision,
        "file": revision.file,
        "source": revision.source,
        "leaves": step.leaves,
        "transactional": revision.transactional,
    }


def _ran(outcome: Outcome, steps: Sequence[Planned]) -> list[RanMigration]:
    seconds = {event["revision"]: float(event["seconds"]) for event in outcome.done}
    return [
        RanMigration(
            revision=step.revision.revision,
            message=step.revision.message,
            seconds=seconds.get(step.revision.revision, 0.0),
        )
        for step in steps
    ]


def _sql(outcome: Outcome) -> str:
    return "\n\n".join(f"-- {event['revision']}\n{event['sql']}" for event in outcome.done)


def _fault(outcome: Outcome, plugin: str) -> Fault:
    revision = outcome.running
    if outcome.end == "failed":
        if outcome.code == "destructive_migration":
            return Fault(
                outcome.code,
                outcome.message,
                hint="Data would be lost; if that is meant, apply with allow_destructive.",
                details=outcome.details,
            )
        hint = "The schema is as before." if outcome.code == "migration_failed" else "Ask again in a moment."
        return Fault(outcome.code, outcome.message, hint=hint, details=outcome.details)
    if outcome.end == "late":
        return failed(
            "The migration did not end in its time and was stopped.",
            revision=revision,
            hint="migration_timeout in plugins.toml is the limit. The schema is as before.",
        )
    if revision is None and not outcome.layers:
        return internal_fault(
            f"the migration process of {plugin!r} did not start (status {outcome.status})",
            RuntimeError(outcome.last_words or outcome.message or "it said nothing"),
        )
    return failed(
        f"The migration process ended (status {outcome.status}) before it was done.",
        revision=revision,
        hint="It may have used too much memory or processor time. `migrations.status` tells where the schema stands.",
    )


def _locked_fault(plugin: str) -> Fault:
    return Fault(
        "migration_locked",
        f"Another migration of the plugin {plugin!r} still runs.",
        hint="`migrations.status` tells when it has ended.",
    )


def _log_end(run: _Run, outcome: Outcome, seconds: float) -> None:
    log.info(
        "migration",
        extra={
            "plugin": run.plugin,
            "direction": "up" if run.up else "down",
            "dry_run": run.dry_run,
            "revisions": [step.revision.revision for step in run.steps],
            "seconds": round(seconds, 3),
            "who": run.who,
            "sandbox": outcome.layers,
        },
    )


def _log_failure(run: _Run, outcome: Outcome, fault: Fault) -> None:
    log.error(
        "migration failed: %s",
        fault.message,
        extra={
            "plugin": run.plugin,
            "direction": "up" if run.up else "down",
            "code": fault.code,
            **{name: fault.details.get(name) for name in ("revision", "statement", "sqlstate", "line")},
            "who": run.who,
            "last_words": outcome.last_words[-1000:],
        },
    )
