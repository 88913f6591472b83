"""JSON as the contract takes it: UTF-8, no NaN, no member twice, nothing silently changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, Never

from rosey_rowstore.protocol.codes import Fault

__all__ = ["dump_checked_json", "dump_json", "load_json", "load_trusted_json"]


_MOST_DIGITS = sys.get_int_max_str_digits()


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON value")


def _object_without_repeats(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise ValueError(f"the member {name[:80]!r} stands twice in one object")
            seen.add(name)
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant)
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def load_json(payload: bytes) -> Any:
    """Return what `payload` says.

    Raises:
        Fault: `invalid_json`, with the place where reading stopped.
    """
    if _decode_faster is not None and _encode_faster is not None:
        # What msgspec takes it reads as Python's own decoder does. What it refuses, Python's may take (half
        # a surrogate pair, 1e999), or has the words for.
        try:
            found = _decode_faster(payload)
            # It keeps the last of two members and says nothing; then less would be written than was read.
            # What was written another way (with blanks, say) is looked through.
            if _encode_faster(found) == payload or _without_repeats(found, payload):
                return found
        except (ValueError, RecursionError):
            pass
    try:
        return _decoder.decode(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Fault(
            "invalid_json", f"The payload is not UTF-8: {error.reason} at byte {error.start}."
        ) from error
    except json.JSONDecodeError as error:
        raise Fault(
            "invalid_json",
            f"The payload is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
        ) from error
    except RecursionError as error:
        raise Fault("invalid_json", "The payload nests too deeply.") from error
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise Fault("invalid_json", f"A number has more than {_MOST_DIGITS} digits.") from error
        raise Fault("invalid_json", f"The payload is not JSON: {error}.") from error


def _without_repeats(found: Any, payload: bytes) -> bool:
    """Return whether surely no member stands twice.

    Every member has a colon behind its name. When there are no more of them than members were kept, none
    was dropped; a text with such a colon in it costs the other decoder's time and no more.
    """
    if b" :" in payload or b"\n:" in payload or b"\t:" in payload or b"\r:" in payload:
        return False
    return payload.count(b'":') == _members(found)


def _members(value: Any) -> int:
    count = len(value) if type(value) is dict else 0
    inner: Iterable[Any] = value.values() if count else value if type(value) is list else ()
    for member in inner:
        if type(member) is dict or type(member) is list:
            count += _members(member)
    return count


def load_trusted_json(payload: bytes) -> Any:
    """Return what a service of ours says; members that stand twice are not looked for.

    Raises:
        ValueError: `payload` is no JSON in UTF-8.
    """
    return json.loads(payload.decode("utf-8")) if _decode_faster is None else _decode_faster(payload)


def _faster() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]] | tuple[None, None]:
    """Return msgspec's encoder and decoder where it is installed, as with the row service.

    They take a fifth and a half of the time of Python's own.
    """
    try:
        from msgspec.json import Decoder, Encoder  # noqa: PLC0415 - a client does without
    except ImportError:
        return None, None
    return Encoder().encode, Decoder().decode


_encode_faster, _decode_faster = _faster()


def dump_checked_json(value: Any) -> bytes:
    """Return compact UTF-8 JSON of a value that holds no NaN: it was looked through, or a database gave it.

    Raises:
        ValueError: As `dump_json`.
        TypeError: As `dump_json`.
    """
    return dump_json(value) if _encode_faster is None else _encode_faster(value)


def dump_json(value: Any) -> bytes:
    """Return compact UTF-8 JSON.

    Raises:
        ValueError: NaN, Infinity, a lone surrogate or nesting without end stands in `value`.
        TypeError: Something in `value` is of no JSON kind.
    """
    return _encoder.encode(value).encode("utf-8")
