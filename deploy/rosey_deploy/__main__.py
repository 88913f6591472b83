"""The entry point of the `rosey-storage` command: every error is one clear line, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

_EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "sqlalchemy": "rowstore",
    "psycopg": "rowstore",
    "alembic": "rowstore",
}


def main() -> None:
    """Run the command and exit with its status."""
    if os.getpid() == 1:
        # In a container the first process is deaf to signals that it does not handle itself.
        signal.signal(signal.SIGTERM, _end)
    if sys.argv[1:2] == ["health"] and not {"--help", "-h"} & set(sys.argv):
        from rosey_deploy.probe import main as probe  # noqa: PLC0415 - nothing else is loaded for it

        sys.exit(probe(sys.argv[2:]))
    try:
        # Late, so that a missing extra is told in words.
        from rosey_deploy.cli import run  # noqa: PLC0415

        status = run(sys.argv[1:])
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.stderr.write(
            f"rosey-storage needs {error.name}. Hint: pip install 'rosey-storage[{extra}]',"
            " or 'rosey-storage[dev-stack]' for the servers as well.\n"
        )
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more while it closes stdout.
        sys.stderr.close()
        status = 141
    sys.exit(status)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
