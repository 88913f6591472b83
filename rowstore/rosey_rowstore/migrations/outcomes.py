"""What became of a run, said to those who should know: the caller, the log, and who listens to events."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rosey_rowstore.databases.failures import internal_fault
from rosey_rowstore.events import Events
from rosey_rowstore.migrations.files import failed
from rosey_rowstore.migrations.runner import Outcome
from rosey_rowstore.protocol import Fault, RanMigration

__all__ = ["fault_of", "locked", "tell_end", "tell_failure"]

log = logging.getLogger("rosey_rowstore.migrations")

_ADVICE: Final = {
    "destructive_migration": "Data would be lost; if that is meant, apply with allow_destructive.",
    "migration_failed": "Mend the revision and apply again.",
}
_PLACES: Final = ("revision", "statement", "sqlstate", "line")


def fault_of(outcome: Outcome, plugin: str, kept: Sequence[str]) -> Fault:
    """Return the fault of a run that did not reach its end.

    Args:
        outcome: What the child told.
        plugin: Whose.
        kept: The revisions that are done all the same: those before one outside of a transaction, and it.
    """
    left = f"What was done stays: {', '.join(kept)}." if kept else "The schema is as before."
    if outcome.end == "failed":
        hint = f"{left} {_ADVICE.get(outcome.code, 'Ask again in a moment.')}"
        return Fault(outcome.code, outcome.message, hint=hint, details=outcome.details)
    if outcome.end == "late":
        return failed(
            "The migration did not end in its time and was stopped.",
            revision=outcome.running,
            hint=f"{left} The limit is migration_timeout in plugins.toml.",
        )
    if outcome.running is None and not outcome.layers:
        return internal_fault(
            f"the migration process of {plugin!r} did not start (status {outcome.status})",
            RuntimeError(outcome.last_words or outcome.message or "it said nothing"),
        )
    return failed(
        f"The migration process ended (status {outcome.status}) before it was done.",
        revision=outcome.running,
        hint=f"{left} It may have used too much memory or processor time.",
    )


def locked(plugin: str) -> Fault:
    """Return the fault of a run that waited too long for another."""
    return Fault(
        "migration_locked",
        f"Another migration of the plugin {plugin!r} still runs.",
        hint="`migrations.status` tells how far it is.",
    )


def tell_end(
    events: Events, plugin: str, direction: str, ran: Sequence[RanMigration], *, who: str, layers: list[str]
) -> None:
    """Tell of a run that did what it should."""
    members = {
        "direction": direction,
        "result": "done",
        "revisions": [step.revision for step in ran],
        "seconds": round(sum(step.seconds for step in ran), 3),
        "who": who,
    }
    log.info("migration done", extra={"plugin": plugin, **members, "sandbox": layers})
    events.emit(plugin, "migration", members)


def tell_failure(events: Events, plugin: str, direction: str, fault: Fault, *, who: str) -> None:
    """Tell of a run that failed or was refused."""
    details: Mapping[str, Any] = fault.details or {}
    members = {
        "direction": direction,
        "result": "failed",
        "code": fault.code,
        "error": fault.message,
        **{name: details.get(name) for name in _PLACES},
        "who": who,
    }
    log.error("migration failed: %s", fault.message, extra={"plugin": plugin, **members})
    events.emit(plugin, "migration", members)
