"""For the tests of plugins: a storage in memory, and a row service that answers as it is told.

async def test_a_quote_is_counted():
async with memory_storage("quotes") as storage:
plugin = QuotesPlugin(storage)
...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from rosey_kvstore.backend import Backend
from rosey_kvstore.errors import StorageError, StorageTimeout
from rosey_kvstore.sqlite import SqliteBackend
from rosey_rowstore.protocol import Fault, encode_fault
from rosey_rowstore.protocol.json import dump_json, load_json
from rosey_storage.local import LocalTransport
from rosey_storage.settings import Settings
from rosey_storage.storage import Storage

__all__ = ["Scripted", "Sent", "memory_storage", "scripted_storage"]


def memory_storage(plugin: str = "tests", **settings: Any) -> Storage:
    """Return a storage of the plugin's own in memory, gone when it closes; the environment plays no part.

    Args:
        plugin: The plugin's name.
        settings: As for `Storage.connect`, without `url`.
    """
    loaded = Settings.load({}, **{**settings, "url": "sqlite::memory:"})
    return Storage(plugin, loaded, LocalTransport(plugin, loaded))


@frozen
class Sent:
    """A request as it was sent: the operation's tail, the body, the headers."""

    tail: str
    body: dict[str, Any]
    headers: Mapping[str, str]


Answer = Mapping[str, Any] | Fault | StorageError | Callable[[Sent], Any]


@frozen
class Scripted:
    """A row service that answers as it is told, in turn; keys are kept in memory.

    Attributes:
        answers: For each request the next of them: a mapping is the result, a `Fault` is replied, a
            `StorageError` is raised as if on the way; a function is given what was sent and returns one of
            these. When they are used up, requests are answered never.
        sent: What was sent, oldest first.
    """

    answers: list[Answer] = field(factory=list)
    sent: list[Sent] = field(factory=list, init=False)
    backend: Backend = field(factory=lambda: SqliteBackend(":memory:"), init=False)

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Let go of the keys."""
        await self.backend.close()

    async def request(
        self, tail: str, payload: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> bytes:
        """Note what is sent and give the next answer."""
        sent = Sent(tail, load_json(payload), dict(headers))
        self.sent.append(sent)
        if not self.answers:
            await asyncio.sleep(timeout)
            raise StorageTimeout(f"No answer on {tail} within {timeout:g} s.")
        answer: Any = self.answers.pop(0)
        if callable(answer):
            answer = answer(sent)
        if isinstance(answer, StorageError):
            raise answer
        if isinstance(answer, Fault):
            return encode_fault(answer)[0]
        return dump_json({"result": answer})


def scripted_storage(*answers: Answer, plugin: str = "tests", **settings: Any) -> tuple[Storage, Scripted]:
    """Return a storage on a scripted row service, and the script."""
    script = Scripted(list(answers))
    return Storage(plugin, Settings.load({}, **settings), script), script
