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

_PLACES: Final = ("revision", "statement", "sqlstate", "line")


def fault_of(outcome: Outcome, plugin: str) -> Fault:
    """Return the fault of a run that did not reach its end."""
    if outcome.end == "failed":
        return Fault(outcome.code, outcome.message, hint=_hint(outcome.code), details=outcome.details)
    if outcome.end == "late":
        return failed(
            "The migration did not end in its time and was stopped.",
            revision=outcome.running,
            hint="migration_timeout in plugins.toml is the limit. `migrations.status` tells where it stands.",
        )
    if outcome.running is None and not outcome.layers:
        return internal_fault(
            f"the migration process of {plugin!r} did not start (status {outcome.status})",
            RuntimeError(outcome.last_words or outcome.message or "it said nothing"),
        )
    return failed(
        f"The migration process ended (status {outcome.status}) before it was done.",
        revision=outcome.running,
        hint="It may have used too much memory or processor time. `migrations.status` tells where it stands.",
    )


def _hint(code: str) -> str:
    if code == "destructive_migration":
        return "Data would be lost; if that is meant, apply with allow_destructive."
    if code == "migration_failed":
        return "What the failed revision and its transaction did is undone; mend it and apply again."
    return "Ask again in a moment."


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
