"""The moment that the service writes where the database's own clock is too coarse."""

from __future__ import annotations

import datetime

from rosey_rowstore.engine.values import format_datetime

__all__ = ["now_text"]


def now_text() -> str:
    """Return the present moment as stored: UTC, microseconds."""
    return format_datetime(datetime.datetime.now(datetime.UTC))
