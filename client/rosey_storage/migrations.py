"""The plugin's migrations, by the row service: where the schema stands, forward and back."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from rosey_rowstore.protocol import (
    ApplyReply,
    ApplyRequest,
    RollbackReply,
    RollbackRequest,
    StatusReply,
    StatusRequest,
    operations,
)
from rosey_storage.calls import Calls

__all__ = ["Migrations"]

# The service's own limit of a run: a caller waits as long as a run may take. A run whose caller left
# goes on, and `status` tells its end.
_WAIT: Final = 600.0


@frozen
class Migrations:
    """The migrations of one plugin; made by `Storage.migrations`.

    `timeout=` is the seconds that the caller waits, 600 unless given.
    """

    _calls: Calls = field(repr=False)

    async def status(self, *, timeout: float | None = None) -> StatusReply:
        """Return what is applied, what is pending, and how the schema differs from what was made."""
        return await self._calls(operations.MIGRATIONS_STATUS, StatusRequest, timeout=timeout)

    async def apply(
        self,
        target: str = "head",
        *,
        dry_run: bool = False,
        allow_destructive: bool = False,
        timeout: float = _WAIT,
    ) -> ApplyReply:
        """Apply what is pending up to `target`, all of it or nothing.

        Args:
            target: A revision, or `head`.
            dry_run: Change nothing; the reply lists what would be applied, with its SQL.
            allow_destructive: Dropping and narrowing are meant.
            timeout: Seconds to wait.

        Raises:
            MigrationFailed: A revision does not load or does not run; its `details` say where.
            DestructiveMigration: It drops or narrows, and that was not allowed.
            ChecksumMismatch: A file that was applied has changed.
            MigrationLocked: Another run held the lock for too long.
        """
        return await self._calls(
            operations.MIGRATIONS_APPLY,
            lambda: ApplyRequest(target=target, dry_run=dry_run, allow_destructive=allow_destructive),
            timeout=timeout,
        )

    async def rollback(self, target: str, *, dry_run: bool = False, timeout: float = _WAIT) -> RollbackReply:
        """Go back to `target`, a revision or `base`; `dry_run` as in `apply`.

        Raises:
            PermissionDenied: Rollbacks are not allowed in production.
        """
        return await self._calls(
            operations.MIGRATIONS_ROLLBACK,
            lambda: RollbackRequest(target=target, dry_run=dry_run),
            timeout=timeout,
        )
