"""The revisions of a folder, read without running them, and the one chain they must form."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from rosey_rowstore.protocol import Fault, nearest

__all__ = ["BASE", "HEAD", "Chain", "Revision", "failed", "read_chain", "read_revision"]

HEAD: Final = "head"
BASE: Final = "base"
_LARGEST_FILE: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LONGEST_MESSAGE: Final = 200
_MARKS: Final = ("revision", "down_revision", "transactional")
# Alembic's ways to make a chain branch; here there is one chain a plugin.
_BRANCHING: Final = ("branch_labels", "depends_on")


@frozen(kw_only=True)
class Revision:
    """One revision, as its file says.

    Attributes:
        revision: Its own name.
        down_revision: The revision before it, None for the first.
        message: The first line of the file's docstring.
        transactional: False when it is marked to run outside of a transaction.
        source: The text of the file.
        sha256: Of the file's bytes.
        file: The file's name, for messages.
    """

    revision: str
    down_revision: str | None
    message: str
    source: str = field(repr=False)
    sha256: str
    file: str
    transactional: bool = True


@frozen
class Chain:
    """Every revision of a plugin from the first to the head."""

    revisions: tuple[Revision, ...] = ()
    by_name: Mapping[str, int] = field(init=False, eq=False, repr=False)

    @by_name.default
    def _index(self) -> dict[str, int]:
        return {revision.revision: index for index, revision in enumerate(self.revisions)}

    def __contains__(self, revision: object) -> bool:
        return revision in self.by_name

    @property
    def head(self) -> str | None:
        """The last revision, None when there is none."""
        return self.revisions[-1].revision if self.revisions else None

    def find(self, target: str) -> Revision:
        """Return a revision.

        Raises:
            Fault: `migration_not_found`, with the nearest name.
        """
        if target not in self:
            raise not_found(target, self.by_name)
        return self.revisions[self.by_name[target]]

    def after(self, current: str | None, target: str = HEAD) -> tuple[Revision, ...]:
        """Return what is to apply from `current` up to `target`, in order; nothing when it is already there.

        Raises:
            Fault: `migration_not_found` for an unknown target, `migration_failed` when the schema stands
                at a revision that the folder does not hold.
        """
        start = 0
        if current is not None:
            if current not in self:
                raise failed(
                    f"The schema stands at the revision {current!r}, which the folder does not hold.",
                    revision=current,
                    hint="Bring its file back, or roll back to a revision that is there.",
                )
            start = self.by_name[current] + 1
        if target == HEAD:
            return self.revisions[start:]
        return self.revisions[start : self.by_name[self.find(target).revision] + 1]


def not_found(
    target: str, known: Mapping[str, Any] | Sequence[str], what: str = "There is no revision"
) -> Fault:
    """Return the fault of a target that is no revision; `what` says it in front of the name."""
    near = nearest(target, known)
    return Fault(
        "migration_not_found",
        f"{what} {target[:80]!r}" + (f"; did you mean {near!r}?" if near else "."),
        path="target",
        hint="`migrations.status` lists them." if target != BASE else "A rollback goes to base.",
    )


def failed(message: str, *, hint: str | None = None, **details: Any) -> Fault:
    """Return the fault of a migration that did not load or did not run, with its `details`."""
    return Fault(
        "migration_failed",
        message,
        hint=hint,
        details={name: value for name, value in details.items() if value is not None},
    )


def read_chain(folder: Path | None) -> Chain:
    """Return the chain of `<folder>/versions/*.py`; without a folder it is empty.

    Raises:
        Fault: `migration_failed`, naming the file or revision, when a file cannot be read or the
            revisions form anything but one chain.
    """
    versions = None if folder is None else folder / "versions"
    if versions is None or not versions.is_dir():
        return Chain()
    found: dict[str, Revision] = {}
    for path in sorted(versions.glob("*.py")):
        if path.name == "__init__.py":
            continue
        revision = read_revision(_content(path), path.name)
        if (other := found.get(revision.revision)) is not None:
            raise failed(
                f"{path.name} and {other.file} have the same revision {revision.revision!r}.",
                revision=revision.revision,
                hint="Give one of them another name, and what follows it another down_revision.",
            )
        found[revision.revision] = revision
    return Chain(_ordered(found))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise failed(f"{path.name} could not be read: {error.strerror}.") from error
    if len(content) > _LARGEST_FILE:
        raise failed(
            f"{path.name} has more than {_LARGEST_FILE} bytes.", hint="Data belong beside a migration."
        )
    return content


def read_revision(content: bytes, file: str) -> Revision:
    """Return the revision that a file's bytes hold; nothing of it is run.

    Raises:
        Fault: `migration_failed`, with the line where there is one.
    """
    try:
        source = content.decode("utf-8-sig")
        tree = ast.parse(source, filename=file)
    except SyntaxError as error:
        raise failed(f"{file} is no Python: {error.msg}.", line=error.lineno) from error
    except (UnicodeDecodeError, ValueError, RecursionError, MemoryError) as error:
        raise failed(f"{file} is no Python: {error}.") from error
    marks = _marks(tree, file)
    name = marks.get("revision")
    if type(name) is not str or not _NAME.fullmatch(name) or name in (HEAD, BASE):
        raise failed(
            f"{file} has no revision of its own." if name is None else f"{file}: {name!r} is no revision.",
            hint='As revision = "0001": 1 to 64 of A-Z, a-z, 0-9, _, . and -, and neither head nor base.',
        )
    before = marks.get("down_revision")
    if isinstance(before, tuple | list):
        raise failed(
            f"{file} joins several revisions.",
            revision=name,
            hint="A plugin has one chain: let each revision follow one other.",
        )
    if "down_revision" not in marks or not (before is None or type(before) is str):
        raise failed(
            f"{file} does not say what it follows.",
            revision=name,
            hint="As down_revision = None, or the revision before.",
        )
    transactional = marks.get("transactional", True)
    if type(transactional) is not bool:
        raise failed(f"{file}: transactional is True or False.", revision=name)
    _check_functions(tree, file, name)
    return Revision(
        revision=name,
        down_revision=before,
        message=_message(tree, file),
        source=source,
        sha256=hashlib.sha256(content).hexdigest(),
        file=file,
        transactional=transactional,
    )


def _marks(tree: ast.Module, file: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for statement in tree.body:
        for name, value in _assigned(statement):
            if name not in (*_MARKS, *_BRANCHING):
                continue
            try:
                found[name] = ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
                raise failed(
                    f"{file}: {name} is not written out.",
                    line=statement.lineno,
                    hint="Revisions are read without being run: a literal, as '0001'.",
                ) from error
            if name in _BRANCHING and found[name] is not None:
                raise failed(
                    f"{file}: {name} makes branches.",
                    line=statement.lineno,
                    hint="A plugin has one chain; leave it None.",
                )
    return found


def _assigned(statement: ast.stmt) -> list[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        return [(target.id, statement.value) for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        return [(statement.target.id, statement.value)]
    return []


def _check_functions(tree: ast.Module, file: str, revision: str) -> None:
    functions = {statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)}
    for name in ("upgrade", "downgrade"):
        if name not in functions:
            raise failed(
                f"{file} has no function {name}().",
                revision=revision,
                hint=f"def {name}() -> None: at the top level; one that cannot be undone raises an error.",
            )


def _message(tree: ast.Module, file: str) -> str:
    text = (ast.get_docstring(tree) or "").strip()
    line = text.splitlines()[0].strip() if text else file.removesuffix(".py")
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 1] + "…"


def _ordered(found: Mapping[str, Revision]) -> tuple[Revision, ...]:
    following: dict[str | None, Revision] = {}
    for revision in found.values():
        before = revision.down_revision
        if before is not None and before not in found:
            near = nearest(before, found)
            raise failed(
                f"{revision.file} follows {before!r}, which is not there"
                + (f"; did you mean {near!r}?" if near else "."),
                revision=revision.revision,
            )
        if (other := following.get(before)) is not None:
            place = f"follow {before!r}" if before is not None else "are the first"
            raise failed(
                f"{other.file} and {revision.file} both {place}: there would be two heads.",
                revision=revision.revision,
                hint="Let one follow the other.",
            )
        following[before] = revision
    ordered = []
    current: str | None = None
    while (step := following.get(current)) is not None:
        ordered.append(step)
        current = step.revision
    if len(ordered) != len(found):
        lost = sorted(set(found) - {revision.revision for revision in ordered})
        raise failed(f"The revisions {', '.join(lost)} follow one another in a circle.", revision=lost[0])
    return tuple(ordered)
