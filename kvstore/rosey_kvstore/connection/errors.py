"""What a request can meet on the connection, told apart by what the caller may do next."""

from __future__ import annotations

from rosey_kvstore.errors import Unavailable

__all__ = ["Interrupted", "NoResponders"]


class NoResponders(Unavailable):
    """The server is there and nobody listens on the subject; nothing was done, asking again is safe."""


class Interrupted(Unavailable):
    """The connection broke after the request was sent; what it asked for may have been done."""
