"""The KV API: what a plugin calls, the same over JetStream and over SQLite."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import datetime as dt
import functools
import json
import math
import random
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, overload

from rosey_kvstore.backend import Backend, Record, Stored
from rosey_kvstore.cursors import dump_cursor, load_cursor
from rosey_kvstore.entries import Change, Entry, InvalidValue, Page
from rosey_kvstore.errors import (
    InvalidJson,
    InvalidName,
    InvalidRequest,
    KeyExists,
    OutOfRange,
    RequestTooLarge,
    RevisionMismatch,
    StorageError,
    StorageTimeout,
    TypeMismatch,
    Unavailable,
    ValueTooLarge,
)
from rosey_kvstore.keys import check_prefix, encode_key
from rosey_kvstore.ttl import whole_seconds
from rosey_kvstore.values import decode_value, dump_value, structure_value
from rosey_kvstore.watching import Watch

__all__ = ["KV", "MAX_BATCH", "MAX_PAGE"]

T = TypeVar("T")
D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")
Self_ = TypeVar("Self_", bound="KV")

MAX_BATCH: Final = 1000
MAX_PAGE: Final = 10_000

_Keys = list[str]  # `list` is a method below
_Changes = list[Change]
_Ttl = float | dt.timedelta | None


def _named(
    operation: str, *, bounded: bool = False
) -> Callable[[Callable[Concatenate[KV, P], Awaitable[R]]], Callable[Concatenate[KV, P], Awaitable[R]]]:
    """Tell in an error whose call it was, and open the bucket before the first one.

    A call that is `bounded` ends within the time of one, however many requests it takes: on a cluster that
    looks for a leader each of them may wait.
    """

    def decorate(
        call: Callable[Concatenate[KV, P], Awaitable[R]],
    ) -> Callable[Concatenate[KV, P], Awaitable[R]]:
        @functools.wraps(call)
        async def named(self: KV, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                if not self._opened:
                    await self._open()
                if bounded:
                    async with self._in_time():
                        return await call(self, *args, **kwargs)
                return await call(self, *args, **kwargs)
            except StorageError as error:
                self._tell(error, operation)
                raise

        return named

    return decorate


class KV:
    """A plugin's keys and values.

    Every method raises, beside what it says itself: `InvalidName` for a key that cannot be,
    `Unavailable` when the server is away or the storage is closed, `StorageTimeout` when no answer came
    in time (the message says whether a write may have happened), `PermissionDenied` when the plugin's
    credentials do not reach its bucket, and `NotProvisioned` when there is none.
    """

    def __init__(self, backend: Backend, *, plugin: str, timeout: float = 5.0) -> None:
        self._backend = backend
        self._plugin = plugin
        self._timeout = timeout
        self._opened = False
        self._closed = False
        self._opening = asyncio.Lock()
        self._value_size = 0
        self._increments: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    # ── One key ──────────────────────────────────────────────────────────────────────────────────

    @overload
    async def get(self, key: str) -> Any: ...
    @overload
    async def get(self, key: str, *, default: Any) -> Any: ...
    @overload
    async def get(self, key: str, *, type: builtins.type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, *, default: D, type: builtins.type[T]) -> T | D: ...
    async def get(self, key: str, *, default: Any = None, type: builtins.type[Any] | None = None) -> Any:  # noqa: A002 - the contract calls it so
        """Return the value of `key`, or `default` when it is missing, deleted or expired.

        Args:
            key: Any text, 1 to 512 bytes once encoded.
            default: What a missing key gives; a stored null gives None all the same.
            type: A class, an attrs class for one, that the value is structured into, without coercion.

        Raises:
            InvalidJson: The value was put by another program and is no JSON.
            TypeMismatch: The value does not fit `type`.
        """
        # The commonest call goes without the wrapper of the others.
        try:
            if not self._opened:
                await self._open()
            encode_key(key)
            data = await self._backend.data(key)
            if data is None:
                return default
            value = decode_value(data, key)
            return value if type is None else structure_value(value, type, key)
        except StorageError as error:
            self._tell(error, "kv.get")
            raise

    @_named("kv.entry", bounded=True)
    async def entry(self, key: str, *, type: builtins.type[Any] | None = None) -> Entry | None:  # noqa: A002 - the contract calls it so
        """Return the value of `key` with its revision and times, or None; see `get`."""
        encode_key(key)
        stored = await self._backend.get(key)
        if stored is None:
            return None
        value = decode_value(stored.data, key)
        return Entry(
            key=key,
            value=value if type is None else structure_value(value, type, key),
            revision=stored.revision,
            created=stored.created,
            expires=stored.expires,
        )

    async def set(self, key: str, value: Any, *, ttl: _Ttl = None) -> int:
        """Store a value, whatever was there before, and return its revision.

        Args:
            key: Any text, 1 to 512 bytes once encoded.
            value: Of JSON's kinds, or an attrs instance.
            ttl: Seconds or a timedelta until it expires, from 1 s, rounded up to whole seconds. None: never,
                and an earlier TTL ends.

        Raises:
            TypeMismatch: Something in the value is of no JSON kind; `path` says where.
            OutOfRange: The TTL is impossible.
            ValueTooLarge: The JSON passes the plugin's value size.
            QuotaExceeded: The bucket is full; deleting keys makes room.
        """
        try:
            if not self._opened:
                await self._open()
            encode_key(key)
            seconds = None if ttl is None else whole_seconds(ttl)
            return await self._backend.put(key, self._dumped(value), seconds)
        except StorageError as error:
            self._tell(error, "kv.set")
            raise

    @_named("kv.create", bounded=True)
    async def create(self, key: str, value: Any, *, ttl: _Ttl = None) -> int:
        """Store a value where none is, and return its revision; see `set`.

        Raises:
            KeyExists: A live value is there.
        """
        encode_key(key)
        return await self._backend.create(key, self._dumped(value), whole_seconds(ttl))

    @_named("kv.update", bounded=True)
    async def update(self, key: str, value: Any, *, revision: int, ttl: _Ttl = None) -> int:
        """Store a value if nobody has written the key since `revision`, and return the new one; see `set`.

        Raises:
            RevisionMismatch: Someone was first, or the key is not live.
        """
        encode_key(key)
        if isinstance(revision, bool) or not isinstance(revision, int):
            raise TypeMismatch(
                f"A revision is a whole number, not {builtins.type(revision).__name__}.", path="revision"
            )
        if not 1 <= revision < 2**63:
            raise OutOfRange(f"No revision is {revision}.", path="revision", hint="entry() tells it.")
        return await self._backend.update(key, self._dumped(value), whole_seconds(ttl), revision)

    @_named("kv.delete", bounded=True)
    async def delete(self, key: str) -> bool:
        """Delete `key`, and return whether a live value was there."""
        encode_key(key)
        return await self._backend.delete(key)

    @_named("kv.increment", bounded=True)
    async def increment(self, key: str, by: float = 1, *, ttl: _Ttl = None) -> Any:
        """Add to a number, from 0 where none is, and return the new one; atomic however many do it at once.

        Args:
            key: Any text, 1 to 512 bytes once encoded.
            by: What is added, whole or float.
            ttl: As in `set`; None keeps the time that is left.

        Raises:
            TypeMismatch: The value that is there, or `by`, is no number.
            OutOfRange: The result is no finite number.
        """
        encode_key(key)
        _check_number(by)
        seconds = whole_seconds(ttl)
        # In one process the increments of a key queue up: they would only defeat one another.
        lock = self._increments.setdefault(key, asyncio.Lock())
        async with lock:
            return await self._increment(key, by, seconds)

    async def _increment(self, key: str, by: float, ttl: int | None) -> float:
        give_up = asyncio.get_running_loop().time() + self._timeout
        wait = 0.001
        while True:
            stored = await self._backend.get(key)
            number = by if stored is None else _sum(stored, by)
            data = self._dumped(number)
            try:
                if stored is None:
                    await self._backend.create(key, data, ttl)
                else:
                    kept = stored.expires if ttl is None else None
                    await self._backend.update(key, data, ttl, stored.revision, expires=kept)
            except (KeyExists, RevisionMismatch) as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise StorageTimeout(
                        f"Others wrote {key!r} first for {self._timeout:g} s; nothing was added."
                    ) from error
                await asyncio.sleep(random.uniform(0, wait))  # noqa: S311 - spreads, keeps no secret
                wait = min(2 * wait, 0.05)
            else:
                return number

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise StorageTimeout(
                f"No answer within {self._timeout:g} s; what it asked may have been done.",
                hint="A server that is overloaded or far away needs a longer timeout.",
            ) from None

    # ── Many keys ────────────────────────────────────────────────────────────────────────────────

    @_named("kv.get_many")
    async def get_many(
        self,
        keys: Iterable[str],
        *,
        type: builtins.type[Any] | None = None,  # noqa: A002 - the contract calls it so
    ) -> dict[str, Any]:
        """Return the live ones of `keys` with their values; an `InvalidValue` stands for no JSON."""
        wanted = _checked_keys(keys)
        found = await self._backend.get_many(wanted)
        return {key: _readable(found[key].data, key, type) for key in wanted if key in found}

    @_named("kv.set_many")
    async def set_many(self, values: Mapping[str, Any], *, ttl: _Ttl = None) -> dict[str, int]:
        """Store all values or none, and return their revisions; at most 1,000.

        Raises:
            RequestTooLarge: There are more than 1,000; nothing was written.
        """
        if not isinstance(values, Mapping):
            raise TypeMismatch(
                f"set_many takes a mapping of keys to values, not {builtins.type(values).__name__}."
            )
        seconds = whole_seconds(ttl)
        items = []
        for key, value in values.items():
            encode_key(key)
            try:
                items.append((key, self._dumped(value)))
            except StorageError as error:
                error.path = f"{key}: {error.path or 'value'}"
                raise
        if len(items) > MAX_BATCH:
            raise RequestTooLarge(
                f"{len(items)} keys at once; the most is {MAX_BATCH}.", hint="Nothing was written; use parts."
            )
        return dict(await self._backend.put_many(items, seconds)) if items else {}

    @_named("kv.delete_many")
    async def delete_many(self, keys: Iterable[str] | None = None, *, prefix: str | None = None) -> int:
        """Delete `keys`, or every key that begins with a non-empty `prefix`; return how many were live."""
        if (keys is None) == (prefix is None):
            raise InvalidRequest("delete_many takes either keys or a prefix.")
        if keys is not None:
            return await self._backend.delete_many(_checked_keys(keys))
        if not check_prefix(prefix or ""):
            raise InvalidRequest(
                "An empty prefix would delete every key.", path="prefix", hint="Give the keys themselves."
            )
        deleted, after = 0, None
        while True:
            found = await self._backend.keys(prefix or "", MAX_PAGE, after)
            deleted += await self._backend.delete_many(found)
            if len(found) < MAX_PAGE:
                return deleted
            after = found[-1]

    @_named("kv.list")
    async def list(self, *, prefix: str = "", limit: int = 100, cursor: str | None = None) -> Page:
        """Return live keys that begin with `prefix`, in the order of their code points.

        Args:
            prefix: Any text, part of a word included; empty for all keys.
            limit: 1 to 10,000 keys.
            cursor: The `next_cursor` of the page before, with the same prefix.

        Raises:
            OutOfRange: The limit is impossible.
            InvalidRequest: The cursor is none, or belongs to another prefix.
        """
        check_prefix(prefix)
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeMismatch(
                f"A limit is a whole number, not {builtins.type(limit).__name__}.", path="limit"
            )
        if not 1 <= limit <= MAX_PAGE:
            raise OutOfRange(f"A limit of {limit} is impossible; from 1 to {MAX_PAGE}.", path="limit")
        after = None if cursor is None else load_cursor(cursor, prefix)
        keys = await self._backend.keys(prefix, limit + 1, after)
        if len(keys) <= limit:
            return Page(keys=keys, next_cursor=None)
        return Page(keys=keys[:limit], next_cursor=dump_cursor(prefix, keys[limit - 1]))

    async def items(
        self,
        *,
        prefix: str = "",
        type: builtins.type[Any] | None = None,  # noqa: A002 - the contract calls it so
    ) -> AsyncIterator[tuple[str, Any]]:
        """Yield live keys with their values, in order; an `InvalidValue` stands for what cannot be read."""
        try:
            check_prefix(prefix)
            if not self._opened:
                await self._open()
            async for key, data in self._backend.items(prefix):
                yield key, _readable(data, key, type)
        except StorageError as error:
            self._tell(error, "kv.items")
            raise

    # ── What happened, what happens ──────────────────────────────────────────────────────────────

    @_named("kv.history")
    async def history(self, key: str, *, type: builtins.type[Any] | None = None) -> _Changes:  # noqa: A002 - the contract calls it so
        """Return what the bucket keeps of `key`, newest last, deletes included.

        A key written with a TTL keeps no older revisions.
        """
        encode_key(key)
        return [_change(record, type) for record in await self._backend.history(key)]

    def watch(
        self,
        *,
        prefix: str = "",
        current: bool = False,
        type: builtins.type[Any] | None = None,  # noqa: A002 - the contract calls it so
    ) -> Watch:
        """Tell every change of keys that begin with `prefix`, in order, each exactly once.

        `async for change in kv.watch():` begins with the first turn; `async with kv.watch() as changes:`
        begins on entering, and ends the watch on leaving. After a reconnect nothing is missed.

        Args:
            prefix: Any text; empty for all keys.
            current: Tell first what is there, as changes of the operation `set`.
            type: As in `get`; what does not fit is told as an `InvalidValue`.

        Raises:
            Overloaded: (from the iterator) the reader was too slow and the buffer is full.
        """
        try:
            check_prefix(prefix)
        except StorageError as error:
            self._tell(error, "kv.watch")
            raise

        async def begin() -> Any:
            if not self._opened:
                await self._open()
            return self._backend.watch(prefix, current=current)

        return Watch(begin, lambda record: _change(record, type), lambda error: self._tell(error, "kv.watch"))

    # ── Opening and closing ──────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """End the watches and let go of the bucket; later calls raise `Unavailable`."""
        self._closed = True
        self._opened = False
        await self._backend.close()

    async def _open(self) -> None:
        async with self._opening:
            if self._closed:
                raise Unavailable("The storage is closed.")
            if not self._opened:
                await self._backend.open()
                self._value_size = self._backend.limits.value_size
                self._opened = True

    def _dumped(self, value: Any) -> bytes:
        data = dump_value(value)
        if len(data) > self._value_size:
            raise ValueTooLarge(
                f"The value has {len(data)} bytes as JSON; the most is {self._value_size}.",
                path="value",
                hint="The plugin's limit value_size says how large a value may be.",
            )
        return data

    def _tell(self, error: StorageError, operation: str) -> None:
        error.plugin = error.plugin or self._plugin
        error.operation = error.operation or operation


def _checked_keys(keys: Iterable[str]) -> _Keys:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise TypeMismatch(f"Keys are a list of text, not {type(keys).__name__}.", path="keys")
    found = dict.fromkeys(keys)
    for number, key in enumerate(found):
        try:
            encode_key(key)
        except (InvalidName, TypeMismatch) as error:
            error.path = f"keys[{number}]"
            raise
    return list(found)


def _check_number(by: Any) -> None:
    if isinstance(by, bool) or not isinstance(by, int | float):
        raise TypeMismatch(f"increment adds a number, not {type(by).__name__}.", path="by")
    if isinstance(by, float) and not math.isfinite(by):
        raise TypeMismatch("NaN and Infinity are no JSON values.", path="by")


def _sum(stored: Stored, by: float) -> float:
    try:
        number = decode_value(stored.data, stored.key)
    except InvalidJson as error:
        raise TypeMismatch(f"The value of {stored.key!r} is no number: {error.message}") from error
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeMismatch(f"The value of {stored.key!r} is {json.dumps(number)[:40]}, no number.")
    try:
        total: float = number + by
    except OverflowError as error:
        raise OutOfRange(f"The sum in {stored.key!r} is no finite number.", path="by") from error
    if isinstance(total, float) and not math.isfinite(total):
        raise OutOfRange(f"The sum in {stored.key!r} is no finite number.", path="by")
    return total


def _readable(data: bytes, key: str, kind: type[Any] | None) -> Any:
    """Return the value, or an `InvalidValue`: one bad value is no reason to withhold the others."""
    try:
        value = decode_value(data, key)
        return value if kind is None else structure_value(value, kind, key)
    except (InvalidJson, TypeMismatch) as error:
        return InvalidValue(data=data, reason=error.message)


def _change(record: Record, kind: type[Any] | None) -> Change:
    return Change(
        key=record.key,
        value=None if record.data is None else _readable(record.data, record.key, kind),
        revision=record.revision,
        operation=record.operation,
        created=record.created,
    )
