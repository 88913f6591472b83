"""The file of a new revision."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rosey_rowstore.migrations.files import failed, read_chain, read_revision

__all__ = ["write_revision"]

_LONGEST_SLUG: Final = 40
_TEMPLATE: Final = '''\
"""{message}"""

import sqlalchemy as sa
from alembic import op
{imports}
revision = {revision}
down_revision = {down_revision}


def upgrade() -> None:
{upgrade}


def downgrade() -> None:
{downgrade}
'''
_EMPTY: Final = '    raise NotImplementedError("write this revision")'


def write_revision(folder: Path, message: str, generated: Mapping[str, Any] | None = None) -> Path:
    """Write a revision that follows the head of `<folder>/versions`, and return its path.

    Args:
        folder: The plugin's migrations; made where it is missing.
        message: What the revision does, one line.
        generated: The code of autogeneration: upgrade, downgrade, imports.

    Raises:
        Fault: `migration_failed` when the message is none or the files form no chain.
    """
    line = " ".join(message.split()).replace("\\", "").replace('"', "'").rstrip(".")
    if not line:
        raise failed("The revision has no message.", hint='As "add scores".')
    chain = read_chain(folder)
    revision = _next(chain.head, len(chain.revisions) + 1)
    slug = re.sub(r"[^a-z0-9]+", "_", line.lower()).strip("_")[:_LONGEST_SLUG].strip("_") or "revision"
    text = _TEMPLATE.format(
        message=line[0].upper() + line[1:] + ".",
        imports="".join(f"{name}\n" for name in (generated or {}).get("imports", ())),
        revision=json.dumps(revision),
        down_revision=json.dumps(chain.head) if chain.head else None,
        upgrade=_body(generated, "upgrade"),
        downgrade=_body(generated, "downgrade"),
    )
    path = folder / "versions" / f"{revision}_{slug}.py"
    read_revision(text.encode(), path.name)  # what is written is read back as it will be
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise failed(f"{path.name} could not be written: {error.strerror}.") from error
    return path


def _next(head: str | None, count: int) -> str:
    """Continue the numbers of a chain that has some; another chain gets the count."""
    number = int(head) + 1 if head is not None and head.isdigit() else count
    return f"{number:04d}"


def _body(generated: Mapping[str, Any] | None, name: str) -> str:
    if generated is None:
        return _EMPTY
    # Alembic writes the first line without the indent of the others.
    lines = str(generated[name]).strip().splitlines()
    return "\n".join(line if line.startswith("    ") or not line else f"    {line}" for line in lines)
