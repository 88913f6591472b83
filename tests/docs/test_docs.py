"""The pages say what is so: their Python runs, and what is public stands in them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from sybil import Example
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser

from rosey_kvstore import KV, errors
from rosey_rowstore.engine.model import ColumnType, Limits
from rosey_rowstore.plugins import parse_size
from rosey_rowstore.protocol import ERROR_NUMBERS, OPERATIONS
from rosey_storage import Storage, StorageError, Table, error_for_code
from rosey_storage.migrations import Migrations
from rosey_storage.testing import memory_storage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


class Runner:
    """Runs a page's blocks one after another in one namespace, with `await` at the top level."""

    def __init__(self, runner: asyncio.Runner, namespace: dict[str, Any]) -> None:
        self.runner = runner
        self.namespace = namespace

    def __call__(self, example: Example) -> None:
        code = compile(
            "\n" * (example.line + example.parsed.line_offset) + example.parsed,
            str(example.path),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        if code.co_flags & inspect.CO_COROUTINE:
            self.runner.run(self._run(code))
        else:
            exec(code, self.namespace)

    async def _run(self, code: Any) -> None:
        await eval(code, self.namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, monkeypatch, tmp_path, capsys):
    """Every Python block of a page runs, in order, in local mode; `kv` and `storage` are there."""
    monkeypatch.setenv("ROSEY_STORAGE_URL", "sqlite::memory:")
    with asyncio.Runner() as runner:
        storage = memory_storage("quotes")
        runner.run(storage.open())
        try:
            namespace = {"__name__": "docs", "storage": storage, "kv": storage.kv, "data_folder": tmp_path}
            run = Runner(runner, namespace)
            document = Document.parse(str(page), CodeBlockParser(language="python", evaluator=run))
            examples = list(document.examples())
            for example in examples:
                example.evaluate()
        finally:
            runner.run(storage.close())
    assert len(examples) == page.read_text(encoding="utf-8").count("```python")


def test_pages_with_code_have_code():
    """The pages that teach by example do."""
    for name in (
        "README.md",
        "docs/kv.md",
        "docs/rows.md",
        "docs/migrations.md",
        "docs/development.md",
        "docs/settings.md",
    ):
        assert "```python" in (ROOT / name).read_text(encoding="utf-8"), name


def error_row(code: str) -> str:
    kind = error_for_code(code)
    return (
        f"| `{code}` | {ERROR_NUMBERS[code]} | `{kind.__name__}` | {inspect.getdoc(kind).splitlines()[0]} |"
    )


def test_every_error_code_is_explained():
    """docs/errors.md has one row a code, in the order of the numbers, and no other."""
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if re.match(r"\| `[a-z_]+` \| \d", line)]
    assert listed == [error_row(code) for code in ERROR_NUMBERS]


def test_the_error_tree_is_drawn():
    """docs/errors.md draws the tree as the module does."""
    tree = inspect.getdoc(errors).split("\n\n", 1)[1]
    assert tree in (DOCS / "errors.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "page"),
    [(KV, "kv.md"), (Table, "rows.md"), (Migrations, "migrations.md")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_public_method_is_shown(kind, page):
    """What a plugin author can call stands in the page on it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, member in inspect.getmembers(kind, callable):
        if not name.startswith("_"):
            assert re.search(rf"\b{name}\b", text), f"{kind.__name__}.{name} is not in {page}"
            assert inspect.getdoc(member)


def test_storage_is_shown():
    """Every way into the storage stands in one of the pages."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in dir(Storage):
        if not name.startswith("_") and name not in ("open", "close"):
            assert f".{name}" in text, name


def test_every_member_of_the_wire_is_listed():
    """docs/wire.md has a row for every operation, with every member of its request and of its result."""
    rows = dict(
        re.findall(r"^\| `([a-z]+\.[a-z]+)` \| (.*)$", (DOCS / "wire.md").read_text("utf-8"), re.MULTILINE)
    )
    assert rows.keys() == OPERATIONS.keys()
    for tail, operation in OPERATIONS.items():
        for kind in (operation.request, operation.reply):
            for member in attrs.fields(kind):
                assert re.search(rf"\b{member.name}\b", rows[tail]), f"{tail} does not tell {member.name}"


def test_every_type_is_explained():
    """docs/rows.md says of every type how it is given and returned."""
    text = (DOCS / "rows.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE) == [kind.value for kind in ColumnType]


def test_every_limit_is_listed():
    """docs/settings.md names every limit with its default."""
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    block = text[text.index("[plugins.quotes.limits]") :].split("```", 1)[0]
    listed = dict(re.findall(r"^(\w+) = (\"[^\"]+\"|[0-9.]+)", block, re.MULTILINE))
    assert listed.keys() == {field.name for field in attrs.fields(Limits)}
    for name, value in listed.items():
        found = parse_size(value.strip('"'), name) if value.startswith('"') else float(value)
        assert found == getattr(Limits(), name), name


def test_links_lead_somewhere():
    """Every relative link names a file that is there."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_exist():
    """A `make` target that a page names is in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_readme_settings_are_those_of_the_settings_page():
    """The two tables name the same variables."""
    pattern = re.compile(r"^\| `(ROSEY_[A-Z_]+)`", re.MULTILINE)
    readme = pattern.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme == pattern.findall((DOCS / "settings.md").read_text(encoding="utf-8"))
    assert readme


def test_every_error_is_of_the_tree():
    """The root of the tree is what an author catches."""
    assert all(issubclass(error_for_code(code), StorageError) for code in ERROR_NUMBERS)
