"""Row services of a test, started together and stopped by pid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rosey_deploy.stack.service import RowService

__all__ = ["launched"]


@contextmanager
def launched(services: Sequence[RowService]) -> Iterator[None]:
    """Start all of them, wait until each serves, and stop them in the end."""
    try:
        for service in services:
            service.launch()
        for service in services:
            service.wait_ready()
        yield
    finally:
        for service in services:
            service.stop()
