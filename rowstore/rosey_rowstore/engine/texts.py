"""Text as both databases see it: case folding, patterns, and literals inside patterns."""

from __future__ import annotations

import functools
import re
from typing import Final

from rosey_rowstore.protocol import Fault

__all__ = ["LONGEST_PATTERN", "check_pattern", "check_text", "escape_like", "fold", "glob_from_like"]

LONGEST_PATTERN: Final = 16_000
"""UTF-8 bytes of a `$like` pattern: SQLite refuses patterns past 50,000, and quoting may triple one."""

_LAST_CASED: Final = 0x1E943
_GLOB_SPECIAL: Final = re.compile(r"[*?\[]")
_LIKE_SPECIAL: Final = re.compile(r"[\\%_]")

# Letters newer than the Unicode tables of Python 3.11 to 3.13, as Postgres 18 folds them.
_UNICODE_16: Final = {
    0x1C89: "\u1c8a",
    0xA7CB: "\u0264",
    0xA7CC: "\ua7cd",
    0xA7DA: "\ua7db",
    0xA7DC: "\u019b",
    **{0x10D50 + offset: chr(0x10D70 + offset) for offset in range(22)},
}


@functools.cache
def _lower_table() -> dict[int, str]:
    """Return the one-to-one lower case of every letter outside ASCII that has one."""
    table = {
        code: lower
        for code in range(0x80, _LAST_CASED + 1)
        if (lower := chr(code).lower()) != chr(code) and len(lower) == 1
    }
    # The one letter whose full lower case is two characters; its simple mapping is a plain i.
    return {**table, 0x130: "i", **_UNICODE_16, **{code: chr(code + 32) for code in range(65, 91)}}


def fold(text: str) -> str:
    """Return `text` in lower case, letter by letter as Postgres' `lower` does.

    `str.lower` will not do: it makes two characters of one, and a final sigma of another.
    """
    return text.lower() if text.isascii() else text.translate(_lower_table())


def check_text(text: str) -> str:
    """Return `text` when both databases can hold it.

    Raises:
        Fault: `out_of_range` for a NUL character or half a surrogate pair.
    """
    if "\0" in text:
        raise Fault("out_of_range", "The text holds a NUL character.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Fault("out_of_range", "The text holds half a surrogate pair.") from None
    return text


def check_pattern(pattern: str) -> str:
    r"""Return a `$like` pattern when it is whole.

    Raises:
        Fault: `out_of_range` when a lone `\` ends it, `value_too_large` past `LONGEST_PATTERN`.
    """
    check_text(pattern)
    backslashes = len(pattern) - len(pattern.rstrip("\\"))
    if backslashes % 2:
        raise Fault(
            "out_of_range", "The pattern ends in a lone backslash.", hint="Two of them stand for one."
        )
    if len(pattern.encode()) > LONGEST_PATTERN:
        raise Fault("value_too_large", f"The pattern is longer than {LONGEST_PATTERN} bytes.")
    return pattern


def escape_like(text: str) -> str:
    """Return a LIKE pattern that matches exactly `text`."""
    return _LIKE_SPECIAL.sub(r"\\\g<0>", text)


def glob_from_like(pattern: str) -> str:
    """Return the GLOB pattern that means the same.

    SQLite's LIKE folds ASCII letters; its GLOB compares exactly and needs no function in Python.
    """
    found, position = [], 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
            found.append(_GLOB_SPECIAL.sub(r"[\g<0>]", pattern[position]))
        else:
            found.append({"%": "*", "_": "?"}.get(character) or _GLOB_SPECIAL.sub(r"[\g<0>]", character))
        position += 1
    return "".join(found)
