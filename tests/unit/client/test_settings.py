"""The client's settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rosey_storage import InvalidRequest, Settings, StorageError, TypeMismatch


def test_defaults_are_those_of_the_contract():
    """Without a variable or an argument everything has the default that the table of settings gives."""
    settings = Settings.load({})
    assert settings.url == "nats://127.0.0.1:4222"
    assert settings.subject == "storage"
    assert settings.timeout == 5
    assert settings.data == Path(".rosey")
    assert settings.credentials is None
    assert (settings.production, settings.local, settings.local_allowed) == (False, False, True)


def test_environment_is_read():
    """Each variable sets its setting."""
    settings = Settings.load(
        {
            "ROSEY_STORAGE_URL": "tls://a:1, nats://b:2",
            "ROSEY_STORAGE_CREDENTIALS": "/x/plugin.creds",
            "ROSEY_STORAGE_SUBJECT": "staging",
            "ROSEY_STORAGE_TIMEOUT": "0.25",
            "ROSEY_STORAGE_DATA": "/data",
            "ROSEY_STORAGE_PLUGINS": "plugins.toml",
            "ROSEY_STORAGE_ALLOW_LOCAL": "Yes",
            "ROSEY_ENV": "production",
            "HOME": "/elsewhere",
        }
    )
    assert settings == Settings(
        url="tls://a:1, nats://b:2",
        credentials=Path("/x/plugin.creds"),
        subject="staging",
        timeout=0.25,
        data=Path("/data"),
        plugins=Path("plugins.toml"),
        env="production",
        allow_local=True,
    )
    assert settings.servers == ["tls://a:1", "nats://b:2"]
    assert settings.local_allowed


def test_arguments_stand_in_front_of_the_environment():
    """An argument wins over the variable, and None leaves the variable's value."""
    environ = {"ROSEY_STORAGE_URL": "nats://a:1", "ROSEY_STORAGE_TIMEOUT": "9"}
    settings = Settings.load(environ, url="sqlite::memory:", timeout=None)
    assert (settings.url, settings.timeout) == ("sqlite::memory:", 9)


def test_an_empty_variable_counts_as_absent():
    """`ROSEY_STORAGE_CREDENTIALS=` in an env file unsets it."""
    assert Settings.load({"ROSEY_STORAGE_CREDENTIALS": "", "ROSEY_STORAGE_TIMEOUT": " "}) == Settings()


def test_settings_of_the_service_are_known_and_left_aside():
    """One environment may serve the client and the service."""
    assert Settings.load({"ROSEY_STORAGE_DATABASE": "postgresql://x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "near"),
    [("ROSEY_STORAGE_TIMEOUTS", "ROSEY_STORAGE_TIMEOUT"), ("ROSEY_STORAGE_URI", "ROSEY_STORAGE_URL")],
)
def test_a_misspelt_variable_names_the_nearest(name, near):
    """A variable of ours that does not exist is an error, with the one that was meant."""
    with pytest.raises(InvalidRequest, match=f"did you mean '{near}'"):
        Settings.load({name: "1"})


def test_a_misspelt_argument_names_the_nearest():
    """So is an argument."""
    with pytest.raises(InvalidRequest, match="did you mean 'timeout'"):
        Settings.load({}, timeuot=3)


def test_an_argument_of_the_service_says_whose_it_is():
    """`database=` is the row service's."""
    with pytest.raises(InvalidRequest, match="row service"):
        Settings.load({}, database="postgresql://x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "127.0.0.1:4222"),
        ("URL", "http://a:1"),
        ("URL", "nats://"),
        ("URL", "nats://a:99999"),
        ("URL", "nats://a:1,,nats://b:2"),
        ("URL", "nats://a:1,sqlite:"),
        ("URL", "nats://[::1"),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "-1"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
        ("TIMEOUT", "1e9"),
        ("SUBJECT", "a.b"),
        ("SUBJECT", "*"),
        ("ALLOW_LOCAL", "perhaps"),
    ],
)
def test_a_value_that_does_not_parse_is_an_error(name, value):
    """The error names the variable, shows the value and says what is taken."""
    with pytest.raises(InvalidRequest, match=f"ROSEY_STORAGE_{name} is") as caught:
        Settings.load({f"ROSEY_STORAGE_{name}": value})
    assert value in caught.value.message
    assert caught.value.hint


def test_the_environment_is_one_of_two():
    """A typing error in ROSEY_ENV does not make production into development."""
    with pytest.raises(InvalidRequest, match="ROSEY_ENV is 'prod'"):
        Settings.load({"ROSEY_ENV": "prod"})


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": "5"},
        {"timeout": True},
        {"url": 1},
        {"allow_local": "true"},
        {"allow_local": 1},
        {"data": b"x"},
    ],
)
def test_arguments_are_not_coerced(arguments):
    """An argument has the type of its setting."""
    with pytest.raises(TypeMismatch):
        Settings.load({}, **arguments)


def test_a_password_is_never_shown():
    """Neither the settings' text nor an error shows what stands between `//` and `@`."""
    assert "secret" not in repr(Settings.load({}, url="nats://me:secret@a:1,nats://me:secret@b:1"))
    with pytest.raises(StorageError) as caught:
        Settings.load({}, url="nats://me:secret@a:1,http://me:secret@b:1")
    assert "secret" not in str(caught.value)
    assert "***@" in str(caught.value)


def test_production_allows_local_mode_only_when_told():
    """`allow_local` says it; without it production refuses and development allows."""
    assert not Settings.load({"ROSEY_ENV": "production"}).local_allowed
    assert not Settings.load({"ROSEY_STORAGE_ALLOW_LOCAL": "false"}).local_allowed
    assert Settings.load({}, env="production", allow_local=True).local_allowed


def test_the_docs_list_every_setting():
    """docs/settings.md has a row for every variable that the client or the service reads."""
    text = (Path(__file__).parents[3] / "docs" / "settings.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(ROSEY_[A-Z_]+)`", text, flags=re.MULTILINE))
    client = {f"ROSEY_STORAGE_{name.upper()}" for name in Settings.__slots__ if not name.startswith("_")}
    assert listed >= (client - {"ROSEY_STORAGE_ENV"}) | {"ROSEY_ENV", "ROSEY_STORAGE_DATABASE"}
