"""Load from one process: `python load.py CASE CALLERS SECONDS` prints one JSON line of figures.

It reads ROSEY_STORAGE_URL, and BENCH_HTTP for the cases of the HTTP service. Closed-loop cases keep CALLERS
requests in flight; `mixed` and `quiet` send at a fixed rate whatever comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import uvloop

from rosey_storage import Column, Index, Storage, StorageError

ROWS = 20_000
AUTHORS = 100
NUMBERS = itertools.count()
LINE = "Time is an illusion. Lunchtime doubly so. " * 2
Call = Callable[[], Awaitable[object]]


def author(number: int) -> str:
    """Return one of the authors of the seeded rows."""
    return f"author{number % AUTHORS:03}"


def figures(latencies: list[float], seconds: float) -> dict[str, float]:
    """Return rate per second and latencies in milliseconds."""
    ordered = sorted(latencies)
    at = lambda part: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 3)  # noqa: E731
    return {
        "count": len(ordered),
        "rate": round(len(ordered) / seconds, 1),
        "p50": at(0.5),
        "p95": at(0.95),
        "p99": at(0.99),
    }


async def closed_loop(call: Call, callers: int, seconds: float) -> dict[str, float]:
    """Keep `callers` calls in flight; the first tenth is warm-up and not counted."""
    latencies: list[float] = []
    start = time.perf_counter() + seconds / 10
    end = start + seconds

    async def caller() -> None:
        while (before := time.perf_counter()) < end:
            await call()
            if before >= start:
                latencies.append(time.perf_counter() - before)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return figures(latencies, seconds)


async def open_loop(calls: list[Call], rate: float, seconds: float) -> dict[str, Any]:
    """Start `rate` calls a second, whether the earlier ones are back or not; latency counts from the plan."""
    latencies: list[float] = []
    errors: dict[str, int] = {}
    # What this process has imported is not looked through again and again: a pause of the load's own
    # garbage collector would count as the service's.
    gc.collect()
    gc.freeze()
    running: set[asyncio.Task[None]] = set()
    start = time.perf_counter()

    async def one(call: Call, due: float) -> None:
        try:
            await call()
        except StorageError as error:
            errors[error.code] = errors.get(error.code, 0) + 1
        else:
            latencies.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(one(random.choice(calls), due))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    return figures(latencies, time.perf_counter() - start) | {"errors": errors}


def storage_calls(storage: Storage) -> dict[str, Call]:
    """Return the calls through the client."""
    quotes, counters = storage.table("quotes"), storage.table("counters")
    notes = storage.table("notes")
    return {
        "insert": lambda: notes.insert({"text": LINE, "by": author(random.randrange(AUTHORS)), "score": 5}),
        "by_key": lambda: quotes.get(random.randint(1, ROWS)),
        "sorted": lambda: quotes.select(
            {"by": author(random.randrange(AUTHORS))}, order_by=["-score"], limit=100
        ),
        "counter": lambda: counters.update({"id": 1}, {"n": {"$inc": 1}}),
        "spread": lambda: counters.update({"id": random.randint(2, 1000)}, {"n": {"$inc": 1}}),
        # Each with words of its own: what was asked before would be given from the read cache.
        "slow": lambda: quotes.select({"text": {"$icontains": f"no such words {next(NUMBERS)}"}}, limit=10),
    }


class Http:
    """GraphQL over kept-alive connections, with as little of our own cost as asyncio allows."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.host, self.port = host, int(port)
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Send one operation and return its data."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
        writer.write(
            b"POST /graphql HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Accept: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in head:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            reply = json.loads(await reader.readexactly(length))
        else:
            reply = json.loads(await self._chunks(reader))
        self.idle.append((reader, writer))
        if "errors" in reply:
            raise RuntimeError(str(reply["errors"]))
        return dict(reply["data"])

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> bytes:
        found = b""
        while size := int(await reader.readline(), 16):
            found += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return found


FIELDS = "id text by score createdAt updatedAt"


def http_calls(http: Http) -> dict[str, Call]:
    """Return the same calls to the GraphQL service."""
    insert = (
        "mutation($text: String!, $by: String!, $score: BigInt!)"
        "{createNote(input: {note: {text: $text, by: $by, score: $score}}) {note {" + FIELDS + "}}}"
    )
    by_key = "query($id: BigInt!) {quoteById(id: $id) {" + FIELDS + "}}"
    page = (
        "query($by: String!) {allQuotes(condition: {by: $by}, orderBy: [SCORE_DESC, ID_ASC], first: 100)"
        "{nodes {" + FIELDS + "} pageInfo {hasNextPage endCursor}}}"
    )
    return {
        "insert": lambda: http.post(
            insert, {"text": LINE, "by": author(random.randrange(AUTHORS)), "score": "5"}
        ),
        "by_key": lambda: http.post(by_key, {"id": str(random.randint(1, ROWS))}),
        "sorted": lambda: http.post(page, {"by": author(random.randrange(AUTHORS))}),
    }


async def echo(callers: int, seconds: float) -> dict[str, float]:
    """Request and reply through nats-py on both sides; the other side is the `echo` server below."""
    client = await nats.connect(os.environ["ROSEY_STORAGE_URL"])
    payload = b'{"table":"quotes","where":{"id":7},"limit":1}'
    try:
        return await closed_loop(lambda: client.request("bench.echo", payload, timeout=5), callers, seconds)
    finally:
        await client.close()


async def serve_echo() -> None:
    """Answer on `bench.echo` until the process is stopped."""
    client = await nats.connect(os.environ["ROSEY_STORAGE_URL"])
    reply = b"x" * 300

    async def answer(message: Any) -> None:
        await message.respond(reply)

    await client.subscribe("bench.echo", cb=answer)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def beside_noise(storage: Storage, seconds: float) -> dict[str, Any]:
    """Measure one quiet caller, while another plugin keeps 128 slow queries waiting."""
    async with Storage.connect("noisy", timeout=60) as noisy:
        slow = storage_calls(noisy)["slow"]

        async def noise() -> None:
            with contextlib.suppress(StorageError):
                while True:
                    await slow()

        tasks = [asyncio.create_task(noise()) for _ in range(128)]
        await asyncio.sleep(1)
        try:
            return await closed_loop(storage_calls(storage)["by_key"], 1, seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def seed(plugins: list[str]) -> None:
    """Make the tables and fill them."""
    for plugin in plugins:
        async with Storage.connect(plugin, timeout=60) as storage:
            columns = [
                Column("text", "text", required=True),
                Column("by", "string", required=True, max_length=64),
                Column("score", "integer", required=True),
            ]
            for name in ("quotes", "notes"):
                indexes = [Index("by", "score")] if name == "quotes" else []
                await storage.table(name).define(columns, indexes=indexes)
            await storage.table("counters").define([Column("n", "integer", default=0)])
            for start in range(0, ROWS, 1000):
                rows = [
                    {"text": f"{LINE} {number}", "by": author(number), "score": number * 7919 % 1000}
                    for number in range(start, start + 1000)
                ]
                await storage.table("quotes").insert_many(rows)
            await storage.table("counters").insert_many([{"n": 0} for _ in range(1000)])


async def run(case: str, callers: int, seconds: float) -> dict[str, Any]:
    """Run one case."""
    if case == "echo":
        return await echo(callers, seconds)
    if case.startswith("http_"):
        return await closed_loop(
            http_calls(Http(os.environ["BENCH_HTTP"]))[case.removeprefix("http_")], callers, seconds
        )
    async with Storage.connect("bench", timeout=10) as storage:
        calls = storage_calls(storage)
        if case == "mixed":
            mix = [calls["by_key"]] * 6 + [
                calls["insert"],
                calls["spread"],
                calls["sorted"],
                calls["counter"],
            ]
            return await open_loop(mix, callers, seconds)
        if case == "quiet":
            return await beside_noise(storage, seconds)
        return await closed_loop(calls[case], callers, seconds)


async def check_http() -> None:
    """Fail loudly when the GraphQL service does not answer what the calls ask."""
    for name, call in http_calls(Http(os.environ["BENCH_HTTP"])).items():
        reply: Any = await call()
        assert all(reply.values()), f"{name}: {reply}"


def main() -> None:
    """Run what the command line says."""
    case, *rest = sys.argv[1:]
    if case == "seed":
        uvloop.run(seed(rest))
    elif case == "serve_echo":
        uvloop.run(serve_echo())
    elif case == "check_http":
        uvloop.run(check_http())
    else:
        print(json.dumps(uvloop.run(run(case, int(rest[0]), float(rest[1])))))


if __name__ == "__main__":
    main()
