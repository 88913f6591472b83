"""The service's settings: read once, checked wholly, nothing guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rosey_rowstore.protocol import Fault
from rosey_rowstore.settings import ServiceSettings

DATABASE = {"ROSEY_STORAGE_DATABASE": "postgresql://u:secret@h/d"}


def test_defaults() -> None:
    """A database is all that must be given; an empty variable counts as absent."""
    settings = ServiceSettings.from_environment(
        {**DATABASE, "ROSEY_STORAGE_URL": "", "ROSEY_STORAGE_DATA": "ignored here", "HOME": "/"}
    )
    assert settings == ServiceSettings(
        servers=("nats://127.0.0.1:4222",), database="postgresql://u:secret@h/d"
    )


def test_every_setting(tmp_path: Path) -> None:
    """Each variable reaches its place."""
    file = tmp_path / "file"
    file.touch()
    settings = ServiceSettings.from_environment(
        {
            "ROSEY_STORAGE_URL": "nats://a:4222, tls://b",
            "ROSEY_STORAGE_CREDENTIALS": str(file),
            "ROSEY_STORAGE_SUBJECT": "bot",
            "ROSEY_STORAGE_TIMEOUT": "2.5",
            "ROSEY_STORAGE_DATABASE": "sqlite:rows",
            "ROSEY_STORAGE_PLUGINS": str(file),
            "ROSEY_STORAGE_HEALTH": "0.0.0.0:8080",
            "ROSEY_STORAGE_READ_CACHE": "64 MiB",
            "ROSEY_ENV": "production",
        }
    )
    assert settings == ServiceSettings(
        servers=("nats://a:4222", "tls://b"),
        database="sqlite:rows",
        credentials=file,
        subject="bot",
        timeout=2.5,
        plugins=file,
        health=("0.0.0.0", 8080),
        read_cache=64 * 1024 * 1024,
        environment="production",
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ROSEY_STORAGE_URLS", "x", "did you mean ROSEY_STORAGE_URL"),
        ("ROSEY_STORAGE_TIMEOOT", "x", "did you mean ROSEY_STORAGE_TIMEOUT"),
        ("ROSEY_STORAGE_URL", "sqlite:", "needs no service"),
        ("ROSEY_STORAGE_URL", "localhost:4222", "nats://"),
        ("ROSEY_STORAGE_URL", "nats://h:99999", "nats://"),
        ("ROSEY_STORAGE_URL", " , ", "No NATS URL"),
        ("ROSEY_STORAGE_SUBJECT", "a.b", "no token"),
        ("ROSEY_STORAGE_SUBJECT", "*", "no token"),
        ("ROSEY_STORAGE_TIMEOUT", "soon", "no time"),
        ("ROSEY_STORAGE_TIMEOUT", "0", "no time"),
        ("ROSEY_STORAGE_TIMEOUT", "nan", "no time"),
        ("ROSEY_STORAGE_TIMEOUT", "inf", "no time"),
        ("ROSEY_STORAGE_DATABASE", "mysql://h/d", "cannot be read"),
        ("ROSEY_STORAGE_DATABASE", "sqlite:", "cannot be read"),
        ("ROSEY_STORAGE_DATABASE", "", "no database"),
        ("ROSEY_STORAGE_PLUGINS", "/nowhere/plugins.toml", "no file"),
        ("ROSEY_STORAGE_CREDENTIALS", "/nowhere/x.creds", "no file"),
        ("ROSEY_STORAGE_HEALTH", "8080", "HOST:PORT"),
        ("ROSEY_STORAGE_HEALTH", ":8080", "HOST:PORT"),
        ("ROSEY_STORAGE_HEALTH", "h:99999", "HOST:PORT"),
        ("ROSEY_STORAGE_HEALTH", "::1:8080", "HOST:PORT"),
        ("ROSEY_STORAGE_HEALTH", "http://h:1", "HOST:PORT"),
        ("ROSEY_STORAGE_READ_CACHE", "much", "no size"),
        ("ROSEY_STORAGE_READ_CACHE", "-1", "no size"),
        ("ROSEY_STORAGE_READ_CACHE", "32 MB", "no size"),
        ("ROSEY_STORAGE_READ_CACHE", "1.5", "no size"),
        ("ROSEY_ENV", "prod", "no environment"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str, words: str) -> None:
    """The variable is the place, and the remedy is told."""
    with pytest.raises(Fault) as caught:
        ServiceSettings.from_environment({**DATABASE, name: value})
    fault = caught.value
    assert (fault.code, fault.path) == ("invalid_request", name)
    assert words in f"{fault.message} {fault.hint}"


def test_a_password_is_not_repeated() -> None:
    """An error about a URL shows nothing of it."""
    with pytest.raises(Fault) as caught:
        ServiceSettings.from_environment({**DATABASE, "ROSEY_STORAGE_URL": "http://u:hunter2@h"})
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:8080", ("::1", 8080)), ("localhost:80", ("localhost", 80))],
)
def test_addresses_of_probes(text: str, address: tuple[str, int]) -> None:
    """Host and port, with brackets around IPv6."""
    assert ServiceSettings.from_environment({**DATABASE, "ROSEY_STORAGE_HEALTH": text}).health == address


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("1048576", 1 << 20), ("1MiB", 1 << 20), (" 0 ", 0)])
def test_sizes(text: str, size: int) -> None:
    """Bytes, or a number with its unit; 0 is none."""
    found = ServiceSettings.from_environment({**DATABASE, "ROSEY_STORAGE_READ_CACHE": text})
    assert found.read_cache == size


def test_a_file_of_settings(tmp_path: Path) -> None:
    """What `apply` writes is read as it stands; the environment stands in front of it."""
    file = tmp_path / "service.env"
    file.write_text(
        "# A comment.\n\nROSEY_STORAGE_DATABASE=postgresql://u:a=b#c@h/d\nROSEY_STORAGE_SUBJECT=file\n"
    )
    settings = ServiceSettings.from_environment(
        {"ROSEY_STORAGE_SETTINGS": str(file), "ROSEY_STORAGE_SUBJECT": "given"}
    )
    assert (settings.database, settings.subject) == ("postgresql://u:a=b#c@h/d", "given")


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("ROSEY_STORAGE_DATABSE=a", "ROSEY_STORAGE_DATABSE", "did you mean ROSEY_STORAGE_DATABASE"),
        ("ROSEY_STORAGE_URL=nats://a\npostgresql://u:secret@h/d", "ROSEY_STORAGE_SETTINGS", "Line 2"),
    ],
)
def test_a_file_of_settings_that_is_wrong(tmp_path: Path, text: str, path: str, message: str) -> None:
    """The line is told by its number: a password may stand in it."""
    file = tmp_path / "service.env"
    file.write_text(text)
    with pytest.raises(Fault, match=message) as caught:
        ServiceSettings.from_environment({"ROSEY_STORAGE_SETTINGS": str(file)})
    assert caught.value.path == path
    assert "secret" not in caught.value.message


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    """Half of the two would be refused by every server, and with no word of why."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Fault, match="needs its key") as caught:
        ServiceSettings.from_environment({**DATABASE, "ROSEY_STORAGE_TLS_CERT": str(file)})
    assert caught.value.path == "ROSEY_STORAGE_TLS_CERT"
