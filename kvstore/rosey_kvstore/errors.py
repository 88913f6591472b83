"""One tree of errors for everything a plugin can meet, KV and rows alike.

StorageError
├── BadRequest                     what was asked is wrong; asking again does not help
│   ├── InvalidJson                invalid_json
│   ├── InvalidRequest             invalid_request
│   ├── InvalidName                invalid_name
│   ├── UnknownOperator            unknown_operator
│   ├── TypeMismatch               type_mismatch
│   ├── OutOfRange                 out_of_range
│   └── ValueRequired              value_required
├── Forbidden
│   ├── PermissionDenied           permission_denied
│   └── LocalModeRefused           local_mode_refused
├── NotFound
│   ├── NotProvisioned             not_provisioned
│   ├── TableNotFound              table_not_found
│   ├── ColumnNotFound             column_not_found
│   └── MigrationNotFound          migration_not_found
├── Conflict                       the data says no
│   ├── UniqueViolation            unique_violation
│   ├── ForeignKeyViolation        foreign_key_violation
│   ├── SchemaConflict             schema_conflict
│   ├── RevisionMismatch           revision_mismatch
│   ├── KeyExists                  key_exists
│   ├── MigrationLocked            migration_locked
│   ├── ChecksumMismatch           checksum_mismatch
│   └── DestructiveMigration       destructive_migration
├── LimitExceeded                  larger than the plugin may
│   ├── RequestTooLarge            request_too_large
│   ├── ReplyTooLarge              reply_too_large
│   ├── ValueTooLarge              value_too_large
│   ├── TooManyRows                too_many_rows
│   └── QuotaExceeded              quota_exceeded
├── MigrationFailed                migration_failed
├── Busy                           faster than the plugin may; `retry_after` says when
│   ├── RateLimited                rate_limited
│   └── Overloaded                 overloaded
├── InternalError                  internal
├── Unavailable                    unavailable
└── StorageTimeout                 timeout; the message says whether a write may have happened
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BadRequest",
    "Busy",
    "ChecksumMismatch",
    "ColumnNotFound",
    "Conflict",
    "DestructiveMigration",
    "Forbidden",
    "ForeignKeyViolation",
    "InternalError",
    "InvalidJson",
    "InvalidName",
    "InvalidRequest",
    "KeyExists",
    "LimitExceeded",
    "LocalModeRefused",
    "MigrationFailed",
    "MigrationLocked",
    "MigrationNotFound",
    "NotFound",
    "NotProvisioned",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "RateLimited",
    "ReplyTooLarge",
    "RequestTooLarge",
    "RevisionMismatch",
    "SchemaConflict",
    "StorageError",
    "StorageTimeout",
    "TableNotFound",
    "TooManyRows",
    "TypeMismatch",
    "Unavailable",
    "UniqueViolation",
    "UnknownOperator",
    "ValueRequired",
    "ValueTooLarge",
    "error_for_code",
]


class StorageError(Exception):
    """The root of every error that storage raises; catch it to catch them all.

    Attributes:
        code: The stable code, the same on the wire and in Python.
        message: What went wrong, one sentence.
        plugin: The plugin whose call it was, where known.
        operation: The call, as `kv.set` or `rows.insert`, where known.
        hint: What to do about it, where there is something to say.
        path: The place in the request, as `rows[1].n`, where there is one.
        retry_after: Seconds after which asking again makes sense, where known.
        details: Further members of a failed migration: revision, statement, sqlstate, line.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        plugin: str | None = None,
        operation: str | None = None,
        hint: str | None = None,
        path: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.plugin = plugin
        self.operation = operation
        self.hint = hint
        self.path = path
        self.retry_after = retry_after
        self.details = dict(details or {})

    def __str__(self) -> str:
        where = " ".join(part for part in (self.plugin, self.operation) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.path:
            text += f" (at {self.path})"
        if self.hint:
            text += f" Hint: {self.hint}"
        return f"[{self.code}] {text}"


class BadRequest(StorageError):
    """What was asked is wrong; asking again does not help."""


class InvalidJson(BadRequest):
    """Bytes that should hold JSON do not."""

    code = "invalid_json"


class InvalidRequest(BadRequest):
    """The shape of a request is wrong: a member is unknown, missing or of another kind."""

    code = "invalid_request"


class InvalidName(BadRequest):
    """A plugin, table, column, index or key has a name that the contract does not allow."""

    code = "invalid_name"


class UnknownOperator(BadRequest):
    """A `$name` that does not exist."""

    code = "unknown_operator"


class TypeMismatch(BadRequest):
    """A value of another type than its place takes; nothing is coerced."""

    code = "type_mismatch"


class OutOfRange(BadRequest):
    """A value of the right type that is impossible there."""

    code = "out_of_range"


class ValueRequired(BadRequest):
    """Null or nothing where a value is required."""

    code = "value_required"


class Forbidden(StorageError):
    """Not allowed to this caller."""


class PermissionDenied(Forbidden):
    """The plugin reached for what is not its own."""

    code = "permission_denied"


class LocalModeRefused(Forbidden):
    """Local mode was asked for where it is not allowed, in production above all."""

    code = "local_mode_refused"


class NotFound(StorageError):
    """What the request names does not exist."""


class NotProvisioned(NotFound):
    """The plugin has no storage of this kind yet; an operator provisions it."""

    code = "not_provisioned"


class TableNotFound(NotFound):
    """The plugin has no such table."""

    code = "table_not_found"


class ColumnNotFound(NotFound):
    """The table has no such column."""

    code = "column_not_found"


class MigrationNotFound(NotFound):
    """No migration has this revision."""

    code = "migration_not_found"


class Conflict(StorageError):
    """The request is sound and the stored data does not allow it."""


class UniqueViolation(Conflict):
    """Another row has the same value where values are unique."""

    code = "unique_violation"


class ForeignKeyViolation(Conflict):
    """A referenced row is missing, or a row is still referenced."""

    code = "foreign_key_violation"


class SchemaConflict(Conflict):
    """A definition differs from the table in more than additions."""

    code = "schema_conflict"


class RevisionMismatch(Conflict):
    """Someone wrote the key first."""

    code = "revision_mismatch"


class KeyExists(Conflict):
    """A live value is already there."""

    code = "key_exists"


class MigrationLocked(Conflict):
    """Another migration run of the same plugin held the lock past the waiting limit."""

    code = "migration_locked"


class ChecksumMismatch(Conflict):
    """A migration that was applied has changed since."""

    code = "checksum_mismatch"


class DestructiveMigration(Conflict):
    """A migration drops or narrows, and `allow_destructive` was not given."""

    code = "destructive_migration"


class LimitExceeded(StorageError):
    """Larger than the plugin's limits allow; nothing was cut and nothing was written."""


class RequestTooLarge(LimitExceeded):
    """The request passes the plugin's request size, or holds too many parts."""

    code = "request_too_large"


class ReplyTooLarge(LimitExceeded):
    """The reply would pass the plugin's reply size."""

    code = "reply_too_large"


class ValueTooLarge(LimitExceeded):
    """One value passes its limit: a KV value's bytes, a column's `max_length`."""

    code = "value_too_large"


class TooManyRows(LimitExceeded):
    """More rows than the request, or its own `max_rows`, allows."""

    code = "too_many_rows"


class QuotaExceeded(LimitExceeded):
    """The plugin's storage is full."""

    code = "quota_exceeded"


class MigrationFailed(StorageError):
    """A migration did not load or did not run; the schema is as before."""

    code = "migration_failed"


class Busy(StorageError):
    """Faster than the plugin may; `retry_after` says when to ask again."""


class RateLimited(Busy):
    """More requests per second than the plugin's limit."""

    code = "rate_limited"


class Overloaded(Busy):
    """More requests are waiting than the plugin's limit."""

    code = "overloaded"


class InternalError(StorageError):
    """A fault of the service; the message holds a reference for its log."""

    code = "internal"


class Unavailable(StorageError):
    """A server is away, or the storage is closed; the message names which."""

    code = "unavailable"


class StorageTimeout(StorageError):
    """No answer within the time the call may take; the message says whether a write may have happened."""

    code = "timeout"


def _leaves(root: type[StorageError]) -> dict[str, type[StorageError]]:
    found = {}
    for child in root.__subclasses__():
        if "code" in vars(child):
            found[child.code] = child
        found.update(_leaves(child))
    return found


_BY_CODE = _leaves(StorageError)


def error_for_code(code: str) -> type[StorageError]:
    """Return the class of a code; an unknown one, from a newer service, gives `StorageError` itself."""
    return _BY_CODE.get(code, StorageError)
