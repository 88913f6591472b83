"""`plugins.toml`: what it may say, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugins, parse_size
from rosey_rowstore.protocol import Fault


def load(tmp_path: Path, text: str) -> Plugins:
    path = tmp_path / "plugins.toml"
    path.write_text(text, encoding="utf-8")
    return Plugins.load(path)


def test_without_a_file_every_plugin_has_the_contracts_limits() -> None:
    """Development needs no file."""
    plugins = Plugins.load(None)
    assert plugins.limits_for("quotes") == Limits()
    assert plugins.get("quotes") is None


def test_a_whole_file(tmp_path: Path) -> None:
    """Every member the contract names is read, and defaults hold for the rest."""
    (tmp_path / "karma" / "migrations").mkdir(parents=True)
    plugins = load(
        tmp_path,
        """
        [limits]
        value_size = "32 KiB"
        requests_in_flight = 8
        [plugins.quotes]
        rows = true
        migrations = "elsewhere/versions"
        inspector = true
        [plugins.quotes.limits]
        bucket_size = "1 GiB"
        history = 64
        statement_timeout = 0.5
        [plugins.karma]
        kv = false
        [plugins.other]
        """,
    )
    quotes = plugins.get("quotes")
    assert quotes is not None
    assert (quotes.kv, quotes.rows, quotes.inspector) == (True, True, True)
    assert quotes.migrations == tmp_path / "elsewhere/versions"
    assert quotes.limits == Limits(
        value_size=32 * 1024, requests_in_flight=8, bucket_size=1024**3, history=64, statement_timeout=0.5
    )
    karma, other = plugins.get("karma"), plugins.get("other")
    assert karma is not None
    assert other is not None
    assert karma.kv is False
    assert karma.migrations == tmp_path / "karma/migrations"
    assert other.migrations is None
    assert (other.kv, other.rows, other.inspector) == (True, False, False)
    assert plugins.limits_for("nobody").value_size == 32 * 1024


@pytest.mark.parametrize(
    ("text", "size"),
    [(1, 1), (65536, 65536), ("64 KiB", 65536), ("64KiB", 65536), ("16 MiB", 16 * 1024**2), ("10 B", 10)],
)
def test_sizes(text: object, size: int) -> None:
    """Whole bytes, or text with a unit."""
    assert parse_size(text, "x") == size


@pytest.mark.parametrize(
    "text", [True, 1.5, "64", "64 KB", "64 kib", "-1 KiB", "1.5 MiB", "", "MiB", None, [1]]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    """Nothing is guessed: KB and KiB are not the same."""
    with pytest.raises(Fault) as caught:
        parse_size(text, "limits.value_size")
    assert caught.value.code == "invalid_request"
    assert caught.value.path == "limits.value_size"


@pytest.mark.parametrize(
    ("text", "code", "path", "words"),
    [
        ("[plugin.quotes]", "invalid_request", "plugin", "did you mean 'plugins'"),
        ("[plugins.quotes]\nrow = true", "invalid_request", "plugins.quotes.row", "did you mean 'rows'"),
        ("[limits]\nvalue_sise = 1", "invalid_request", "limits.value_sise", "did you mean 'value_size'"),
        ("[plugins.quotes.limits]\nzzz = 1", "invalid_request", "plugins.quotes.limits.zzz", "value_size"),
        ("[plugins.Quotes]", "invalid_name", "plugins.Quotes", "no plugin name"),
        ("[plugins.quotes]\nrows = 1", "invalid_request", "plugins.quotes.rows", "neither true nor false"),
        ("[plugins.quotes]\nrows = 'true'", "invalid_request", "plugins.quotes.rows", "neither"),
        ("[plugins]\nquotes = true", "invalid_request", "plugins.quotes", "no table"),
        ("plugins = 3", "invalid_request", "plugins", "no table"),
        ("[plugins.quotes]\nlimits = 3", "invalid_request", "plugins.quotes.limits", "no table"),
        ("[plugins.quotes]\nmigrations = 3", "invalid_request", "plugins.quotes.migrations", "no path"),
        ("[limits]\nhistory = 65", "out_of_range", "limits.history", "1 to 64"),
        ("[limits]\nhistory = 0", "out_of_range", "limits.history", "1 to 64"),
        ("[limits]\nhistory = 1.0", "invalid_request", "limits.history", "no whole number"),
        ("[limits]\nvalue_size = 0", "out_of_range", "limits.value_size", "0 is not"),
        ("[limits]\nvalue_size = '64 KB'", "invalid_request", "limits.value_size", "KiB"),
        ("[limits]\nstatement_timeout = nan", "out_of_range", "limits.statement_timeout", "nan"),
        ("[limits]\nstatement_timeout = '5 s'", "invalid_request", "limits.statement_timeout", "no number"),
        ("[limits]\nrequests_per_second = 0", "out_of_range", "limits.requests_per_second", "0 is not"),
        ("[limits]\nvalue_size = '1 GiB'", "invalid_request", "limits", "does not fit a bucket"),
        ("[limits", "invalid_request", None, "no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, text: str, code: str, path: str | None, words: str
) -> None:
    """The error names the file, the place, and the nearest known name."""
    with pytest.raises(Fault) as caught:
        load(tmp_path, text)
    fault = caught.value
    assert (fault.code, fault.path) == (code, path)
    assert words in fault.message + (fault.hint or "")
    assert str(tmp_path / "plugins.toml") in fault.message


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    """Both are errors of the settings, not tracebacks."""
    with pytest.raises(Fault, match="could not be read"):
        Plugins.load(tmp_path / "none.toml")
    with pytest.raises(Fault, match="could not be read"):
        Plugins.load(tmp_path)
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Fault, match="no TOML"):
        Plugins.load(tmp_path / "bad.toml")


def test_a_rate_alone_brings_its_burst(tmp_path: Path) -> None:
    """Who lowers the rate does not keep a burst of 2,000 by accident."""
    limits = load(tmp_path, "[limits]\nrequests_per_second = 10").default_limits
    assert (limits.requests_per_second, limits.burst) == (10.0, 20.0)
    limits = load(tmp_path, "[limits]\nrequests_per_second = 10\nburst = 500").default_limits
    assert limits.burst == 500.0
