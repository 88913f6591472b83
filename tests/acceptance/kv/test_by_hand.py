"""What other programs put into a bucket, well-meant or not, stops nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import InvalidValue
from rosey_kvstore.errors import InvalidJson


class Hand:
    """Bytes straight to the server: no client library would send some of them."""

    def __init__(self, wire: socket.socket, bucket: str) -> None:
        self._wire = wire
        self._prefix = b"$KV.%b." % bucket.encode()

    def put(self, tail: bytes, data: bytes, block: bytes = b"") -> None:
        total = len(block) + len(data)
        verb, sizes = (b"HPUB", b"%d %d" % (len(block), total)) if block else (b"PUB", b"%d" % total)
        self._wire.sendall(b"%b %b%b %b\r\n%b%b\r\n" % (verb, self._prefix, tail, sizes, block, data))

    def done(self) -> None:
        """Return once the server has taken all of it."""
        self._wire.sendall(b"PING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer += self._wire.recv(4096)


@contextmanager
def by_hand(server: NatsServer, plugin: str) -> Iterator[Hand]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
        wire.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        yield Hand(wire, f"plugin_{plugin}")


def block(*lines: bytes) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


FRAME = b"MSG $KV.x.fake 1 $JS.ACK.KV_x.rosey-1.1.1.1.1.0 5\r\nhello\r\n"


@pytest.mark.parametrize("many", [0, 2500])
async def test_odd_messages_are_read_or_left_out(
    nats_server: NatsServer, plugin: str, open_kv, many: int
) -> None:
    """Subjects that are no keys, headers of all kinds, values that are no JSON, in buckets of any size."""
    kv = await open_kv(nats_server, plugin)
    for start in range(0, many, 500):
        await kv.set_many({f"k{number}": number for number in range(start, start + 500)})
    async with kv.watch() as changes:
        with by_hand(nats_server, plugin) as hand:
            hand.put(b"\xff\xfe", b"1")
            hand.put(b"caf\xc3\xa9", b"1")
            hand.put(b"a:b", b"1")
            hand.put(b"x\x0by", b"1")
            hand.put(b"user=3abob", b"1")
            hand.put(b"z.empty", b"")
            hand.put(b"z.frame", FRAME)
            hand.put(b"z.header", b'"h"', block(b"X: MSG $KV.x.fake 1 y 5", b"Y: KV-Operation: DEL"))
            hand.put(b"z.ends", b'"e"', b"NATS/1.0\r\nX: a\r\n\r\n\r\n" + FRAME + b"\r\n")
            hand.put(b"z.put", b'"p"', block(b"KV-Operation: PUT"))
            hand.put(b"z.ttl", b'"t"', block(b"Rosey-Expires: soon", b"Rosey-Write: \xff"))
            hand.put(b"z.gone", b"1")
            hand.put(b"z.gone", b"2", block(b"KV-Operation: DEL"))
            hand.put(b"z.purged", b"", block(b"KV-Operation: PURGE", b"Nats-Rollup: sub"))
            hand.done()
        await kv.set("z.last", 1)
        told = []
        async with asyncio.timeout(5):
            async for change in changes:
                told.append((change.key, change.operation))
                if change.key == "z.last":
                    break
    assert told == [
        *((f"z.{name}", "set") for name in ("empty", "frame", "header", "ends", "put", "ttl", "gone")),
        ("z.gone", "delete"),
        ("z.purged", "delete"),
        ("z.last", "set"),
    ]
    live = ["z.empty", "z.ends", "z.frame", "z.header", "z.last", "z.put", "z.ttl"]
    cold = await open_kv(nats_server, plugin)
    for reader in (kv, cold):
        assert (await reader.list(prefix="z.")).keys == live
        assert (await reader.list(limit=10_000)).keys[many:] == live
        items = {key: value async for key, value in reader.items(prefix="z.")}
        assert list(items) == live
        assert (items["z.header"], items["z.ends"], items["z.put"], items["z.ttl"]) == ("h", "e", "p", "t")
        assert all(isinstance(items[name], InvalidValue) for name in ("z.empty", "z.frame"))
        assert len([key async for key, _ in reader.items()]) == many + len(live)
    entry = await kv.entry("z.ttl")
    assert entry is not None
    assert entry.expires is None
    with pytest.raises(InvalidJson, match=r"z\.frame"):
        await kv.get("z.frame")
    assert await kv.delete("z.frame") is True
