"""The one place where a fault of the wire contract becomes an error of the one tree."""

from __future__ import annotations

from rosey_kvstore.errors import InternalError, StorageError, error_for_code
from rosey_rowstore.protocol import Fault

__all__ = ["error_from"]


def error_from(fault: Fault, *, plugin: str | None = None, operation: str | None = None) -> StorageError:
    """Return the error of a fault's code, with the call that it belongs to."""
    kind = error_for_code(fault.code)
    if kind is StorageError:  # no code of the contract comes here; a test holds that
        kind = InternalError
    return kind(
        fault.message,
        plugin=plugin,
        operation=operation,
        hint=fault.hint,
        path=fault.path,
        retry_after=fault.retry_after,
        details=fault.details,
    )
