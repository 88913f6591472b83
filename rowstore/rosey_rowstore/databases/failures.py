"""Faults of the service's own: the caller gets a reference, the log gets everything."""

from __future__ import annotations

import logging
import uuid

from rosey_rowstore.protocol import Fault

__all__ = ["internal_fault"]

log = logging.getLogger("rosey_rowstore")


def internal_fault(what: str, error: BaseException) -> Fault:
    """Log `error` with a new reference, and return the fault that shows the reference alone."""
    reference = uuid.uuid4().hex[:12]
    log.error("internal fault %s: %s", reference, what, exc_info=error)
    return Fault(
        "internal",
        f"The row service failed; its log has the details under the reference {reference}.",
        hint="Give the reference to the operator.",
    )
