"""Stored replies: one effect for one `Nats-Msg-Id`, because the reply commits with the effect.

The reply is inserted last, in the transaction of the write. Its primary key is the lock: of two
transactions with one id the second waits for the first and is then rolled back whole. A write without an
id touches none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, LiteralString

from rosey_rowstore.databases.base import REPLY_KEPT_SECONDS, Work, same_request
from rosey_rowstore.databases.postgres.link import RawText
from rosey_rowstore.engine.model import Statement

__all__ = ["CLEAN", "CLEANING_SECONDS", "DDL", "REPEATED", "find", "reply_for", "store"]

CLEANING_SECONDS: Final = 30.0
_CLEANED_AT_ONCE: Final = 5000
_EXPIRED: Final = f"at < clock_timestamp() - interval '{REPLY_KEPT_SECONDS} seconds'"

REPEATED: Final = "22012"
"""What `store` fails with when an id of the batch has its reply already (a division by zero, on purpose)."""

# The rows arrive in the order of time, so a BRIN index finds the old ones at next to no cost.
DDL: Final[tuple[LiteralString, ...]] = (
    (
        "CREATE TABLE IF NOT EXISTS _rosey_replies ("
        ' id text COLLATE "C" PRIMARY KEY, digest text NOT NULL, reply text NOT NULL,'
        " at timestamptz NOT NULL DEFAULT clock_timestamp())"
    ),
    (
        "CREATE INDEX IF NOT EXISTS _rosey_replies_at ON _rosey_replies"
        " USING brin (at) WITH (pages_per_range = 16)"
    ),
)

CLEAN: Final = Statement(
    "DELETE FROM _rosey_replies WHERE ctid = ANY (ARRAY("  # noqa: S608 - constants
    f"SELECT ctid FROM _rosey_replies WHERE {_EXPIRED} LIMIT {_CLEANED_AT_ONCE}))"
)
_FIND: Final = f"SELECT digest, reply FROM _rosey_replies WHERE id = $1::text AND NOT ({_EXPIRED})"  # noqa: S608 - constants


@lru_cache(maxsize=64)
def _store_sql(count: int) -> str:
    """Insert `count` replies, over expired ones where they stand; fewer than that is an error at once.

    An error, so that the COMMIT behind it in the same pipeline does not run.
    """
    rows = ", ".join(f"(${3 * n + 1}::text, ${3 * n + 2}::text, ${3 * n + 3}::text)" for n in range(count))
    return (
        f"WITH stored AS (INSERT INTO _rosey_replies AS kept (id, digest, reply) VALUES {rows}"  # noqa: S608 - constants
        " ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, reply = excluded.reply,"
        f" at = clock_timestamp() WHERE kept.{_EXPIRED} RETURNING 1)"
        f" SELECT 1 / (CASE WHEN count(*) = {count} THEN 1 ELSE 0 END) FROM stored"
    )


def store(replies: Sequence[tuple[Work, bytes]]) -> Statement | None:
    """Return the statement that stores the replies of those with an id, None when none has one."""
    # Sorted, so that two processes with the same ids wait for one another instead of deadlocking.
    kept = sorted(
        (
            (work.message_id, work.digest.hex(), RawText(body))
            for work, body in replies
            if work.message_id is not None
        ),
        key=lambda item: item[0],
    )
    if not kept:
        return None
    parameters: list[Any] = [value for item in kept for value in item]
    return Statement(_store_sql(len(kept)), parameters)


def find(work: Work) -> Statement:
    """Return the query for the reply of the work's id."""
    return Statement(_FIND, (work.message_id,))


def reply_for(work: Work, row: Sequence[Any]) -> bytes:
    """Return the stored reply.

    Raises:
        Fault: `invalid_request` when the id came with another request.
    """
    digest, reply = row
    same_request(work, bytes.fromhex(digest))
    return str(reply).encode()
