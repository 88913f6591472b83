"""The entry point of the `rosey-storage` command: every error is one clear line, never a traceback."""

from __future__ import annotations

import sys

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


if __name__ == "__main__":
    main()
