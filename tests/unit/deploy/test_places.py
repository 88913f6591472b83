"""How an installation is reached: the file that says so, and a database seen from two sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from rosey_deploy.provision.places import Places, ServicePlaces, database_url, moved
from rosey_deploy.provision_options import target_of
from rosey_kvstore.errors import InvalidRequest


def test_what_is_saved_is_loaded(tmp_path: Path):
    """Every member comes back, whatever letters it has; the file is its owner's alone."""
    places = Places(
        url="nats://a,nats://b",
        database='postgresql://u:p"\\w@h/d',
        replicas=3,
        plugins="/ü/plugins.toml",
        service=ServicePlaces(url="nats://nats", database="db:5432"),
    )
    path = places.save(tmp_path)
    assert Places.load(tmp_path) == places
    assert path.stat().st_mode & 0o077 == 0


def test_nothing_is_said_without_a_file(tmp_path: Path):
    """An installation that was not laid out for containers has none."""
    assert Places.load(tmp_path) == Places()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("urls = 'nats://a'", "did you mean url"),
        ("[service]\ndatabse = 'a'", r"service\.databse; did you mean database|no member service\.databse"),
        ("replicas = '3'", "replicas is a number"),
        ("replicas = true", "replicas is a number"),
        ("url = 3", "url is a text"),
        ("service = 3", "service is a table"),
        ("url = ", "is no TOML"),
    ],
)
def test_what_nobody_knows_is_refused(tmp_path: Path, text: str, message: str):
    """A misspelt member is told, with its file and the nearest known one."""
    path = tmp_path / "installation.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidRequest, match=message) as caught:
        Places.load(tmp_path)
    assert str(path) in caught.value.message


def test_a_file_that_others_may_read_is_refused(tmp_path: Path):
    """It holds the admin's password."""
    path = tmp_path / "installation.toml"
    path.write_text("")
    path.chmod(0o644)
    with pytest.raises(InvalidRequest, match="read by others"):
        Places.load(tmp_path)


@pytest.mark.parametrize(
    ("url", "place", "host", "port"),
    [
        ("postgresql://u:p@127.0.0.1:15432/rosey", "postgres:5432", "postgres", "5432"),
        ("postgresql://u:p@/rosey?host=/run/pg", "db", "db", "5432"),
        ("postgresql://u:p@a:1,b:2/rosey?target_session_attrs=read-write", "db:5433", "db", "5433"),
    ],
)
def test_a_database_is_moved(url: str, place: str, host: str, port: str):
    """Host and port are others; login, name and options stay."""
    before, after = conninfo_to_dict(url), conninfo_to_dict(moved(url, place))
    assert (after.pop("host"), after.pop("port")) == (host, port)
    assert after == {name: value for name, value in before.items() if name not in ("host", "port")}


def test_a_folder_of_sqlite_stays_where_it_is():
    """Only Postgres is seen from two sides."""
    assert moved("sqlite:rows", "postgres:5432") == "sqlite:rows"
    assert moved("postgresql://u:p@h/d", None) == "postgresql://u:p@h/d"


def test_a_url_reads_as_a_person_writes_it():
    """Whatever letters a password has."""
    members = {
        "user": "u",
        "password": "p/@:%",
        "host": "db",
        "port": "5432",
        "dbname": "d",
        "sslmode": "require",
    }
    url = database_url(members)
    assert url == "postgresql://u:p%2F%40%3A%25@db:5432/d?sslmode=require"
    assert conninfo_to_dict(url) == members


def test_an_option_stands_in_front_of_the_file(tmp_path: Path):
    """What is given counts; what is not is as the file says, and after it the defaults."""
    plugins = tmp_path / "plugins.toml"
    plugins.write_text("[plugins.quotes]\n")
    Places(url="nats://file", replicas=3, plugins=str(plugins), tls_ca="/ca.pem").save(
        tmp_path / "credentials"
    )
    said = target_of(tmp_path, None, None, None, "storage")
    assert (said.url, said.replicas, said.database) == ("nats://file", 3, None)
    assert said.tls is not None
    assert said.tls.ca == Path("/ca.pem")
    given = target_of(tmp_path, "nats://given", "sqlite:rows", plugins, "storage", replicas=1)
    assert (given.url, given.replicas, given.database) == ("nats://given", 1, "sqlite:rows")
    other = target_of(tmp_path / "other", None, None, plugins, "storage")
    assert (other.url, other.replicas) == ("nats://127.0.0.1:4222", None)
