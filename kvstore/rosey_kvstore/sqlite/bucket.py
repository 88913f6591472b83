"""What a bucket does, in terms of its tables: one `Bucket` per connection, on that connection's thread.

A method that writes checks before it changes anything; the lane around it (lane.py) gives it a transaction
and undoes what it did when it raises. Sizes follow JetStream's count roughly: key and value in bytes, plus
what the bus adds to a record and to one with headers.
"""

# ruff: noqa: S608  # statements are put together from this module's own texts; every value is bound

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import evolve, frozen

from rosey_kvstore.backend import BucketLimits, Operation, Record, Stored
from rosey_kvstore.errors import KeyExists, QuotaExceeded, RevisionMismatch
from rosey_kvstore.keys import encode_key

__all__ = ["Bucket", "Changes"]

SECOND = 1_000_000_000
# A record on the bus: 30 bytes of framing and the subject before the key; a TTL or a marker adds headers.
OVERHEAD = 48
HEADERS = 48
MARKER_TTL = SECOND
# How long, and up to how many bytes, a record out of the history stays for watchers of other processes.
LINGER = 10 * SECOND
LINGERING_BYTES = 16 * 1024 * 1024

_LIVE = "live = 1 AND (expires IS NULL OR expires > :now)"
_STORED = "SELECT key, data, revision, created, expires FROM _rosey_kv_records"
_RECORD = "SELECT key, data, revision, operation, created FROM _rosey_kv_records"
_GET = f"{_STORED} WHERE key = :key AND {_LIVE}"
_DATA = f"SELECT data FROM _rosey_kv_records WHERE key = :key AND {_LIVE}"
_REVISION = f"SELECT revision FROM _rosey_kv_records WHERE key = :key AND {_LIVE}"
_DELETED_KEYS = """
    mark.operation = 'delete' AND mark.dropped IS NULL
    AND NOT EXISTS (SELECT 1 FROM _rosey_kv_records AS l WHERE l.key = mark.key AND l.live = 1)
"""


@frozen(kw_only=True)
class State:
    """The bucket's counters, as their row holds them."""

    sequence: int
    used: int
    lingering: int
    forgotten: int


@frozen(kw_only=True)
class Changes:
    """What was written after a revision, oldest first, and when the next value expires (nanoseconds)."""

    records: Sequence[Record]
    forgotten: int
    next_expiry: int | None


def _time(nanoseconds: int) -> dt.datetime:
    seconds, rest = divmod(nanoseconds, SECOND)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=rest // 1000)


def _nanoseconds(moment: dt.datetime) -> int:
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1000


def _stored(row: tuple[str, bytes, int, int, int | None]) -> Stored:
    key, data, revision, created, expires = row
    return Stored(
        key=key,
        data=data,
        revision=revision,
        created=_time(created),
        expires=None if expires is None else _time(expires),
    )


def _record(row: tuple[str, bytes | None, int, Operation, int]) -> Record:
    key, data, revision, operation, created = row
    return Record(key=key, data=data, revision=revision, operation=operation, created=_time(created))


def _after_prefix(prefix: str) -> str | None:
    """Return the least text above every text that begins with `prefix`, None when there is none."""
    for end in range(len(prefix), 0, -1):
        point = ord(prefix[end - 1]) + 1
        if 0xD800 <= point <= 0xDFFF:  # surrogates are no characters, and UTF-8 has no bytes for them
            point = 0xE000
        if point <= 0x10FFFF:
            return prefix[: end - 1] + chr(point)
    return None


class Bucket:
    """One connection's view of the bucket, inside the transaction that `begin` and `commit` mark.

    Args:
        connection: From `schema.connect`.
        limits: The plugin's; `history` and `bucket_size` are held here.
        clock: Nanoseconds since 1970.
        writes: Whether `begin` takes the write lock.
    """

    def __init__(
        self, connection: sqlite3.Connection, limits: BucketLimits, clock: Callable[[], int], *, writes: bool
    ) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._limits = limits
        self._clock = clock
        self._writes = writes
        self._now = 0
        self._state = State(sequence=0, used=0, lingering=0, forgotten=0)
        self._saved = self._state

    # The transaction, called by the lane.

    def begin(self) -> None:
        """Begin; a writer takes the lock and turns what has expired into markers first."""
        self._execute("BEGIN IMMEDIATE" if self._writes else "BEGIN")
        self._now = self._clock()
        if self._writes:
            self._state = self._saved = self._load()
            self._expire()

    def commit(self) -> None:
        """Make it lasting."""
        if self._state != self._saved:
            self._forget()
            state = self._state
            self._execute(
                "UPDATE _rosey_kv_bucket SET sequence = ?, used = ?, lingering = ?, forgotten = ?",
                (state.sequence, state.used, state.lingering, state.forgotten),
            )
        self._execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def attempt(self, work: Callable[[Bucket], Any]) -> Any:
        """Run one call: all of it, or none of it when it raises."""
        if not self._writes:
            return work(self)
        before = self._state
        self._execute("SAVEPOINT call")
        try:
            return work(self)
        except sqlite3.Error:
            raise  # SQLite may have ended the transaction itself: the lane begins anew
        except BaseException:
            self._execute("ROLLBACK TO call")
            self._state = before
            raise
        finally:
            if self._connection.in_transaction:
                self._execute("RELEASE call")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _load(self) -> State:
        row = self._execute("SELECT sequence, used, lingering, forgotten FROM _rosey_kv_bucket").fetchone()
        sequence, used, lingering, forgotten = row
        return State(sequence=sequence, used=used, lingering=lingering, forgotten=forgotten)

    # Reading.

    def get(self, key: str) -> Stored | None:
        """Return the live value."""
        row = self._execute(_GET, {"key": key, "now": self._now}).fetchone()
        return None if row is None else _stored(row)

    def data(self, key: str) -> bytes | None:
        """Return the live value's bytes."""
        row = self._execute(_DATA, {"key": key, "now": self._now}).fetchone()
        return None if row is None else row[0]

    def get_many(self, keys: Iterable[str]) -> dict[str, Stored]:
        """Return the live ones."""
        found = ((key, self.get(key)) for key in keys)
        return {key: stored for key, stored in found if stored is not None}

    def keys(self, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return live keys of a prefix, sorted, that sort after `after`."""
        rows = self._range("SELECT key FROM _rosey_kv_records", prefix, limit, after)
        return [key for (key,) in rows]

    def page(self, prefix: str, limit: int, after: str | None) -> list[Stored]:
        """Return live values of a prefix, sorted by key, that sort after `after`."""
        return [_stored(row) for row in self._range(_STORED, prefix, limit, after)]

    def _range(self, select: str, prefix: str, limit: int, after: str | None) -> list[Any]:
        bound = "key >= :low"
        low = prefix
        if after is not None and after >= prefix:
            bound, low = "key > :low", after
        high = _after_prefix(prefix)
        if high is not None:
            bound += " AND key < :high"
        return self._execute(
            f"{select} WHERE {bound} AND {_LIVE} ORDER BY key LIMIT :limit",
            {"low": low, "high": high, "now": self._now, "limit": limit},
        ).fetchall()

    def history(self, key: str) -> list[Record]:
        """Return what is kept of a key, oldest first; needs the writer, whose `begin` marks expiries."""
        rows = self._execute(f"{_RECORD} WHERE key = ? AND dropped IS NULL ORDER BY revision", (key,))
        return [_record(row) for row in rows]

    def start_watch(self, prefix: str, *, current: bool) -> tuple[int, list[Record]]:
        """Return the revision a watch begins after, and what is live there, in order of revision."""
        sequence = self._load().sequence if not self._writes else self._state.sequence
        if not current:
            return sequence, []
        live = self.page(prefix, -1, None)
        records = [
            Record(key=s.key, data=s.data, revision=s.revision, operation="set", created=s.created)
            for s in live
        ]
        return sequence, sorted(records, key=lambda record: record.revision)

    def changes(self, after: int, limit: int) -> Changes:
        """Return what was written after a revision, what has left the history since included."""
        rows = self._execute(f"{_RECORD} WHERE revision > ? ORDER BY revision LIMIT ?", (after, limit))
        records = [_record(row) for row in rows]
        expiring = self._execute(
            "SELECT expires FROM _rosey_kv_records"
            " WHERE dropped IS NULL AND expires IS NOT NULL AND live = 1 ORDER BY expires LIMIT 1"
        ).fetchone()
        return Changes(
            records=records,
            forgotten=self._load().forgotten,
            next_expiry=None if expiring is None else expiring[0],
        )

    def sweep(self) -> None:
        """Do nothing more: that a writer's transaction began has turned what expired into markers."""

    # Writing.

    def put(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write whatever was there; return the revision."""
        return self._set(key, data, None if ttl is None else self._now + ttl * SECOND)

    def create(self, key: str, data: bytes, ttl: int | None) -> int:
        """Write unless a live value is there."""
        found = self._live_revision(key)
        if found is not None:
            raise KeyExists(f"The key {key!r} has a value already, of revision {found}.")
        return self.put(key, data, ttl)

    def update(
        self, key: str, data: bytes, ttl: int | None, revision: int, expires: dt.datetime | None = None
    ) -> int:
        """Write if the live value has this revision; `expires` stands in place of a TTL."""
        found = self._live_revision(key)
        if found != revision:
            stands = "has no value" if found is None else f"has revision {found}"
            raise RevisionMismatch(f"The key {key!r} {stands}, not revision {revision}.")
        if expires is None:
            return self.put(key, data, ttl)
        moment = _nanoseconds(expires)
        if moment <= self._now:
            raise RevisionMismatch(f"The key {key!r} has just expired.")
        return self._set(key, data, moment)

    def delete(self, key: str) -> bool:
        """Write a marker over a live value; return whether there was one."""
        if self._live_revision(key) is None:
            return False
        self._execute("UPDATE _rosey_kv_records SET live = 0 WHERE key = ? AND live = 1", (key,))
        size = OVERHEAD + HEADERS + len(encode_key(key))
        if self._state.used + size >= self._limits.bucket_size:
            self._drop_history_of_deleted()
            self._drop("key = :key AND dropped IS NULL", key=key)
        self._append(key, "delete", None, size, None)
        self._trim(key)
        return True

    def put_many(self, items: Iterable[tuple[str, bytes]], ttl: int | None) -> dict[str, int]:
        """Write all."""
        return {key: self.put(key, data, ttl) for key, data in items}

    def delete_many(self, keys: Iterable[str]) -> int:
        """Delete; return how many were live."""
        return sum(self.delete(key) for key in keys)

    def _live_revision(self, key: str) -> int | None:
        row = self._execute(_REVISION, {"key": key, "now": self._now}).fetchone()
        return None if row is None else int(row[0])

    def _set(self, key: str, data: bytes, expires: int | None) -> int:
        size = OVERHEAD + len(encode_key(key)) + len(data) + (0 if expires is None else HEADERS)
        self._make_room(key, size)
        if expires is None:
            self._execute("UPDATE _rosey_kv_records SET live = 0 WHERE key = ? AND live = 1", (key,))
            revision = self._append(key, "set", data, size, None)
            self._trim(key)
            return revision
        # The rollup: were an older value kept, it would come back when this one expires.
        self._drop("key = :key AND dropped IS NULL", key=key)
        return self._append(key, "set", data, size, expires)

    def _append(
        self, key: str, operation: Operation, data: bytes | None, size: int, expires: int | None
    ) -> int:
        revision = self._state.sequence + 1
        self._execute(
            "INSERT INTO _rosey_kv_records (revision, key, operation, data, size, created, expires, live)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (revision, key, operation, data, size, self._now, expires, operation == "set"),
        )
        self._state = evolve(self._state, sequence=revision, used=self._state.used + size)
        return revision

    def _trim(self, key: str) -> None:
        """Drop what is older than the history is deep."""
        row = self._execute(
            "SELECT revision FROM _rosey_kv_records WHERE key = ? AND dropped IS NULL"
            " ORDER BY revision DESC LIMIT 1 OFFSET ?",
            (key, self._limits.history),
        ).fetchone()
        if row is not None:
            self._drop("key = :key AND dropped IS NULL AND revision <= :oldest", key=key, oldest=row[0])

    # Room.

    def _make_room(self, key: str, size: int) -> None:
        for reclaim in (self._drop_history_of_deleted, self._drop_markers, None):
            if self._fits(key, size):
                return
            if reclaim is not None:
                reclaim()
        raise QuotaExceeded(
            f"The bucket is full: {self._state.used} of {self._limits.bucket_size} bytes are used,"
            f" and {key!r} needs {size}.",
            hint="Delete keys, let them expire with ttl=, or ask for a larger bucket_size.",
        )

    def _fits(self, key: str, size: int) -> bool:
        # JetStream's own rule: the record must fit before anything is pruned, unless the key's history is
        # full and the record that falls out of it is larger.
        if self._state.used + size < self._limits.bucket_size:
            return True
        oldest = self._execute(
            "SELECT size FROM _rosey_kv_records WHERE key = ? AND dropped IS NULL"
            " ORDER BY revision DESC LIMIT 1 OFFSET ?",
            (key, self._limits.history - 1),
        ).fetchone()
        return oldest is not None and oldest[0] > size

    def _drop_history_of_deleted(self) -> None:
        self._drop(
            "revision IN (SELECT old.revision FROM _rosey_kv_records AS mark"
            " JOIN _rosey_kv_records AS old ON old.key = mark.key AND old.dropped IS NULL"
            f" AND old.revision < mark.revision WHERE {_DELETED_KEYS})"
        )

    def _drop_markers(self) -> None:
        self._drop(f"revision IN (SELECT mark.revision FROM _rosey_kv_records AS mark WHERE {_DELETED_KEYS})")

    def _drop(self, where: str, **values: Any) -> None:
        """Take records out of the history; `where` is one of this module's own texts."""
        rows = self._execute(
            f"UPDATE _rosey_kv_records SET dropped = :now, live = 0 WHERE {where} RETURNING size",
            {"now": self._now, **values},
        ).fetchall()
        freed = sum(size for (size,) in rows)
        state = self._state
        self._state = evolve(state, used=state.used - freed, lingering=state.lingering + freed)

    # Time.

    def _expire(self) -> None:
        due = self._execute(
            "SELECT 1 FROM _rosey_kv_records WHERE dropped IS NULL AND expires <= ? LIMIT 1", (self._now,)
        ).fetchone()
        if due is None:
            return
        # Markers count no bytes: expiring always makes room. They leave after a second, as on the bus.
        added = self._execute(
            "INSERT INTO _rosey_kv_records (revision, key, operation, size, created, expires, live)"
            " SELECT :sequence + row_number() OVER (ORDER BY expires, revision), key, 'expire', 0,"
            f" expires, expires + {MARKER_TTL}, 0 FROM _rosey_kv_records"
            " WHERE dropped IS NULL AND live = 1 AND expires <= :now",
            {"sequence": self._state.sequence, "now": self._now},
        ).rowcount
        self._state = evolve(self._state, sequence=self._state.sequence + added)
        self._drop("dropped IS NULL AND expires <= :now")

    def _forget(self) -> None:
        """Remove what left the history long enough ago, and the oldest of more than the file should hold."""
        if self._state.lingering == 0 and self._state.forgotten == self._state.sequence:
            return
        self._remove("dropped <= :before", before=self._now - LINGER)
        allowed = max(self._limits.bucket_size, LINGERING_BYTES)
        if self._state.lingering > allowed:
            self._remove(
                "revision IN (SELECT revision FROM (SELECT revision, sum(size) OVER (ORDER BY revision DESC)"
                " AS newer FROM _rosey_kv_records WHERE dropped IS NOT NULL) WHERE newer > :half)",
                half=allowed // 2,
            )

    def _remove(self, where: str, **values: int) -> None:
        rows = self._execute(
            f"DELETE FROM _rosey_kv_records WHERE dropped IS NOT NULL AND {where} RETURNING revision, size",
            values,
        ).fetchall()
        if rows:
            state = self._state
            self._state = evolve(
                state,
                lingering=state.lingering - sum(size for _, size in rows),
                forgotten=max(state.forgotten, *(revision for revision, _ in rows)),
            )
