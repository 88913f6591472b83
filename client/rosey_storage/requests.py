"""What an author passes, checked for its kind and made into the requests of the wire contract.

Only what Python itself would take amiss is checked here, as a text where a list of names is meant; what
rows and filters hold is the service's to judge, so that there is one judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from rosey_kvstore.errors import TypeMismatch
from rosey_rowstore.protocol import DeleteRequest, InsertRequest, UpdateRequest, UpsertRequest

__all__ = [
    "MergeRule",
    "delete_request",
    "given",
    "insert_request",
    "measures_of",
    "members",
    "names",
    "optional_members",
    "optional_names",
    "sequence",
    "update_request",
    "upsert_request",
]

Item = TypeVar("Item")
MergeRule = Literal["$set", "$keep", "$inc", "$max", "$min"]


def insert_request(table: str, rows: Sequence[Mapping[str, Any]], *, returning: bool = True) -> InsertRequest:
    """Return the request that adds `rows`."""
    return InsertRequest(table=table, rows=_rows(rows), returning=returning)


def upsert_request(
    table: str,
    rows: Sequence[Mapping[str, Any]],
    key: Sequence[str],
    merge: Mapping[str, MergeRule] | None,
    *,
    returning: bool = True,
) -> UpsertRequest:
    """Return the request that adds or merges `rows`."""
    return UpsertRequest(
        table=table,
        rows=_rows(rows),
        key=names(key, "key"),
        merge=optional_members(merge, "merge"),
        returning=returning,
    )


def update_request(
    table: str,
    where: Mapping[str, Any],
    changes: Mapping[str, Any],
    max_rows: int | None,
    *,
    all_rows: bool,
    returning: bool,
) -> UpdateRequest:
    """Return the request that changes what matches `where`."""
    return UpdateRequest(
        table=table,
        where=members(where, "where"),
        set=members(changes, "set"),
        max_rows=max_rows,
        all_rows=all_rows,
        returning=returning,
    )


def delete_request(
    table: str, where: Mapping[str, Any], max_rows: int | None, *, all_rows: bool, returning: bool
) -> DeleteRequest:
    """Return the request that removes what matches `where`."""
    return DeleteRequest(
        table=table,
        where=members(where, "where"),
        max_rows=max_rows,
        all_rows=all_rows,
        returning=returning,
    )


def members(value: Any, path: str) -> dict[str, Any]:
    """Return a mapping as a dict.

    Raises:
        TypeMismatch: It is no mapping.
    """
    # To ask for the very kind costs a tenth of asking for the abstract one.
    if type(value) is not dict and not isinstance(value, Mapping):
        raise TypeMismatch(f"{path} takes a mapping, not {_kind(value)}.", path=path)
    return dict(value)


def optional_members(value: Any, path: str) -> dict[str, Any]:
    """Return a mapping as a dict; None is an empty one."""
    return {} if value is None else members(value, path)


def sequence(value: Iterable[Item], path: str, holds: str) -> list[Item]:
    """Return what is listed as a list.

    Raises:
        TypeMismatch: It is a text or a mapping, whose parts Python would take one by one, or no list.
    """
    if type(value) is list:
        return list(value)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeMismatch(f"{path} takes a list of {holds}, not {_kind(value)}.", path=path)
    return list(value)


def names(value: Any, path: str) -> list[str]:
    """Return a list of names as such; a single text is refused, for it would be read letter by letter."""
    found: list[Any] = sequence(value, path, "names")
    for index, name in enumerate(found):
        if not isinstance(name, str):
            raise TypeMismatch(f"A name is text, not {_kind(name)}.", path=f"{path}[{index}]")
    return found


def optional_names(value: Any, path: str) -> list[str] | None:
    """Return a list of names; None stays None."""
    return None if value is None else names(value, path)


def measures_of(measures: Any) -> dict[str, dict[str, str]]:
    """Return the measures of an aggregate as dicts."""
    found = members(measures, "measures")
    return {name: members(measure, f"measures.{name}") for name, measure in found.items()}


def given(*, limit: int | None) -> dict[str, Any]:
    """Return the members that were given; the service has the defaults of the others."""
    return {} if limit is None else {"limit": limit}


def _rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [members(row, f"rows[{index}]") for index, row in enumerate(sequence(rows, "rows", "rows"))]


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
