"""The reference plugin: quotes that a chat rates, preferences of its users, and a guessing game.

Copy it. It keeps in KV what is small and belongs to one key, preferences for good and a round of the game
until its time is over, and in rows what is asked for in more than one way: quotes, votes and players. Its
tables are made and changed by the revisions in `migrations/versions`.
The same code runs on the service, on the dev stack and in local mode; only `ROSEY_STORAGE_URL` differs.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from rosey_rowstore.protocol import ApplyReply
from rosey_storage import ForeignKeyViolation, Storage, UniqueViolation

QUOTATIONS = Path(__file__).with_name("quotations.tsv")
BATCH = 200


@frozen(kw_only=True)
class Preferences:
    """What a user has chosen; a new user has these."""

    theme: Literal["light", "dark"] = "light"
    quotes_per_page: int = 5
    notify: bool = True


@frozen(kw_only=True)
class Round:
    """One round of the game in one channel: who said this?"""

    quote: int
    text: str
    author: str
    choices: list[str]


class QuoteNotFound(Exception):
    """There is no quote with this id."""


class NoQuotes(Exception):
    """There are no quotes yet."""


class AlreadyVoted(Exception):
    """This user has voted on this quote before."""


class QuotesPlugin:
    """What the plugin does, one method a chat command."""

    def __init__(self, storage: Storage) -> None:
        self.kv = storage.kv
        self.migrations = storage.migrations
        self.quotes = storage.table("quotes")
        self.votes = storage.table("votes")
        self.players = storage.table("players")
        self._transaction = storage.transaction

    async def start(self) -> ApplyReply:
        """Bring the tables up to this version of the plugin; return what had to be done.

        The revisions are in `migrations/versions`. Every process may do this at its start: one applies them,
        the others wait, and nothing happens when the tables are as they should be.
        """
        return await self.migrations.apply()

    # Quotes, in rows

    async def import_file(self, path: Path = QUOTATIONS) -> int:
        """Bring a file of quotations in; return how many were new. A second run adds nothing."""
        before = await self.count()
        rows = list(read_quotations(path))
        for first in range(0, len(rows), BATCH):
            await self.quotes.upsert_many(rows[first : first + BATCH], key=["fingerprint"])
        return await self.count() - before

    async def add(self, text: str, author: str, source: str | None = None) -> dict[str, Any]:
        """Add one quote and return it as stored; the same text twice is a `UniqueViolation`."""
        return await self.quotes.insert(quotation(author, source, text))

    async def count(self) -> int:
        """Return how many quotes there are."""
        groups = await self.quotes.aggregate(measures={"n": {"$count": "*"}})
        return int(groups.rows[0]["n"])

    async def any_quote(self) -> dict[str, Any] | None:
        """Return a quote by chance, or None when there are none: one row by key, however many there are."""
        groups = await self.quotes.aggregate(measures={"first": {"$min": "id"}, "last": {"$max": "id"}})
        first, last = groups.rows[0]["first"], groups.rows[0]["last"]
        if first is None:
            return None
        page = await self.quotes.select(
            {"id": {"$gte": random.randint(first, last)}}, order_by=["id"], limit=1
        )
        return page.rows[0] if page.rows else None

    async def vote(self, quote: int, user: str, value: Literal[1, -1] = 1) -> None:
        """Count a vote: the vote and the score are written together, or neither is.

        Raises:
            AlreadyVoted: One vote a user and quote; the score has not moved.
            QuoteNotFound: There is no such quote.
        """
        try:
            async with self._transaction() as tx:
                tx.table("votes").insert({"quote": quote, "user": user, "value": value})
                tx.table("quotes").update({"id": quote}, {"score": {"$inc": value}}, max_rows=1)
        except UniqueViolation as error:
            raise AlreadyVoted(f"{user} has voted on quote {quote} before.") from error
        except ForeignKeyViolation as error:
            raise QuoteNotFound(f"There is no quote {quote}.") from error

    async def leaderboard(self, limit: int = 5) -> list[dict[str, Any]]:
        """Return the quotes with the highest scores."""
        page = await self.quotes.select({"score": {"$gt": 0}}, order_by=["-score", "author"], limit=limit)
        return page.rows

    async def authors(self, limit: int = 5) -> list[dict[str, Any]]:
        """Return the authors by the sum of their scores."""
        groups = await self.quotes.aggregate(
            group_by=["author"],
            measures={"quotes": {"$count": "*"}, "score": {"$sum": "score"}, "best": {"$max": "score"}},
            order_by=["-score", "author"],
            limit=limit,
        )
        return groups.rows

    async def search(self, words: str, user: str) -> list[dict[str, Any]]:
        """Return quotes in which every word stands, as many as the user wants on a page."""
        wanted = (await self.preferences(user)).quotes_per_page
        page = await self.quotes.search(words, columns=["text", "author"], order_by=["-score"], limit=wanted)
        return page.rows

    # Preferences, in KV: one key a user

    async def preferences(self, user: str) -> Preferences:
        """Return what a user has chosen."""
        found = await self.kv.get(f"prefs:{user}", type=Preferences)
        return found or Preferences()

    async def choose(self, user: str, **choices: Any) -> Preferences:
        """Change some of a user's preferences and return them all."""
        chosen = evolve(await self.preferences(user), **choices)
        await self.kv.set(f"prefs:{user}", chosen)
        return chosen

    # The game, in KV: one key a channel, gone when its time is over

    async def ask(self, channel: str, seconds: int = 60) -> Round:
        """Begin a round in a channel; nobody has to end it, its key expires.

        Raises:
            KeyExists: A round is running there.
            NoQuotes: There is nothing to ask for.
        """
        picked = await self.any_quote()
        if picked is None:
            raise NoQuotes("There are no quotes yet; import some first.")
        authors = await self.quotes.aggregate(
            where={"author": {"$ne": picked["author"]}}, group_by=["author"], measures={"n": {"$count": "*"}}
        )
        others = [row["author"] for row in authors]
        choices = [picked["author"], *random.sample(others, k=min(3, len(others)))]
        random.shuffle(choices)
        game = Round(quote=picked["id"], text=picked["text"], author=picked["author"], choices=choices)
        await self.kv.create(f"game:{channel}", game, ttl=seconds)
        return game

    async def guess(self, channel: str, user: str, author: str) -> bool | None:
        """Return whether the guess was right, or None when no round is running.

        Of several right guesses at once one wins: who deletes the live key.
        """
        key = f"game:{channel}"
        game = await self.kv.get(key, type=Round)
        if game is None:
            return None
        right = author.casefold() == game.author.casefold() and await self.kv.delete(key)
        await self.players.upsert(
            {"user": user, "points": int(right), "rounds": 1},
            key=["user"],
            merge={"points": "$inc", "rounds": "$inc"},
        )
        await self.players.update({"user": user}, {"last_seen": {"$now": True}})
        return right

    async def scores(self, limit: int = 5) -> list[dict[str, Any]]:
        """Return the players with the most points."""
        page = await self.players.select(order_by=["-points", "user"], limit=limit)
        return page.rows


def read_quotations(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the quotations of a file: author, source and text with tabs between, `#` before a remark."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split("\t")
        if len(parts) != 3:
            raise ValueError(f"{path}, line {number}: author, source and text with tabs between are wanted.")
        yield quotation(*parts)


def quotation(author: str, source: str | None, text: str) -> dict[str, Any]:
    """Return a quote as a row; its fingerprint is the same however often it is brought in."""
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:32]
    return {
        "author": author,
        "source": source,
        "text": text.replace(" / ", "\n"),
        "fingerprint": fingerprint,
    }
