"""A bucket on several servers: what its leader has, for reads that may not be a moment behind.

A direct get is answered by any server that holds the bucket, and one that has not applied the last writes
yet answers without them: a value that was set a moment ago is missing. So a process remembers what it wrote
itself, and asks the leader where an answer is older; and whatever is compared and set, or kept for later
(the list of keys), is the leader's. On one server nothing of this is needed, and nothing is done.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from rosey_kvstore.connection.headers import HEADER_LINE
from rosey_kvstore.errors import InternalError
from rosey_kvstore.jetstream.api import Api
from rosey_kvstore.jetstream.faults import fault_of
from rosey_kvstore.jetstream.messages import sequence_of

__all__ = ["OwnWrites", "last_at_leader", "next_at_leader"]

_NO_MESSAGE: Final = 10037
_REMEMBERED: Final = 2048


class OwnWrites:
    """The revisions that this process wrote, the last of each key; the oldest are forgotten."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._revisions: dict[str, int] = {}

    def note(self, tail: str, revision: int) -> None:
        """Remember that a key has this revision, or a newer one."""
        if self._api.replicated:
            self._revisions.pop(tail, None)
            self._revisions[tail] = revision
            if len(self._revisions) > _REMEMBERED:
                del self._revisions[next(iter(self._revisions))]

    def is_older(self, tail: str, revision: int) -> bool:
        """Say whether an answer, 0 for none, is older than what this process wrote."""
        return revision < self._revisions.get(tail, 0)

    async def newer(self, tail: str) -> tuple[bytes, bytes] | None:
        """Return the key's last message as the leader has it, after an answer that was older."""
        found = await last_at_leader(self._api, tail)
        if self.is_older(tail, 0 if found is None else sequence_of(found[1])):
            del self._revisions[tail]  # it expired, or an operator removed it
        return found


async def last_at_leader(api: Api, tail: str) -> tuple[bytes, bytes] | None:
    """Return data and header block of a key's last message, a marker included."""
    return await _message(api, {"last_by_subj": api.prefix + tail})


async def next_at_leader(api: Api, tail: str, start: int) -> bool:
    """Say whether the leader has a message that passes the filter `tail`, from sequence `start` on."""
    return await _message(api, {"next_by_subj": api.prefix + tail, "seq": start}) is not None


async def _message(api: Api, wanted: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    """Return data and header block, with the lines that a direct get adds."""
    reply = await api.read(f"$JS.API.STREAM.MSG.GET.{api.stream}", json.dumps(wanted).encode())
    answer = json.loads(reply.data)
    if failure := answer.get("error"):
        if failure.get("err_code") == _NO_MESSAGE:
            return None
        raise fault_of(failure)
    try:
        message = answer["message"]
        head = base64.b64decode(message.get("hdrs") or "").removesuffix(b"\r\n") or HEADER_LINE
        place = (
            f"Nats-Stream: {api.stream}\r\nNats-Subject: {message['subject']}\r\n"
            f"Nats-Sequence: {message['seq']}\r\nNats-Time-Stamp: {message['time']}\r\n\r\n"
        )
        return base64.b64decode(message.get("data") or ""), head + place.encode()
    except (KeyError, ValueError) as error:
        raise InternalError("JetStream's answer cannot be read.") from error
