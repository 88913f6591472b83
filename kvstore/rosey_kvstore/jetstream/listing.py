"""Which keys are live: read once, then kept up with by what has changed since.

A stream tells its subjects fast, but counts deleted keys among them. So the first list of a prefix reads
the headers of each key's last message; later ones ask what came since, in one request, and nothing at all
when nothing did. What is kept is never trusted blindly: the stream's own figures say whether it holds.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, cast

from attrs import define, field

from rosey_kvstore.connection import Batch
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.messages import DEAD_HEADERS, is_dead, sequence_of
from rosey_kvstore.jetstream.messages import field as header
from rosey_kvstore.jetstream.push import place_of_reply
from rosey_kvstore.jetstream.reading import last_of, messages_until
from rosey_kvstore.jetstream.scan import scan
from rosey_kvstore.keys import decode_certain, decode_keys, filter_tokens

__all__ = ["EDGE_DOTS", "Listing"]

# Stands in a bucket that holds keys with doubled or outer dots: `room.` then also begins `room=2E…`,
# which no filter of the server finds below `room.>`. No key of a plugin is written so, and lists skip it.
EDGE_DOTS: Final = "=dots"

_VIEWS: Final = 16
# Values of so few bytes cost less than the server's leaving them out.
_SMALL_VALUE: Final = 300
# Where keys have hardly any older messages, reading all is faster than having the server look for the last.
_HARDLY_ANY: Final = 1.1
_LONGEST_TAIL: Final = 5000
_FEW: Final = 1500
_SMALL: Final = 2 * 1024 * 1024
# An operator may remove a single message of a stream by hand, which nothing tells; after this many
# seconds everything is read anew.
_MAX_AGE: Final = 60.0


@define
class _View:
    """What is known below one filter, up to the sequence `upto`."""

    upto: int
    state: tuple[Any, ...]
    read_at: float
    once: bool = False  # while it is read each key comes once
    dead: set[bytes] = field(factory=set)
    whole: bool = True  # nothing was written or removed while it was read
    passing: bool = False  # a delete marker has a TTL of its own: what it hides comes back by itself
    keys: list[str] | None = None
    newest: int = 0  # the last revision that a server pushed
    # Subjects and their keys: decoded as they come, while the server still sends, and put together when
    # they are asked for. A process that lists once never asks.
    _came: list[tuple[Sequence[bytes], Sequence[str | None]]] = field(factory=list)
    _subjects: dict[bytes, str | None] = field(factory=dict)
    _foreign: bool = False  # something came that may be no key of a plugin

    @property
    def subjects(self) -> dict[bytes, str | None]:
        """Every subject, those of deleted keys included; None where it is no key."""
        for tails, keys in self._came:
            self._subjects.update(zip(tails, keys, strict=True))
        self._came.clear()
        return self._subjects

    def take(self, batch: Batch) -> None:
        """Take many messages into account."""
        self.keys = None
        if batch.reply:  # known of most; what is read again then does no harm
            self.newest = max(self.newest, place_of_reply(batch.reply)[0])
        tails = batch.tails
        certain = decode_certain(tails)
        self._foreign = self._foreign or certain is None
        self._came.append((tails, decode_keys(tails) if certain is None else certain))
        if batch.mention(*DEAD_HEADERS):
            for tail, (_, __, block) in zip(tails, batch, strict=True):
                self._judge(tail, block)
        elif self.dead:
            self.dead.difference_update(tails)

    def apply(self, tail: bytes, block: bytes | None) -> None:
        """Take one message into account."""
        self.keys = None
        (self.subjects[tail],) = decode_keys((tail,))
        self._judge(tail, block)

    def _judge(self, tail: bytes, block: bytes | None) -> None:
        if is_dead(block):
            self.dead.add(tail)
            if block and header(block, b"KV-Operation") and header(block, b"Nats-TTL"):
                self.passing = True
        else:
            self.dead.discard(tail)

    def replace(self, subjects: dict[bytes, str | None]) -> None:
        """Take other subjects instead; of their messages nothing new is known."""
        self._came.clear()
        self._subjects = subjects
        self.dead.intersection_update(subjects)
        self.keys = None

    def sorted_keys(self) -> list[str]:
        """Return the live keys as text, in the order of their code points."""
        if self.keys is None:
            dead = self.dead
            if self.once and not (dead or self._foreign or self._subjects):
                came = chain.from_iterable(keys for _, keys in self._came)
                self.keys = sorted(cast("Iterator[str]", came))
            else:
                self.keys = sorted(
                    key for tail, key in self.subjects.items() if key is not None and tail not in dead
                )
        return self.keys


class Listing:
    """The live keys of one bucket."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._views: OrderedDict[str, _View] = OrderedDict()
        self._locks: dict[str, asyncio.Lock] = {}
        self._edge_dots = False
        self._info: dict[str, Any] | None = None

    def begin_with(self, info: dict[str, Any]) -> None:
        """Take what the server says of the stream; a first reading needs nothing newer."""
        self._info = info

    async def keys(self, prefix: str, limit: int, after: str | None) -> list[str]:
        """Return up to `limit` live keys that begin with `prefix` and sort after `after`."""
        keys = await self._sorted(await self.filter_of(prefix))
        start = 0 if after is None else bisect.bisect_right(keys, after)
        if not prefix:
            return keys[start : start + limit]
        start = max(start, bisect.bisect_left(keys, prefix))
        stop = bisect.bisect_left(keys, True, lo=start, key=lambda key: not key.startswith(prefix))
        return keys[start : min(stop, start + limit)]

    async def dead(self) -> list[str]:
        """Return the encoded keys whose last message is a delete marker."""
        await self._sorted(">")
        return sorted(tail.decode("utf-8", "replace") for tail in self._views[">"].dead)

    def forget(self) -> None:
        """Read everything anew: what was removed leaves no message."""
        self._views.clear()

    def found_edge_dots(self) -> None:
        """Note that the bucket holds such keys."""
        self._edge_dots = True

    async def filter_of(self, prefix: str) -> str:
        """Return the narrowest filter that every key beginning with `prefix` passes."""
        tokens, certain = filter_tokens(prefix)
        if not certain and (self._edge_dots or await self._has_edge_dots()):
            tokens = tokens.rpartition(".")[0]
        return f"{tokens}.>" if tokens else ">"

    async def _has_edge_dots(self) -> bool:
        reply = await self._api.read(f"{self._api.direct}.{self._api.prefix}{EDGE_DOTS}")
        self._edge_dots = reply.status is None and not is_dead(reply.block)
        return self._edge_dots

    async def _sorted(self, tail: str) -> list[str]:
        lock = self._locks.setdefault(tail, asyncio.Lock())
        async with lock:
            view = await self._view(tail)
            self._views[tail] = view
            self._views.move_to_end(tail)
            while len(self._views) > _VIEWS:
                oldest, _ = self._views.popitem(last=False)
                self._locks.pop(oldest, None)
            return view.sorted_keys()

    async def _view(self, tail: str) -> _View:
        view = self._views.get(tail)
        info, self._info = self._info, None
        if view is not None or info is None:
            info = await self._api.info()
        state, now = _figures(info), asyncio.get_running_loop().time()
        if view is not None and view.state == state and now - view.read_at < _MAX_AGE:
            return view
        if (
            view is None
            or view.passing
            or now - view.read_at >= _MAX_AGE
            or view.state[0] != state[0]
            or not 0 <= int(info["state"]["last_seq"]) - view.upto <= _LONGEST_TAIL
        ):
            view = await self._read(tail, info)
            if view.whole:
                return view
            info = await self._api.info()
            state = _figures(info)
        await self._catch_up(view, tail, int(info["state"]["last_seq"]))
        if tail != ">" or len(view.subjects) != info["state"].get("num_subjects"):
            # Something went without a message: expiry markers do after a second, purged keys at once.
            view.replace(await self._subjects(tail))
        view.state = state
        return view

    async def _catch_up(self, view: _View, tail: str, last: int) -> None:
        def take(found: str, _: bytes, block: bytes) -> None:
            view.apply(found.encode(), block)
            view.upto = max(view.upto, sequence_of(block))

        if last > view.upto:
            await messages_until(self._api, tail, take, lambda: view.upto, last)
            view.upto = max(view.upto, last)

    async def _subjects(self, tail: str) -> dict[bytes, str | None]:
        """Return every subject below a filter with its key, deleted ones included."""
        skip, found, offset = len(self._api.prefix), dict[bytes, str | None](), 0
        while True:
            body = {"subjects_filter": self._api.prefix + tail, "offset": offset}
            info = await self._api.info(body)
            subjects = info["state"].get("subjects") or {}
            tails = [subject[skip:].encode() for subject in subjects]
            found.update(zip(tails, decode_keys(tails), strict=True))
            offset += len(subjects)
            if not subjects or offset >= int(info.get("total") or 0):
                return found

    async def _read(self, tail: str, info: dict[str, Any]) -> _View:
        """Read what each key's last message is."""
        state = info["state"]
        last, messages = int(state["last_seq"]), int(state["messages"])
        keys = int(state.get("num_subjects") or 0)
        average = float(state["bytes"]) / max(messages, 1)
        older_too = tail == ">" and messages <= keys * _HARDLY_ANY
        view = _View(
            upto=last,
            state=_figures(info),
            read_at=asyncio.get_running_loop().time(),
            once=messages == keys or not older_too,
        )
        if tail != ">" and not self._api.replicated:
            few = await self._subjects(tail)
            if len(few) <= _FEW and len(few) * average <= _SMALL:
                view.replace(few)
                # Values ride along, and still it is faster than a consumer.
                tails = [found.decode() for found in few]
                await last_of(self._api, tails, lambda found, _, block: view.apply(found.encode(), block))
                return view
        view.whole = await scan(
            self._api,
            tail,
            last,
            view.take,
            view.sorted_keys,
            expect=messages,
            headers_only=average > _SMALL_VALUE,
            older_too=older_too,
        )
        if self._api.replicated:
            # The server that pushed them may be a moment behind: what it had counts, and no more.
            view.upto, view.whole = view.newest, False
        return view


def _figures(info: dict[str, Any]) -> tuple[Any, ...]:
    """Return what cannot stay the same when a message came or went."""
    state = info["state"]
    return (
        info["created"],
        state["last_seq"],
        state["messages"],
        state["bytes"],
        state["first_seq"],
        state.get("num_subjects"),
    )
