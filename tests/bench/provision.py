"""Provisioning many plugins: the first `apply`, one that has nothing to do, one plugin more, all in use."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rosey_deploy.stack.postgres import PostgresServer
from rosey_kvstore.connection import Connection
from rosey_rowstore.plugins import Plugin
from rosey_storage import Column
from support.secure import Installation
from support.servers import Embedded


async def measure(count: int, folder: Path) -> None:
    """Print one line a figure."""
    postgres = PostgresServer(folder / "postgres")
    postgres.start()
    installation = Installation(folder / "secure", lambda: postgres.dsn, Embedded())
    try:
        installation.start()
        for number in range(count):
            name = f"bench{number:03}"
            installation.plugins[name] = Plugin(name=name, rows=True)
        began = time.perf_counter()
        outcome = await installation.apply()
        assert not outcome.failures, outcome.failures
        print(f"apply of {count} plugins with keys and rows   {time.perf_counter() - began:8.2f} s")

        began = time.perf_counter()
        outcome = await installation.apply()
        assert not outcome.changes, outcome.changes
        print(f"apply again, nothing changed               {time.perf_counter() - began:8.2f} s")

        await asyncio.to_thread(installation.serve)
        lost = 0
        others = []
        for number in range(20):
            name = f"bench{number:03}"
            other = await Connection.open([installation.nats.url], credentials=installation.credentials(name))

            def on_lost() -> None:
                nonlocal lost
                lost += 1

            other.on_lost(on_lost)
            others.append(other)
        began = time.perf_counter()
        # As an operator does it: the whole file is settled, all the others are looked at as well.
        installation.plugins["onemore"] = Plugin(name="onemore", rows=True)
        installation._write()
        outcome = await installation.apply()
        applied = time.perf_counter() - began
        assert {change.owner for change in outcome.changes} == {"onemore"}
        async with installation.storage("onemore") as storage:
            await storage.kv.set("a", 1)
            keys = time.perf_counter() - began
            await storage.table("t").define([Column("n", "integer")])
            await storage.table("t").insert({"n": 1})
        print(f"one more: applied beside {count} others        {applied:8.2f} s")
        print(f"          first key set                    {keys:8.2f} s")
        print(f"          first table defined, row inserted{time.perf_counter() - began:8.2f} s")
        assert lost == 0
        print(f"connections of 20 other plugins lost       {lost:8}")
        for other in others:
            await other.close()
    finally:
        installation.stop()
        postgres.stop()


def main() -> None:
    """Run in a folder that goes away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rosey-bench-") as folder:
        asyncio.run(measure(options.plugins, Path(folder)))


if __name__ == "__main__":
    main()
