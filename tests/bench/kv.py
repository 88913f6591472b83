"""`make bench-kv`: the KV API beside nats-py's own, on one server, alternating, medians.

Every figure of issue 4 stands in the table with its target; the exit status is 1 when one is missed.
Values are the same bytes on both sides; ours go through `Storage`, JSON and
the key encoding included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
from attrs import define, frozen
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue
from rich.console import Console
from rich.table import Table

from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore import KV, BucketLimits
from rosey_kvstore.connection import Connection
from rosey_kvstore.jetstream import JetStreamBackend
from rosey_storage import Storage

Call = Callable[[], Awaitable[Any]]


@frozen
class Line:
    """One row of the table: ratio is ours by theirs, better when small unless `more` is wanted."""

    name: str
    theirs: str
    ours: str
    ratio: float
    target: float | None
    more: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio >= self.target if self.more else self.ratio <= self.target


@define
class Bench:
    """Both ways to one bucket."""

    kv: KV
    theirs: KeyValue
    bucket: str
    connection: Connection
    options: argparse.Namespace
    lines: list[Line]

    async def alone(self, name: str, theirs: Call, ours: Call) -> None:
        """One caller: the median of a call, in alternating rounds."""
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.options.rounds):
            for times, call in zip(found, (theirs, ours), strict=True):
                times.append(statistics.median([await seconds(call) for _ in range(self.options.calls)]))
        a, b = (statistics.median(times) for times in found)
        self.lines.append(Line(f"{name}, alone, p50", f"{a * 1e3:.3f} ms", f"{b * 1e3:.3f} ms", b / a, 0.9))

    async def together(self, name: str, theirs: Call, ours: Call) -> None:
        """64 callers: calls per second."""
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.options.rounds):
            for rates, call in zip(found, (theirs, ours), strict=True):
                rates.append(await rate(call, 64, max(self.options.calls // 16, 10)))
        a, b = (statistics.median(rates) for rates in found)
        self.lines.append(Line(f"{name}, 64 at once", f"{a:,.0f}/s", f"{b:,.0f}/s", b / a, 1.8, more=True))

    async def once(self, name: str, theirs: Call, ours: Call, target: float | None, rounds: int) -> None:
        """A long call: the median of a few."""
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for times, call in zip(found, (theirs, ours), strict=True):
                gc.collect()  # what one leaves behind is not the other's to clean up
                times.append(await seconds(call))
        a, b = (statistics.median(times) for times in found)
        self.lines.append(Line(name, f"{a * 1e3:.1f} ms", f"{b * 1e3:.1f} ms", b / a, target))


async def seconds(call: Call) -> float:
    while True:
        start = time.perf_counter()
        try:
            await call()
        except NoKeysError:
            continue  # nats-py's `keys()` says so now and then of a bucket that is full: measured again
        return time.perf_counter() - start


async def rate(call: Call, callers: int, times: int) -> float:
    async def caller() -> None:
        for _ in range(times):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return callers * times / (time.perf_counter() - start)


async def run(url: str, options: argparse.Namespace) -> list[Line]:
    connection = await Connection.open([url])
    client = await nats.connect(url)
    lines: list[Line] = []
    try:
        async with Storage.connect("small", url=url) as storage:
            await storage.kv.list()  # the bucket is made with the first call
            await calls(await beside(storage.kv, client, "plugin_small", connection, options, lines))
        bench = await opened(connection, client, "plugin_list", options, lines)
        await fill(bench.kv, 10_000)
        await lists(bench, 10_000)
        if not options.quick:
            bench = await opened(connection, client, "plugin_large", options, lines)
            await fill(bench.kv, 100_000)
            await prefixes(bench, 100_000)
    finally:
        await client.close()
        await connection.close()
    return lines


async def opened(
    connection: Connection, client: nats.NATS, bucket: str, options: argparse.Namespace, lines: list[Line]
) -> Bench:
    backend = JetStreamBackend(
        connection, bucket, create=BucketLimits(bucket_size=1 << 30, history=10), timeout=30
    )
    kv = KV(backend, plugin=bucket)
    await kv.list()
    return await beside(kv, client, bucket, connection, options, lines)


async def beside(kv: KV, client: nats.NATS, bucket: str, *rest: Any) -> Bench:
    theirs = await client.jetstream().key_value(bucket)
    return Bench(kv, theirs, bucket, *rest)


async def calls(bench: Bench) -> None:
    value = {"theme": "dark", "text": "x" * 220}
    data = json.dumps(value, separators=(",", ":")).encode()
    # A key that has to be encoded, and on their side the same bytes already encoded.
    await bench.kv.set("user:bob", value)
    theirs_get, ours_get = lambda: bench.theirs.get("user=3Abob"), lambda: bench.kv.get("user:bob")
    theirs_put, ours_set = (
        lambda: bench.theirs.put("user=3Abob", data),
        lambda: bench.kv.set("user:bob", value),
    )
    for theirs, ours in ((theirs_get, ours_get), (theirs_put, ours_set)):  # warm both
        await rate(theirs, 8, 50)
        await rate(ours, 8, 50)
    await bench.alone("get", theirs_get, ours_get)
    await bench.alone("set", theirs_put, ours_set)
    await bench.together("get", theirs_get, ours_get)
    await bench.together("set", theirs_put, ours_set)


async def fill(kv: KV, count: int) -> None:
    for start in range(0, count, 1000):
        await kv.set_many({name(number): {"n": number} for number in range(start, start + 1000)})


def name(number: int) -> str:
    return f"room.{number % 100:03d}.user:{number}"


def fresh(bench: Bench) -> KV:
    """A KV that has not listed yet, as in a process that begins."""
    backend = JetStreamBackend(bench.connection, bench.bucket, timeout=30)
    return KV(backend, plugin="bench")


async def lists(bench: Bench, count: int) -> None:
    async def first() -> None:
        page = await fresh(bench).list(limit=10_000)
        assert len(page.keys) == count

    async def again() -> None:
        page = await bench.kv.list(limit=10_000)
        assert len(page.keys) == count

    async def after_writes() -> None:
        for number in range(10):
            await bench.kv.set(name(number), {"n": -number})
        start = time.perf_counter()
        await again()
        written.append(time.perf_counter() - start)

    written: list[float] = []

    async def items() -> None:
        assert len([pair async for pair in fresh(bench).items()]) == count

    await again()
    await bench.once("10,000 keys, first list of a process", bench.theirs.keys, first, 0.1, 31)
    await bench.once("10,000 keys, nothing changed", bench.theirs.keys, again, 0.1, 7)
    a = statistics.median([await seconds(bench.theirs.keys) for _ in range(5)])
    for _ in range(7):
        await after_writes()
    b = statistics.median(written)
    bench.lines.append(
        Line("10,000 keys, ten written since", f"{a * 1e3:.1f} ms", f"{b * 1e3:.1f} ms", b / a, 0.1)
    )
    await bench.once("10,000 keys and values (theirs: keys)", bench.theirs.keys, items, 1.0, 7)


async def prefixes(bench: Bench, count: int) -> None:
    async def prefix() -> None:
        page = await fresh(bench).list(prefix="room.042.", limit=10_000)
        assert len(page.keys) == count // 100

    async def everything() -> None:
        assert len([key async for key, _ in fresh(bench).items()]) == count

    await bench.once("1 % prefix of 100,000 (theirs: keys)", bench.theirs.keys, prefix, 1 / 50, 5)
    await bench.once("100,000 keys and values (theirs: keys)", bench.theirs.keys, everything, None, 3)


def shown(lines: list[Line], console: Console) -> None:
    table = Table(title="KV beside nats-py, one server, alternating, medians")
    for heading in ("", "nats-py", "rosey_kvstore", "ours / theirs", "target", ""):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for line in lines:
        wanted = "" if line.target is None else f"{'≥' if line.more else '≤'} {line.target:.3g}"
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[line.met]
        table.add_row(line.name, line.theirs, line.ours, f"{line.ratio:.3g}", wanted, verdict)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="leave out the bucket of 100,000 keys")
    parser.add_argument("--uvloop", action="store_true", help="run both clients on uvloop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder) / "nats")
        server.start()
        try:
            if options.uvloop:
                import uvloop

                lines = uvloop.run(run(server.url, options))
            else:
                lines = asyncio.run(run(server.url, options))
        finally:
            server.stop()
    shown(lines, Console(width=120))
    return 1 if any(line.met is False for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
