"""`migrations.status`, `.apply` and `.rollback`: what they check, what they run, what they tell."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen

from rosey_rowstore.engine.model import Dialect, Limits
from rosey_rowstore.events import Events
from rosey_rowstore.migrations import differences
from rosey_rowstore.migrations.files import BASE, HEAD, Chain, Revision, failed, not_found, read_chain
from rosey_rowstore.migrations.hosts import Host, Session
from rosey_rowstore.migrations.ledger import Ledger, Planned, Record
from rosey_rowstore.migrations.outcomes import fault_of, locked, tell_end, tell_failure
from rosey_rowstore.migrations.runner import Progress, run_child
from rosey_rowstore.migrations.runs import MOST_ATTEMPTS, Run, execute, ran, sql_of
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

__all__ = ["LOCK_SECONDS", "Caller", "Migrations"]

log = logging.getLogger("rosey_rowstore.migrations")

LOCK_SECONDS: Final = 60.0
"""How long a run waits for another of the same plugin."""


@frozen(kw_only=True)
class Caller:
    """Who asks for a run.

    Attributes:
        who: For the records.
        deadline: The loop's moment until which the run may wait for others.
        progress: Told each event while it happens.
        may_roll_back: Overrides what this service allows; None leaves it.
    """

    who: str
    deadline: float
    progress: Progress | None = None
    may_roll_back: bool | None = None


@frozen(kw_only=True)
class _Terms:
    """What kind of run is asked for; `plan` gives its steps from where the schema stands."""

    direction: str
    dry_run: bool
    checked: bool
    plan: Callable[[Ledger, str | None], Awaitable[list[Planned]]]


class Migrations:
    """The migrations of every plugin on one database.

    Args:
        host: The database.
        allow_rollback: False in production: rolling back destroys data.
        lock_seconds: How long a run waits for another of the same plugin.
        events: Where runs are told.
    """

    def __init__(
        self,
        host: Host,
        *,
        allow_rollback: bool = True,
        lock_seconds: float = LOCK_SECONDS,
        events: Events | None = None,
    ) -> None:
        self._host = host
        self._events = events or Events()
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
            running = None
            if await ledger.running():
                if not self._locks[plugin].locked() and await session.lock(0):
                    await self._settle_lost(ledger)
                else:
                    running = await ledger.under_way()
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
            running=running,
        )

    async def apply(
        self,
        plugin: str,
        limits: Limits,
        folder: Path | None,
        request: ApplyRequest,
        caller: Caller,
    ) -> ApplyReply:
        """Apply what is pending, wholly or not at all.

        Args:
            plugin: Whose.
            limits: Its limits.
            folder: Where its revisions are.
            request: What to apply.
            caller: Who asks.

        Raises:
            Fault: As the contract says under "Migrations, precisely".
        """

        async def plan(ledger: Ledger, current: str | None) -> list[Planned]:
            chain = await asyncio.to_thread(read_chain, folder)
            _check_sums(chain, await ledger.applied(current))
            pending = _pending(chain, current, request.target)
            return [Planned(revision=self._fitted(step), leaves=step.revision) for step in pending]

        terms = _Terms(
            direction="apply", dry_run=request.dry_run, checked=not request.allow_destructive, plan=plan
        )
        done, sql = await self._reported(plugin, limits, caller, terms)
        return ApplyReply(applied=done, sql=sql)

    async def rollback(
        self,
        plugin: str,
        limits: Limits,
        folder: Path | None,
        request: RollbackRequest,
        caller: Caller,
    ) -> RollbackReply:
        """Go back to a revision or `base`, by the sources as they were applied.

        Args and errors as `apply`.
        """
        allowed = self._allow_rollback if caller.may_roll_back is None else caller.may_roll_back
        if not (allowed or request.dry_run):
            raise Fault(
                "permission_denied",
                "Rollbacks are not allowed in production.",
                hint="An operator allows it: allow_rollback = true of the plugin in plugins.toml.",
            )

        async def plan(ledger: Ledger, current: str | None) -> list[Planned]:
            return await self._steps_back(ledger, folder, current, request.target)

        terms = _Terms(direction="rollback", dry_run=request.dry_run, checked=False, plan=plan)
        done, sql = await self._reported(plugin, limits, caller, terms)
        return RollbackReply(rolled_back=done, sql=sql)

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
            if outcome.end == "failed":
                raise failed(outcome.message, hint="Mend tables.py.", **outcome.details)
            raise fault_of(outcome, plugin, ())
        return outcome.written

    # the run

    async def _reported(
        self, plugin: str, limits: Limits, caller: Caller, terms: _Terms
    ) -> tuple[list[RanMigration], str | None]:
        """Run and tell of it, in the log and as an event; a dry run concerns its caller alone."""
        try:
            return await self._run(plugin, limits, caller, terms)
        except Fault as fault:
            if not terms.dry_run:
                tell_failure(self._events, plugin, terms.direction, fault, who=caller.who)
            raise

    async def _run(
        self, plugin: str, limits: Limits, caller: Caller, terms: _Terms
    ) -> tuple[list[RanMigration], str | None]:
        async with self._locked(plugin, limits, caller.deadline) as (session, ledger):
            for _ in range(MOST_ATTEMPTS):
                current = await self._settle_lost(ledger)
                steps = await terms.plan(ledger, current)
                if not steps:
                    return [], "" if terms.dry_run else None
                run = Run(
                    start=current,
                    steps=steps,
                    up=terms.direction == "apply",
                    dry_run=terms.dry_run,
                    checked=terms.checked,
                    who=caller.who,
                    seconds=limits.migration_timeout,
                    progress=caller.progress,
                )
                outcome, count = await execute(session, ledger, run)
                if not terms.dry_run:
                    self._host.changed(plugin)
                if count == len(steps):
                    done = ran(outcome, steps)
                    if terms.dry_run:
                        return done, sql_of(outcome)
                    tell_end(
                        self._events, plugin, terms.direction, done, who=caller.who, layers=outcome.layers
                    )
                    return done, None
                if outcome.end != "moved":
                    kept = [step.revision.revision for step in steps[:count]]
                    raise fault_of(outcome, plugin, kept)
        raise failed("The schema moved again and again while the run began.", hint="Ask for the status.")

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
            raise locked(plugin) from error
        try:
            async with self._host.session(plugin, limits) as session:
                if not await session.lock(max(0.0, until - loop.time())):
                    raise locked(plugin)
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

    async def _steps_back(
        self, ledger: Ledger, folder: Path | None, current: str | None, target: str
    ) -> list[Planned]:
        applied = [record.revision for record in await ledger.applied(current)]
        if current is not None and (not applied or applied[0].down_revision is not None):
            applied = await self._from_files(folder, current)  # the records are gone, the files may be there
        names = [revision.revision for revision in applied]
        if target not in (BASE, *names):
            raise not_found(target, [*names, BASE], "No applied revision is called")
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


def _check_sums(chain: Chain, applied: Sequence[Record]) -> None:
    for record in applied:
        name = record.revision.revision
        if name in chain and chain.find(name).sha256 != record.revision.sha256:
            raise Fault(
                "checksum_mismatch",
                f"The file of the revision {name!r} has changed since it was applied.",
                hint="Bring back the file as it was, and make the change a new revision.",
                details={"revision": name, "file": chain.find(name).file},
            )


def _pending(chain: Chain, current: str | None, target: str) -> Sequence[Revision]:
    if target not in (HEAD, *chain.by_name):
        raise not_found(target, chain.by_name)
    if current is not None and not chain.revisions:
        return ()
    return chain.after(current, target)
