"""The error codes of the contract, their numbers, and the one exception that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ERROR_NUMBERS", "Fault"]

ERROR_NUMBERS: Final[Mapping[str, int]] = {
    "invalid_json": 400,
    "invalid_request": 400,
    "invalid_name": 400,
    "unknown_operator": 400,
    "type_mismatch": 400,
    "out_of_range": 400,
    "value_required": 400,
    "permission_denied": 403,
    "local_mode_refused": 403,
    "not_provisioned": 404,
    "table_not_found": 404,
    "column_not_found": 404,
    "migration_not_found": 404,
    "unique_violation": 409,
    "foreign_key_violation": 409,
    "schema_conflict": 409,
    "revision_mismatch": 409,
    "key_exists": 409,
    "migration_locked": 409,
    "checksum_mismatch": 409,
    "destructive_migration": 409,
    "request_too_large": 413,
    "reply_too_large": 413,
    "value_too_large": 413,
    "too_many_rows": 413,
    "quota_exceeded": 413,
    "migration_failed": 422,
    "rate_limited": 429,
    "overloaded": 429,
    "internal": 500,
    "unavailable": 503,
    "timeout": 504,
}
"""Every code with the number that `Nats-Service-Error-Code` holds."""


class Fault(Exception):
    """A coded refusal, from the decoder down to the database; the service turns it into an error reply.

    Attributes:
        code: One of `ERROR_NUMBERS`.
        message: What is wrong, one sentence, naming the place.
        path: The place in the request, as `where.$or[0].n`.
        hint: What to do about it.
        retry_after: Seconds after which asking again makes sense.
        details: Further members of the error object.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        path: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        if code not in ERROR_NUMBERS:
            raise ValueError(f"{code!r} is not a code of the contract")
        super().__init__(message)
        self.code = code
        self.message = message
        self.path = path
        self.hint = hint
        self.retry_after = retry_after
        self.details = dict(details or {})

    @property
    def number(self) -> int:
        """The number of the code, as in HTTP."""
        return ERROR_NUMBERS[self.code]

    def at(self, prefix: str) -> Fault:
        """Return the same fault with its path below `prefix`, as `operations[1]`."""
        if self.path is None:
            path = prefix
        else:
            path = prefix + self.path if self.path.startswith("[") else f"{prefix}.{self.path}"
        return Fault(
            self.code,
            self.message,
            path=path,
            hint=self.hint,
            retry_after=self.retry_after,
            details=self.details,
        )
