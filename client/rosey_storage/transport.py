"""The seam between the client and where storage is: bytes in, bytes out, and the backend of KV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rosey_kvstore.backend import Backend
from rosey_kvstore.errors import Unavailable

__all__ = ["Away", "NotDelivered", "Transport"]


class NotDelivered(Unavailable):
    """The row service never saw the request, so sending it again cannot do it twice."""


class Transport(Protocol):
    """One plugin's way to its storage. What it raises is of the one error tree.

    `request` raises `NotDelivered` when the row service surely never saw the request: then even a write
    may be sent again. Every other error leaves open whether it was seen.
    """

    @property
    def backend(self) -> Backend:
        """Where the plugin's keys are kept; not opened yet."""

    async def open(self) -> None:
        """Reach what must be there; `Unavailable` when it is not."""

    async def close(self) -> None:
        """Let go of what `open` took, the backend included; also after an `open` that failed."""

    async def request(
        self, tail: str, payload: bytes, headers: Mapping[str, str], *, timeout: float
    ) -> bytes:
        """Return the reply to the operation `tail`, in its envelope, within `timeout` seconds."""


class Away:
    """The transport of a storage that is not open: every request says so."""

    def __init__(self, state: str) -> None:
        self._state = state

    @property
    def backend(self) -> Backend:
        """There is none."""
        raise Unavailable(f"The storage is {self._state}.")

    async def open(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def request(
        self,
        tail: str,  # noqa: ARG002 - the seam's arguments
        payload: bytes,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
        *,
        timeout: float,  # noqa: ARG002
    ) -> bytes:
        """Refuse."""
        raise Unavailable(
            f"The storage is {self._state}.", hint='As `async with Storage.connect("quotes") as storage:`.'
        )
