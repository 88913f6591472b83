"""The quotes plugin at work, shown in a terminal: `make demo` runs it on the dev stack.

It runs wherever `ROSEY_STORAGE_URL` points to; `ROSEY_STORAGE_URL=sqlite::memory: python demo.py` needs no
server at all.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from plugin import QUOTATIONS, AlreadyVoted, QuotesPlugin
from rich import box
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rosey_storage import Change, Storage, StorageError

USERS = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"]
PLUGINS = Path(__file__).parents[1] / "plugins.toml"
ROUND_SECONDS = 4
FIXED_COLUMNS = 82  # of both tables, without the two that give way
SIDE_BY_SIDE = 110

console = Console(highlight=False)


async def main() -> None:
    """Run every part in turn."""
    random.seed(42)  # the same show each time
    # The row service knows the plugin's folder from its own plugins.toml; local mode from this one.
    async with Storage.connect("quotes", plugins=PLUGINS) as storage:
        plugin = QuotesPlugin(storage)
        await plugin.kv.delete_many(prefix="game:")  # of a run before, where the data was kept
        console.rule("[bold]quotes[/bold], a plugin on Rosey's storage")
        console.print(f"storage: {where(storage)}", style="dim")
        await show_migrations(plugin)
        await show_import(plugin)
        await show_votes(plugin)
        await show_leaderboard(plugin)
        await show_search(plugin)
        await show_game(plugin)
        await show_side_by_side(plugin)


def where(storage: Storage) -> str:
    """Say in words where this storage is."""
    if storage.settings.local:
        return f"local mode, {storage.settings.url}"
    return (
        f"KV in the JetStream bucket plugin_quotes, rows by the row service, both at {storage.settings.url}"
    )


async def show_migrations(plugin: QuotesPlugin) -> None:
    """Bring the tables up to the plugin's version: a history of revisions, in one transaction a part."""
    heading("Migrations", "the plugin's tables, made by Alembic revisions from its own folder")
    started = time.perf_counter()
    done = (await plugin.start()).applied
    took = (time.perf_counter() - started) * 1000
    applied = table("what the schema is made of", "revision", "ms", "what it does")
    status = await plugin.migrations.status()
    for step in status.applied:
        applied.add_row(step.revision, f"{step.seconds * 1000:.1f}", one_line(step.message, 76))
    console.print(applied)
    drift = "; ".join(status.drift) or "none"
    console.print(f"{len(done)} applied in {took:.0f} ms; stands at {status.current}; drift: {drift}.")


async def show_import(plugin: QuotesPlugin) -> None:
    """Bring the file in twice: the second time nothing is new."""
    heading("Quotes imported", "rows, upserted in batches by a fingerprint")
    started = time.perf_counter()
    new = await plugin.import_file()
    took = (time.perf_counter() - started) * 1000
    again = await plugin.import_file()
    total = await plugin.count()
    console.print(
        f"{new} new from {QUOTATIONS.name} in {took:.0f} ms; once more: {again} new. {total} in all."
    )


async def show_votes(plugin: QuotesPlugin) -> None:
    """Vote at once from all sides, and once too often."""
    heading("A chat votes", "one transaction a vote: the vote and the score, or neither")
    page = await plugin.quotes.select(columns=["id"], order_by=["id"], limit=1000)
    ids = [row["id"] for row in page]
    weights = [1 / (1 + place) for place in range(len(ids))]
    random.shuffle(ids)
    votes = {(random.choices(ids, weights)[0], random.choice(USERS)) for _ in range(240)}
    started = time.perf_counter()
    results = await asyncio.gather(
        *(plugin.vote(quote, user) for quote, user in votes), return_exceptions=True
    )
    took = (time.perf_counter() - started) * 1000
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, AlreadyVoted):
            raise result
    quote, user = max(votes)
    try:
        await plugin.vote(quote, user)
    except AlreadyVoted as error:
        refused = f"refused, and the score has not moved: {error}"
    else:
        raise RuntimeError("a second vote was counted")
    console.print(f"{len(votes)} votes at once in {took:.0f} ms; one more {refused}")


async def show_leaderboard(plugin: QuotesPlugin) -> None:
    """Show what the chat likes best, by quote and by author."""
    heading("Leaderboard", "a page by score, and a sum by author")
    best = table("best quotes", "score", "quote", "author")
    for row in await plugin.leaderboard():
        best.add_row(str(row["score"]), one_line(row["text"], 56), row["author"])
    authors = table("best authors", "score", "quotes", "author")
    for row in await plugin.authors():
        authors.add_row(str(row["score"]), str(row["quotes"]), row["author"])
    console.print(best)
    console.print()
    console.print(authors)


async def show_search(plugin: QuotesPlugin) -> None:
    """Search with one user's preferences, which are kept in KV."""
    heading("Search", "rows, with the page size that alice has chosen, from KV")
    chosen = await plugin.choose("alice", theme="dark", quotes_per_page=4)
    await plugin.choose("user:bob", notify=False)
    found = table(f"search: night ({chosen.quotes_per_page} a page)", "quote", "author", "source")
    for row in await plugin.search("night", "alice"):
        found.add_row(one_line(row["text"], 48), row["author"], one_line(row["source"] or "", 28))
    console.print(found)


async def show_game(plugin: QuotesPlugin) -> None:
    """Play a round that is won, and one that nobody answers."""
    heading("Who said it?", f"a game session in KV with a TTL of {ROUND_SECONDS} s")
    game = await plugin.ask("#cinema", seconds=60)
    console.print(one_line(game.text, 90), style="bold")
    wrong = next((name for name in game.choices if name != game.author), "nobody")
    for user, guess in (("carol", wrong), ("bob", game.author)):
        right = await plugin.guess("#cinema", user, guess)
        console.print(f"  {user} guesses {guess}: " + ("[green]right[/green]" if right else "[red]no[/red]"))
    console.print("players: " + ", ".join(f"{p['user']} {p['points']}" for p in await plugin.scores()))
    await show_expiry(plugin)


async def show_expiry(plugin: QuotesPlugin) -> None:
    """Let a round's time run out: nothing of ours deletes it."""
    async with plugin.kv.watch(prefix="game:#lobby") as changes:
        await plugin.ask("#lobby", seconds=ROUND_SECONDS)
        started = time.monotonic()
        countdown = asyncio.create_task(count_time(plugin, started))
        try:
            async with asyncio.timeout(ROUND_SECONDS + 10):
                seen = [change.operation async for change in until_expired(changes)]
        finally:
            countdown.cancel()
            await asyncio.gather(countdown, return_exceptions=True)
    took = time.monotonic() - started
    left = await plugin.guess("#lobby", "carol", "anyone")
    console.print(
        f"A round in #lobby that nobody answered expired on its own after {took:.1f} s;"
        f" the watch saw [bold]{', '.join(seen)}[/bold],"
        f" and a guess finds {'no round' if left is None else 'one'}."
    )


async def until_expired(changes: AsyncIterator[Change]) -> AsyncIterator[Change]:
    """Yield changes up to the first expiry."""
    async for change in changes:
        yield change
        if change.operation == "expire":
            return


async def count_time(plugin: QuotesPlugin, started: float) -> None:
    """Show the seconds while a round is live."""
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        while True:
            state = "gone" if await plugin.kv.entry("game:#lobby") is None else "live"
            live.update(Text(f"  a round in #lobby: {state}, {time.monotonic() - started:.1f} s"))
            await asyncio.sleep(0.1)


async def show_side_by_side(plugin: QuotesPlugin) -> None:
    """Show the bucket and a table next to each other."""
    heading("Side by side", "what the plugin owns, in both stores")
    await plugin.ask("#cinema", seconds=60)
    beside = console.width >= SIDE_BY_SIDE
    room = (console.width - FIXED_COLUMNS) // 2 if beside else 34
    bucket = table("KV: bucket plugin_quotes", "key", "value", "expires")
    async for key, value in plugin.kv.items():
        entry = await plugin.kv.entry(key)
        expires = f"{entry.expires:%H:%M:%S}" if entry and entry.expires else "never"
        bucket.add_row(key, one_line(json.dumps(value, ensure_ascii=False), room), expires)
    rows = table("rows: table quotes", "id", "score", "author", "text")
    for row in await plugin.leaderboard(limit=8):
        rows.add_row(str(row["id"]), str(row["score"]), row["author"], one_line(row["text"], room))
    if beside:
        grid = Table.grid(padding=(0, 4))
        grid.add_row(bucket, rows)
        console.print(grid)
    else:
        console.print(bucket, rows, sep="\n")


def heading(title: str, remark: str) -> None:
    """Begin a part of the show."""
    console.print()
    console.print(Text.assemble((title, "bold cyan"), ("  " + remark, "dim")))


def table(title: str, *columns: str) -> Table:
    """Return an empty table in the show's style."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in columns:
        made.add_column(
            column, no_wrap=True, justify="right" if column in ("score", "quotes", "id", "ms") else "left"
        )
    return made


def one_line(text: str, width: int) -> Text:
    """Return a text on one line, with an ellipsis where it is longer; its brackets are no markup."""
    line = Text(" / ".join(text.splitlines()))
    line.truncate(width, overflow="ellipsis")
    return line


def run() -> int:
    """Run the show; return the exit status."""
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    except (StorageError, OSError, RuntimeError) as error:
        console.print(Panel(Text(str(error)), title="The demo failed", border_style="red"))
        return 1
    console.print()
    return 0


if __name__ == "__main__":
    sys.exit(run())
