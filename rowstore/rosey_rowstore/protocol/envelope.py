"""Requests and replies as bytes, with the headers that go beside them."""

from __future__ import annotations

import datetime
import decimal
import functools
import uuid
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from rosey_rowstore.protocol.codes import ERROR_NUMBERS, Fault
from rosey_rowstore.protocol.convert import (
    structure_reply,
    structure_request,
    unstructure_reply,
    unstructure_request,
)
from rosey_rowstore.protocol.json import dump_checked_json, dump_json, load_json, load_trusted_json
from rosey_rowstore.protocol.operations import Operation

__all__ = [
    "ERROR_CODE_HEADER",
    "ERROR_HEADER",
    "MESSAGE_ID_HEADER",
    "TIMEOUT_HEADER",
    "TRACE_HEADER",
    "decode_reply",
    "decode_request",
    "encode_fault",
    "encode_reply",
    "encode_request",
    "timeout_from_headers",
]

TIMEOUT_HEADER: Final = "Storage-Timeout"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
TRACE_HEADER: Final = "traceparent"
ERROR_HEADER: Final = "Nats-Service-Error"
ERROR_CODE_HEADER: Final = "Nats-Service-Error-Code"

_LONGEST_TIMEOUT_MS: Final = 24 * 3600 * 1000
_LONGEST_TOLD: Final = {"message": 4000, "path": 1000}
"""Characters of an error that a reply carries: a name of a megabyte in the request is not sent back whole."""

Request = TypeVar("Request")
Reply = TypeVar("Reply")


def decode_request(operation: Operation[Request, Reply], payload: bytes) -> Request:
    """Return the request that `payload` holds; nothing at all is an empty object.

    Raises:
        Fault: `invalid_json` or `invalid_request`.
    """
    return structure_request(load_json(payload) if payload else {}, operation.request)


def encode_request(request: Any) -> bytes:
    """Return a request as bytes; aware datetimes, dates, decimals and UUIDs become their text.

    Raises:
        Fault: `type_mismatch`, naming the place of what is no JSON.
    """
    body = unstructure_request(request)
    return dump_checked_json({name: _plain(member, name) for name, member in body.items()})


def encode_reply(reply: Any) -> bytes:
    """Return a reply in its envelope."""
    return dump_checked_json({"result": unstructure_reply(reply)})


def encode_fault(fault: Fault) -> tuple[bytes, dict[str, str]]:
    """Return a fault in its envelope, and the headers that say it again for NATS tools."""
    error: dict[str, Any] = {"code": fault.code, "message": fault.message}
    for name in ("path", "hint", "retry_after"):
        if getattr(fault, name) is not None:
            error[name] = getattr(fault, name)
    for name, most in _LONGEST_TOLD.items():
        if len(error.get(name, "")) > most:
            error[name] = error[name][: most - 1] + "…"
    if fault.details:
        error["details"] = fault.details
    # What a stranger sent may stand in the message: no line break may reach a header, no surrogate the wire.
    payload = dump_json({"error": _without_surrogates(error)})
    one_line = " ".join(fault.message.split()).encode("ascii", "replace").decode()[:200]
    return payload, {ERROR_HEADER: one_line, ERROR_CODE_HEADER: str(fault.number)}


def decode_reply(operation: Operation[Request, Reply], payload: bytes) -> Reply:
    """Return the reply that `payload` holds.

    Raises:
        Fault: The error that the service replied; `internal` when the reply is not as agreed.
    """
    try:
        body = load_trusted_json(payload)
    except (ValueError, RecursionError) as error:
        raise Fault("internal", f"The service's reply is no JSON: {error}.") from error
    if isinstance(body, dict) and isinstance(refusal := body.get("error"), dict):
        raise _fault_from(refusal)
    if not isinstance(body, dict) or "result" not in body:
        raise Fault("internal", "The service's reply has neither a result nor an error.")
    return structure_reply(body["result"], operation.reply)


def timeout_from_headers(headers: Mapping[str, str] | None, default: float) -> float:
    """Return the seconds that the caller still waits.

    Raises:
        Fault: `invalid_request` when the header is no whole number of milliseconds, 1 or more.
    """
    text = None if headers is None else headers.get(TIMEOUT_HEADER)
    if text is None:
        return default
    return _seconds(text)


@functools.lru_cache(maxsize=1024)
def _seconds(text: str) -> float:
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) > 0):
        raise Fault(
            "invalid_request",
            f"The header {TIMEOUT_HEADER} is {text[:40]!r}.",
            hint="Whole milliseconds, 1 or more.",
        )
    return min(int(text), _LONGEST_TIMEOUT_MS) / 1000


def _fault_from(error: Mapping[str, Any]) -> Fault:
    code = error.get("code")
    known = isinstance(code, str) and code in ERROR_NUMBERS
    message = str(error.get("message", "The service gave no message."))
    retry_after = error.get("retry_after")
    details = error.get("details")
    return Fault(
        str(code) if known else "internal",
        message if known else f"{message} (code {code!r}, unknown to this client)",
        path=_text(error.get("path")),
        hint=_text(error.get("hint")),
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        details=details if isinstance(details, dict) else None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(member) for member in value]
    return value


_WHOLE: Final = frozenset({int, bool, type(None)})


def _plain(value: Any, path: str) -> Any:
    """Return `value` in JSON's kinds, or say where it is not."""
    kind = type(value)
    if kind is str:
        return _checked_text(value, path)
    if kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        # Most members need neither a look of their own nor a path.
        return {
            key if type(key) is str and key.isascii() else _member_name(key, path): member
            if (held := type(member)) in _WHOLE or (held is str and member.isascii())
            else _plain(member, f"{path}.{key}")
            for key, member in value.items()
        }
    if kind is list or kind is tuple:
        return [_plain(member, f"{path}[{index}]") for index, member in enumerate(value)]
    if kind is float:
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN is not itself
            raise Fault("type_mismatch", f"{value} is no JSON value.", path=path)
        return value
    return _as_text(value, path)


def _checked_text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Fault("out_of_range", "The text holds half a surrogate pair.", path=path) from None
    return value


def _member_name(key: Any, path: str) -> str:
    if type(key) is not str:
        raise Fault("type_mismatch", f"The member name {key!r} is no text.", path=path)
    return _checked_text(key, path)


def _as_text(value: Any, path: str) -> str:
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise Fault(
                "type_mismatch",
                "The datetime has no time zone.",
                path=path,
                hint="As datetime.now(timezone.utc).",
            )
        return value.isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    raise Fault(
        "type_mismatch",
        f"A {type(value).__name__} is no JSON value.",
        path=path,
        hint="Text, numbers, true, false, None, lists and dicts; also datetime, date, Decimal and UUID.",
    )
