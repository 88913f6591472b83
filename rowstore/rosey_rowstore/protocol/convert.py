"""The two converters at the wire: requests strict and uncoerced, replies tolerant."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from rosey_rowstore.protocol import messages as m
from rosey_rowstore.protocol.codes import Fault
from rosey_rowstore.protocol.names import nearest

__all__ = ["structure_reply", "structure_request", "unstructure_reply", "unstructure_request"]

T = TypeVar("T")

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_JSON_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number with a fraction",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class _WrongKindError(Exception):
    """A member is of another JSON kind than the contract says."""

    def __init__(self, expected: str, value: Any) -> None:
        super().__init__(f"takes {expected}, not {_JSON_KINDS.get(type(value), type(value).__name__)}")


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    expected = _KINDS[kind]

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise _WrongKindError(expected, value)
        return value

    return structure


def _object(value: Any, _: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _WrongKindError("an object", value)
    return value


def _number(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise _WrongKindError("a number", value)
    return float(value)


def _one_of(value: Any, kind: Any) -> Any:
    allowed = get_args(kind)
    if type(value) is not str:
        raise _WrongKindError("one of " + ", ".join(allowed), value)
    if value not in allowed:
        near = nearest(value, allowed)
        raise Fault(
            "unknown_operator" if value.startswith("$") else "invalid_request",
            f"{value[:80]!r} is none of what may stand here" + (f"; did you mean {near!r}?" if near else "."),
            hint="One of " + ", ".join(allowed) + ".",
        )
    return value


def _new_converter(*, strict: bool) -> Converter:
    converter = Converter(forbid_extra_keys=strict, detailed_validation=True, omit_if_default=strict)
    for kind in (bool, int, str):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(lambda kind: kind == m.Row, _object)
    converter.register_structure_hook_func(_is_literal, _one_of)
    # Rows are JSON already: copying each of them member by member would double the cost of a reply.
    converter.register_unstructure_hook_func(lambda kind: kind in (m.Row, list[m.Row]), lambda rows: rows)
    converter.register_structure_hook_factory(_is_list, lambda kind: _list_structurer(converter, kind))
    converter.register_structure_hook_factory(_is_mapping, lambda kind: _mapping_structurer(converter, kind))
    converter.register_structure_hook_factory(
        attrs.has, lambda kind: _object_structurer(converter, kind, strict=strict)
    )
    converter.register_unstructure_hook_factory(
        attrs.has, lambda kind: make_dict_unstructure_fn(kind, converter, _cattrs_omit_if_default=strict)
    )
    return converter


def _at(error: Exception, place: int | str, member: Any) -> IterableValidationError:
    """Return an error with the place in its list or object.

    The first ends the walk: one is told, and half a million of them would take seconds of everyone's time.
    """
    note = IterableValidationNote(f"at {place}", place, member)
    error.__notes__ = [*getattr(error, "__notes__", []), note]
    return IterableValidationError("a list or an object", [error], list)


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is list


def _list_structurer(converter: Converter, kind: Any) -> Callable[[Any, Any], Any]:
    (member,) = get_args(kind)
    inner = converter.get_structure_hook(member)

    def structure(value: Any, _: Any) -> list[Any]:
        if type(value) is not list:
            raise _WrongKindError("a list", value)
        found = []
        for index, item in enumerate(value):
            try:
                found.append(inner(item, member))
            except Exception as error:  # noqa: BLE001 - raised again with its index
                raise _at(error, index, member) from None
        return found

    return structure


def _is_mapping(kind: Any) -> bool:
    return get_origin(kind) is dict and kind != m.Row


def _mapping_structurer(converter: Converter, kind: Any) -> Callable[[Any, Any], Any]:
    _, member = get_args(kind)
    inner = converter.get_structure_hook(member)

    def structure(value: Any, _: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _WrongKindError("an object", value)
        found = {}
        for name, item in value.items():
            try:
                found[name] = inner(item, member)
            except Exception as error:  # noqa: BLE001 - raised again with its name
                raise _at(error, name, member) from None
        return found

    return structure


def _object_structurer(converter: Converter, kind: Any, *, strict: bool) -> Callable[[Any, Any], Any]:
    structure_members = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=strict, _cattrs_detailed_validation=True
    )

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _WrongKindError("an object", value)
        if strict and None in value.values():  # null means absent
            value = {name: member for name, member in value.items() if member is not None}
        return structure_members(value, kind)

    return structure


_OPERATION_KINDS: Mapping[str, type] = {
    "insert": m.InsertRequest,
    "upsert": m.UpsertRequest,
    "update": m.UpdateRequest,
    "delete": m.DeleteRequest,
}
_OPERATIONS_HINT = "One of " + ", ".join(_OPERATION_KINDS) + "."
_OPERATION_NAMES = {kind: name for name, kind in _OPERATION_KINDS.items()}


def _is_union_of_writes(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and set(get_args(kind)) == set(_OPERATION_NAMES)


def _structure_write(value: Any, _: Any) -> Any:
    if type(value) is not dict:
        raise _WrongKindError("an object", value)
    name = value.get("op")
    if name is None:
        raise Fault("invalid_request", "The member op is missing.", path="op", hint=_OPERATIONS_HINT)
    if type(name) is not str or name not in _OPERATION_KINDS:
        near = nearest(name, _OPERATION_KINDS) if type(name) is str else None
        raise Fault(
            "invalid_request",
            f"{str(name)[:80]!r} is no operation of a transaction"
            + (f"; did you mean {near!r}?" if near else "."),
            path="op",
            hint=_OPERATIONS_HINT,
        )
    members = {key: member for key, member in value.items() if key != "op"}
    return _requests.structure(members, _OPERATION_KINDS[name])


def _unstructure_write(value: Any) -> dict[str, Any]:
    members: dict[str, Any] = _requests.unstructure(value, type(value))
    return {"op": _OPERATION_NAMES[type(value)], **members}


_requests = _new_converter(strict=True)
_requests.register_structure_hook_func(_is_union_of_writes, _structure_write)
_requests.register_unstructure_hook_func(_is_union_of_writes, _unstructure_write)
_replies = _new_converter(strict=False)


class _Plain(NamedTuple):
    """A member's kind, that of what its list holds, and whether it may be null."""

    kind: type
    held: type | None = None
    nullable: bool = False


_PLAIN: Mapping[Any, _Plain] = {
    str: _Plain(str),
    int: _Plain(int),
    bool: _Plain(bool),
    m.Row: _Plain(dict),
    list[str]: _Plain(list, str),
    list[m.Row]: _Plain(list, dict),
    str | None: _Plain(str, nullable=True),
    int | None: _Plain(int, nullable=True),
    list[str] | None: _Plain(list, str, nullable=True),
}


def _plain_members(kind: type) -> tuple[Mapping[str, _Plain], frozenset[str]]:
    """Return the members of a class, all of which are plain, and the names of those that must be there."""
    fields = attrs.fields(attrs.resolve_types(kind))
    return {field.name: _PLAIN[field.type] for field in fields}, frozenset(
        field.name for field in fields if field.default is attrs.NOTHING
    )


_ALL_PLAIN: Mapping[type, tuple[Mapping[str, _Plain], frozenset[str]]] = {
    kind: _plain_members(kind)
    for kind in (m.InsertRequest, m.SelectRequest, m.UpdateRequest, m.DeleteRequest, m.RowsReply, m.PageReply)
}
"""The requests and replies that pass most often."""


_Held = tuple[tuple[str, type], ...]
_taken: dict[tuple[Any, ...], _Held] = {}
_MOST_TAKEN: Final = 1024


def _structure_plain(body: Mapping[str, Any], kind: type[T]) -> T | None:
    """Return what the converters would make of a body in which nothing is amiss; None leaves it to them.

    They take three times as long, because they can say what is wrong and where. Bodies with the same
    members of the same kinds are looked through once; what their lists hold, each time.
    """
    if kind not in _ALL_PLAIN:
        return None
    key = (kind, *body, *map(type, body.values()))
    held = _taken.get(key)
    if held is None:
        held = _held_by(body, kind)
        if held is None:
            return None
        if len(_taken) >= _MOST_TAKEN:
            _taken.clear()
        _taken[key] = held
    for name, inner in held:
        for item in body[name]:
            if type(item) is not inner:
                return None
    return kind(**body)


def _held_by(body: Mapping[str, Any], kind: type) -> _Held | None:
    """Return the members that are lists, and what they hold; None when something is amiss."""
    members, needed = _ALL_PLAIN[kind]
    held = []
    for name, value in body.items():
        plain = members.get(name)
        if plain is None:
            return None
        if value is None and plain.nullable:
            continue
        if type(value) is not plain.kind:
            return None
        if plain.held is not None:
            held.append((name, plain.held))
    return tuple(held) if needed <= body.keys() else None


def structure_request(body: Any, kind: type[T]) -> T:
    """Return a request from decoded JSON; an unknown member is refused, a null one is absent.

    Raises:
        Fault: `invalid_request`, with the path of the member and the nearest known name.
    """
    if type(body) is not dict:
        raise Fault(
            "invalid_request",
            f"A request is a JSON object, not {_JSON_KINDS.get(type(body), 'that')}.",
            hint='As {"table": "quotes"}.',
        )
    if (request := _structure_plain(body, kind)) is not None:
        return request
    try:
        return _requests.structure(body, kind)
    except Exception as error:
        raise _fault_of(error, "") from error


def structure_reply(body: Any, kind: type[T]) -> T:
    """Return a reply from decoded JSON; members that a newer service added are left aside.

    Raises:
        Fault: `internal`, when a member that this client needs is missing or of another kind.
    """
    if type(body) is dict and (reply := _structure_plain(body, kind)) is not None:
        return reply
    try:
        return _replies.structure(body, kind)
    except Exception as error:
        fault = _fault_of(error, "result")
        raise Fault(
            "internal", f"The service's reply is not as agreed: {fault.message}", path=fault.path
        ) from error


def unstructure_request(request: Any) -> dict[str, Any]:
    """Return a request as JSON kinds, without members that have their default."""
    unstructured: dict[str, Any] = _requests.unstructure(request)
    return unstructured


def unstructure_reply(reply: Any) -> dict[str, Any]:
    """Return a reply as JSON kinds, with every member."""
    unstructured: dict[str, Any] = _replies.unstructure(reply)
    return unstructured


def _fault_of(error: BaseException, path: str) -> Fault:
    """Walk down to the first thing that is wrong, collecting the path on the way."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        inner = error.exceptions[0]
        return _fault_of(inner, _extend(path, inner))
    if isinstance(error, Fault):
        return error.at(path) if path else error
    if isinstance(error, ForbiddenExtraKeysError):
        known = [attribute.name for attribute in attrs.fields(error.cl)]
        name = min(error.extra_fields)
        near = nearest(name, known)
        return Fault(
            "invalid_request",
            f"{name!r} is no member here" + (f"; did you mean {near!r}?" if near else "."),
            path=f"{path}.{name}" if path else name,
            hint=f"The members are {', '.join(known)}." if known else "There are none here.",
        )
    if isinstance(error, KeyError):
        return Fault("invalid_request", f"The member {error.args[0]} is missing.", path=path or None)
    place = f"The member {path} " if path else "The request "
    return Fault("invalid_request", f"{place}{error}.", path=path or None)


def _extend(path: str, error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f"{path}.{note.name}" if path else note.name
        if isinstance(note, IterableValidationNote):
            if isinstance(note.index, str):  # a member of an object
                return f"{path}.{note.index}" if path else note.index
            return f"{path}[{note.index}]"
    return path
