"""`python -m rosey_rowstore`: the row service, with its settings from the environment."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rosey_rowstore.protocol import Fault
from rosey_rowstore.settings import ServiceSettings

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; return the exit status, 2 for settings that are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rosey_rowstore",
        description="The row service of Rosey's plugin storage. Its settings are ROSEY_STORAGE_* variables.",
    )
    parser.add_argument(
        "--provision", action="store_true", help="make a plugin's tables on first use, as in development"
    )
    options = parser.parse_args(arguments)
    try:
        # Late, so that --help needs no database library.
        from rosey_rowstore.service.process import run  # noqa: PLC0415

        return run(ServiceSettings.from_environment(os.environ), provision=options.provision)
    except Fault as fault:
        print(describe(fault), file=sys.stderr)  # noqa: T201 - the command's own error line
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rosey_"):
            raise
        print(  # noqa: T201
            f"The row service needs {error.name}. Hint: pip install 'rosey-storage[rowstore]'.",
            file=sys.stderr,
        )
    return 2


def describe(fault: Fault) -> str:
    """Return a fault as one line: code, message, place, hint."""
    place = f" (at {fault.path})" if fault.path else ""
    hint = f" Hint: {fault.hint}" if fault.hint else ""
    return f"[{fault.code}] {fault.message}{place}{hint}"


if __name__ == "__main__":
    sys.exit(main())
