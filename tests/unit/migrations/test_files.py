"""Revisions read without being run, and the one chain that they must form."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rosey_rowstore.migrations.files import Chain, read_chain, read_revision
from rosey_rowstore.protocol import Fault

BODY = "\n\ndef upgrade():\n    pass\n\n\ndef downgrade():\n    pass\n"


def text_of(revision: str | None, before: str | None, *, marks: str = "", body: str = BODY) -> str:
    named = "" if revision is None else f"revision = {revision!r}\n"
    return f'"""The words of {revision}.\n\nMore.\n"""\n{named}down_revision = {before!r}\n{marks}{body}'


def folder_of(root: Path, *revisions: tuple[str, str | None]) -> Path:
    (root / "versions").mkdir()
    for number, (revision, before) in enumerate(revisions):
        (root / "versions" / f"{number}_{revision}.py").write_text(text_of(revision, before))
    return root


def failure(content: str | bytes) -> Fault:
    with pytest.raises(Fault) as caught:
        read_revision(content if isinstance(content, bytes) else content.encode(), "a.py")
    assert caught.value.code == "migration_failed"
    return caught.value


def test_a_chain_is_in_the_order_of_its_links(tmp_path):
    """Not in the order of the files' names."""
    chain = read_chain(folder_of(tmp_path, ("c", "b"), ("a", None), ("b", "a")))
    assert [revision.revision for revision in chain.revisions] == ["a", "b", "c"]
    assert chain.head == "c"
    assert [step.revision for step in chain.after("a")] == ["b", "c"]
    assert [step.revision for step in chain.after(None, "b")] == ["a", "b"]
    assert chain.after("c", "a") == ()


def test_no_folder_is_an_empty_chain(tmp_path):
    """Nor is one without revisions an error."""
    assert read_chain(None) == read_chain(tmp_path) == read_chain(tmp_path / "none") == Chain()


def test_what_a_file_says_is_read():
    """Its first words are the message, and its bytes make the checksum."""
    content = text_of("a", None, marks="transactional = False\n")
    revision = read_revision(content.encode(), "a.py")
    assert (revision.revision, revision.down_revision) == ("a", None)
    assert revision.message == "The words of a."
    assert revision.transactional is False
    assert revision.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_nothing_of_a_file_is_run(tmp_path):
    """Not even what stands at its top."""
    read_revision((f"open({str(tmp_path / 'made')!r}, 'w')\n" + text_of("a", None)).encode(), "a.py")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def f(:\n", "is no Python"),
        (b"\xff\xfe", "is no Python"),
        (text_of(None, None), "has no revision of its own"),
        (text_of("head", None), "is no revision"),
        (text_of("a b", None), "is no revision"),
        (f"revision = 'a'\n{BODY}", "does not say what it follows"),
        (text_of("a", None, marks="down_revision = ('a', 'b')\n"), "joins several revisions"),
        (text_of("a", None, marks="transactional = 'no'\n"), "transactional is True or False"),
        (text_of("a", None, marks="depends_on = 'x'\n"), "makes branches"),
        (text_of("a", None, marks="revision = str(1)\n"), "is not written out"),
        (text_of("a", None, body="\n\ndef upgrade():\n    pass\n"), "has no function downgrade()"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(content, words):
    """`migration_failed`, with the file in the message."""
    fault = failure(content)
    assert fault.message.startswith("a.py")
    assert words in fault.message


def test_a_syntax_error_has_its_line():
    """The place to look at stands in the details."""
    assert failure("x = 1\ny = (\n").details["line"] == 2


@pytest.mark.parametrize(
    ("revisions", "words"),
    [
        ([("a", None), ("b", "a"), ("c", "a")], "there would be two heads"),
        ([("a", None), ("b", None)], "both are the first"),
        ([("a", None), ("b", "aa")], "did you mean 'a'?"),
        ([("a", None), ("a", None)], "have the same revision"),
        ([("a", "b"), ("b", "a")], "in a circle"),
    ],
)
def test_what_is_no_chain_is_told(tmp_path, revisions, words):
    """Two heads, two beginnings, a missing link, a name twice, a circle."""
    with pytest.raises(Fault) as caught:
        read_chain(folder_of(tmp_path, *revisions))
    assert caught.value.code == "migration_failed"
    assert words in caught.value.message


def test_a_schema_past_the_folder_is_told(tmp_path):
    """Where the schema stands has to be in the folder, before anything is applied."""
    chain = read_chain(folder_of(tmp_path, ("a", None)))
    with pytest.raises(Fault, match="does not hold"):
        chain.after("z")
