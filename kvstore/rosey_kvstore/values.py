"""Values: JSON's kinds and attrs instances in, compact UTF-8 JSON on the bus, nothing coerced."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Never, TypeVar, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import is_any_set, is_sequence
from cattrs.preconf.json import make_converter

from rosey_kvstore.errors import InvalidJson, OutOfRange, TypeMismatch

__all__ = ["decode_value", "dump_value", "structure_value"]

T = TypeVar("T")

# Deeper values could be written and not be read again: the decoder recurses, from a deeper stack perhaps.
MAX_DEPTH: Final = 200

_SCALARS: Final = frozenset((str, int, float, bool, type(None)))


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is no JSON value")


def _encoder() -> Callable[[Any], str]:
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    # encode() builds this anew at each call, which takes longer than the encoding of a small value.
    made = make(None, plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(made(value, 0))


_encode = _encoder()
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"takes {kind.__name__}, not {type(value).__name__}")
        return value

    return structure


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"takes a number, not {type(value).__name__}")
    return float(value)


class _ExactContainers:
    """Lets a JSON list alone become a list, tuple or set, and an object a class: cattrs iterates anything."""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter
        self._resolving: list[Any] = []

    def wants(self, kind: Any) -> bool:
        """Say whether `kind` is such a container whose own hook is not being asked for."""
        return kind not in self._resolving and (
            attrs.has(kind)
            or is_sequence(kind)
            or is_any_set(kind)
            or kind is tuple
            or get_origin(kind) is tuple
        )

    def hook(self, kind: Any) -> Callable[[Any, Any], Any]:
        """Return cattrs's hook behind the check."""
        self._resolving.append(kind)
        try:
            structure = self._converter.get_structure_hook(kind, cache_result=False)
        finally:
            self._resolving.pop()

        expected = dict if attrs.has(kind) else list

        def checked(value: Any, _: Any) -> Any:
            if type(value) is not expected:
                raise TypeError(f"takes {expected.__name__}, not {type(value).__name__}")
            return structure(value, kind)

        return checked


# Exact types for JSON's own kinds: cattrs would make True of "false". Datetimes, UUIDs and enums, which
# JSON has not, go as text through cattrs's own hooks.
_converter = make_converter()
for _kind in (bool, int, str):
    _converter.register_structure_hook(_kind, _exactly(_kind))
_converter.register_structure_hook(float, _number)
_containers = _ExactContainers(_converter)
_converter.register_structure_hook_factory(_containers.wants, _containers.hook)


def dump_value(value: Any) -> bytes:
    """Return a value as it is stored.

    Raises:
        TypeMismatch: Something in it is of no JSON kind, NaN and Infinity included, or an object key is
            no text; `path` says where.
        OutOfRange: A number has too many digits.
    """
    if type(value) not in _SCALARS and not _is_flat(value) and _holds_foreign(value, "value", 0):
        value = _unstructured(value)
    try:
        return _encode(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise TypeMismatch("A text holds a lone surrogate, which is no Unicode.", path="value") from error
    except ValueError as error:
        if "digit" in str(error):
            raise OutOfRange("A number has more than 4,300 digits.", path="value") from error
        raise TypeMismatch("NaN and Infinity are no JSON values.", path="value") from error
    except TypeError as error:
        raise TypeMismatch(f"The value cannot be stored as JSON: {error}.", path="value") from error


def _is_flat(value: Any) -> bool:
    """Say whether it is an object of scalars, as most values are."""
    if type(value) is not dict:
        return False
    for key, member in value.items():  # noqa: SIM110 - all() takes twice as long, and this runs at each set
        if type(key) is not str or type(member) not in _SCALARS:
            return False
    return True


def _holds_foreign(value: Any, path: str, depth: int) -> bool:
    """Say whether attrs instances are inside; raise for what could not be stored faithfully."""
    if depth > MAX_DEPTH:
        raise TypeMismatch(f"The value nests deeper than {MAX_DEPTH} levels, or holds itself.", path="value")
    if isinstance(value, dict):
        _check_members(value, path)
        inner = [(f"{path}.{key}", member) for key, member in value.items() if type(member) not in _SCALARS]
    elif isinstance(value, list | tuple):
        inner = [(f"{path}[{at}]", member) for at, member in enumerate(value) if type(member) not in _SCALARS]
    elif attrs.has(type(value)):
        return True
    elif isinstance(value, str | int | float):
        return False  # a subclass, an IntEnum for one: JSON writes what it stands for
    else:
        raise TypeMismatch(
            f"{type(value).__name__} is no JSON kind.",
            path=path,
            hint="Text, numbers, true and false, null, lists, objects with text keys, attrs instances.",
        )
    # A list, not any(): what stands behind an attrs instance is to be looked at as well.
    return True in [_holds_foreign(member, where, depth + 1) for where, member in inner]


def _check_members(value: dict[Any, Any], path: str) -> None:
    for key in value:
        if not isinstance(key, str):
            raise TypeMismatch(
                f"An object key is text, not {type(key).__name__}.",
                path=path,
                hint=f"Store it as {str(key)!r}: JSON has no other keys.",
            )


def _unstructured(value: Any) -> Any:
    try:
        plain = _converter.unstructure(value)
    except RecursionError as error:
        raise TypeMismatch("The value holds itself.", path="value") from error
    except Exception as error:  # a hook of the author's class may raise anything
        raise TypeMismatch(f"The value cannot be taken apart: {error}.", path="value") from error
    if type(plain) not in _SCALARS and _holds_foreign(plain, "value", 0):
        raise TypeMismatch("An attrs instance stands where cattrs does not look for one.", path="value")
    return plain


def decode_value(data: bytes, key: str) -> Any:
    """Return the value that bytes hold.

    Raises:
        InvalidJson: They hold no JSON; someone put them by hand.
    """
    try:
        return _decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidJson(
            f"The value of {key!r} is no JSON: {reason}.",
            hint="It was put by another program; set or delete it.",
        ) from error


def structure_value(value: Any, kind: type[T], key: str) -> T:
    """Return a decoded value as an instance of `kind`, by cattrs, without coercion.

    Raises:
        TypeMismatch: The value does not fit; the message names the member.
    """
    try:
        return _converter.structure(value, kind)
    except Exception as error:
        first = transform_error(error, path="value")[0]
        raise TypeMismatch(f"The value of {key!r} is no {_name(kind)}: {first}.") from error


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)
