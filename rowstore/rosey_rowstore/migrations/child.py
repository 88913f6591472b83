"""The process of one run: `python -m rosey_rowstore.migrations.child`, everything it needs on stdin.

It tells what happens as JSON lines on the stdout it was given; what a revision prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from rosey_rowstore.migrations import sandbox

if TYPE_CHECKING:
    from rosey_rowstore.migrations.targets import Target

__all__ = ["main"]


def main() -> int:
    """Run what stdin orders; return the exit status, 0 also when a revision failed and that was told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to answer
    length = int(sys.stdin.buffer.readline())
    body = json.loads(sys.stdin.buffer.read(length))
    sandbox.end_with_parent(body["parent"])
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **members: Any) -> None:
        events.write(json.dumps({"event": event, **members}) + "\n")
        events.flush()

    # Late: they take a third of a second, and a parent that is gone needs none of them.
    from rosey_rowstore.migrations import autogenerate, steps, targets  # noqa: PLC0415

    try:
        target = _connect(body["database"])
        layers = sandbox.enter(seconds=body["seconds"], writes_files=body["database"]["kind"] == "sqlite")
        emit("ready", layers=layers)
        if body["task"] == "autogenerate":
            emit("written", **autogenerate.write(body["tables"], target))
        else:
            steps.run(steps.order_from(body), target, emit)
        emit("end")
    except targets.MovedError as error:
        emit("moved", message=str(error))
    except steps.StepError as error:
        emit("failed", code=error.code, message=str(error), details=error.details, retry=error.retry)
    except TimeoutError as error:
        emit("failed", code="migration_locked", message=str(error), details={}, retry=False)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
        emit(
            "failed",
            code="migration_failed",
            message=f"{type(error).__name__}: {error}",
            details={},
            retry=False,
        )
    return 0


def _connect(database: dict[str, Any]) -> Target:
    members = {name: value for name, value in database.items() if name != "kind"}
    if database["kind"] == "sqlite":
        from rosey_rowstore.migrations.target_sqlite import SqliteTarget  # noqa: PLC0415 - as above

        return SqliteTarget(**members)
    from rosey_rowstore.migrations.target_postgres import PostgresTarget  # noqa: PLC0415 - as above

    return PostgresTarget(**members)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Whatever a revision left behind (handlers, objects that end late) has no say in the end.
    os._exit(status)
