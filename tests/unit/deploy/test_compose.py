"""What `init --compose` writes: enough for the compose files, closed to others, kept when it is run again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from attrs import frozen

from rosey_deploy.cli import run

ROOT = Path(__file__).parents[3]
SINGLE, CLUSTER = ROOT / "deploy" / "compose.yaml", ROOT / "deploy" / "compose.cluster.yaml"


@frozen
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Init = Callable[..., Done]


@pytest.fixture
def init(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Init:
    """`rosey-storage init` in the folder."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("ROSEY_")]:
        monkeypatch.delenv(name)

    def done(*options: str) -> Done:
        status = run(["init", *options])
        return Done(status, *capsys.readouterr())

    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An operator's folder, with plugins.toml in one of its own."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "plugins.toml").write_text("[plugins.quotes]\n")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    return tmp_path


def settings(path: Path) -> dict[str, str]:
    """Return the lines of a file of settings."""
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("#"))


def test_one_machine(folder: Path, init: Init):
    """Every variable of the compose file is written or has a default, and every secret's file is there."""
    done = init("--compose", str(SINGLE), "--plugins", "plugins/plugins.toml", "--port", "14222")
    assert done.returncode == 0, done.stderr
    written = settings(folder / ".rosey" / "compose.env")
    text = SINGLE.read_text()
    required = set(re.findall(r"\$\{(\w+):\?", text))
    assert required <= set(written), required - set(written)
    for secret in yaml.safe_load(text)["secrets"].values():
        path = Path(secret["file"].replace("${ROSEY_DATA:?}", written["ROSEY_DATA"]))
        assert path.is_file()
    credentials = folder / ".rosey" / "credentials"
    for path in credentials.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    service = settings(credentials / "service.env")
    assert service["ROSEY_STORAGE_URL"] == "nats://nats:4222"
    assert service["ROSEY_STORAGE_PLUGINS"] == "/etc/rosey/plugins.toml"
    assert re.match(
        r"postgresql://rosey_service:\S{20,}@postgres:5432/rosey$", service["ROSEY_STORAGE_DATABASE"]
    )
    assert written["ROSEY_UID"] not in ("", "0"), "the row service would run as root"
    owner = (credentials / "service.creds").stat().st_uid
    assert str(owner) == written["ROSEY_UID"]
    conf = (folder / ".rosey" / "nats-server.conf").read_text()
    assert 'store_dir: "/data"' in conf
    assert "cluster {" not in conf


def test_a_second_time_everything_is_kept(folder: Path, init: Init):
    """Passwords and keys in any case; what may be edited unless `--force` is given."""
    words = ("--compose", str(SINGLE), "--plugins", "plugins/plugins.toml")
    assert init(*words).returncode == 0
    data = folder / ".rosey"
    before = {path: path.read_text() for path in data.rglob("*") if path.is_file()}
    with (data / "compose.env").open("a") as file:
        file.write("ROSEY_NATS_IMAGE=nats:other\n")
    edited = (data / "compose.env").read_text()
    assert init(*words).returncode == 0
    assert (data / "compose.env").read_text() == edited
    assert init(*words, "--force").returncode == 0
    after = {path: path.read_text() for path in data.rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"nats-server.conf"}, "tokens are made anew, with the time; nothing else"


def test_a_cluster(folder: Path, init: Init):
    """Three servers that know each other by a password, and buckets on all of them."""
    done = init(
        "--compose",
        str(CLUSTER),
        "--servers",
        "3",
        "--plugins",
        "plugins/plugins.toml",
        "--port",
        "14222",
    )
    assert done.returncode == 0, done.stderr
    data = folder / ".rosey"
    written = settings(data / "compose.env")
    assert set(re.findall(r"\$\{(\w+):\?", CLUSTER.read_text())) <= set(written)
    assert [written[f"ROSEY_NATS_{n}_PORT"] for n in (1, 2, 3)] == ["14222", "14223", "14224"]
    conf = (data / "nats-server.conf").read_text()
    password = (data / "credentials" / "routes.password").read_text()
    for n in (1, 2, 3):
        assert f"nats://rosey:{password}@nats-{n}:6222" in conf
    assert (data / "nats-server.conf").stat().st_mode & 0o077 == 0
    assert "replicas = 3" in (data / "credentials" / "installation.toml").read_text()
    service = settings(data / "credentials" / "service.env")
    assert service["ROSEY_STORAGE_URL"] == "nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compose", "none.yaml", "--plugins", "plugins/plugins.toml"], "no file none.yaml"),
        (["--compose", str(SINGLE), "--plugins", "none.toml"], "none.toml"),
        (["--compose", str(SINGLE), "--plugins", "plugins.toml"], "secrets in"),
        (["--compose", str(CLUSTER), "--servers", "2", "--plugins", "plugins/plugins.toml"], "3 servers"),
        (["--compose", str(SINGLE), "--tls-cert", "a", "--tls-key", "b"], "docs/deploy.md"),
        (["--route", "a:6222", "--route", "b:6222"], "three servers at least"),
        (["--route", "a", "--route", "b:6222", "--route", "c:6222"], "is no route"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, init: Init, options: list[str], message: str):
    """Before any key is made."""
    (folder / "plugins.toml").write_text("[plugins.quotes]\n")
    done = init(*options)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split()), done.stderr
    assert not (folder / ".rosey" / "credentials" / "keys").exists()


def test_a_cluster_by_hand(folder: Path, init: Init):
    """`--route` for each server gives a configuration that the servers of three machines share."""
    routes = [word for host in "abc" for word in ("--route", f"{host}:6222")]
    done = init("--host", "0.0.0.0", "--server-name", "a", *routes)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["configuration"])
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text()
    assert 'listen: "0.0.0.0:6222"' in text
    assert text.count("@") == 3
