"""TLS with a certificate authority of one's own: the whole installation by hand, over `tls://` alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from attrs import define, field

from rosey_deploy.stack.nats import nats_server_binary
from rosey_deploy.stack.process import Process
from rosey_kvstore.connection import Connection, TlsFiles
from rosey_storage import Column, InvalidRequest, Storage, StorageError, Unavailable
from support.containers.stack import free_ports

COMMAND = [sys.executable, "-m", "rosey_deploy"]


@define
class Installation:
    """A folder in which `init`, `nats-server`, `apply` and `serve` run, each with the authority's file."""

    folder: Path
    authority: trustme.CA = field(factory=trustme.CA)
    port: int = field(factory=lambda: free_ports(1))
    processes: list[Process] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
        self.certificate("server", "127.0.0.1", "localhost")
        (self.folder / "plugins.toml").write_text("[plugins.quotes]\nrows = true\n")

    def certificate(self, name: str, *hosts: str) -> dict[str, Path]:
        """Write a certificate and its key; return them as settings."""
        made = self.authority.issue_cert(*hosts)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        made.private_key_pem.write_to_path(key)
        cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        return {"tls_cert": cert, "tls_key": key}

    @property
    def url(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def environment(self, **settings: object) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ROSEY_")}
        return {
            **kept,
            **{f"ROSEY_STORAGE_{name.upper()}": str(value) for name, value in settings.items()},
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def run(self, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *words], cwd=self.folder, env=self.environment(**settings),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def nats(self, *options: str) -> Process:
        """Start nats-server with what `init` writes."""
        done = self.run(
            *("init", "--force", "--port", str(self.port)),
            *("--tls-cert", "server.pem", "--tls-key", "server.key", *options),
        )
        assert done.returncode == 0, done.stderr
        conf = self.folder / ".rosey" / "nats-server.conf"
        server = Process(
            "nats-server", [nats_server_binary(), "--config", conf], log=self.folder / "nats.log"
        )
        self.processes.append(server)
        server.wait_until(lambda: "Server is ready" in "\n".join(server.last_lines(50)), timeout=20)
        return server

    def serve(self) -> Process:
        """Start the row service with nothing but the file that `apply` wrote."""
        settings = self.folder / ".rosey" / "credentials" / "service.env"
        service = Process(
            "rosey-storage serve",
            [*COMMAND, "serve"],
            log=self.folder / "service.log",
            environment=self.environment(settings=settings),
        )
        self.processes.append(service)
        service.wait_until(lambda: "serving" in "\n".join(service.last_lines(50)), timeout=30)
        return service

    def storage(self, **settings: object) -> Storage:
        given = {"url": self.url, "tls_ca": self.ca, "timeout": 10, **settings}
        credentials = self.folder / ".rosey" / "credentials"
        return Storage.connect("quotes", env="production", credentials=credentials, **given)


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    found = Installation(tmp_path)
    yield found
    for process in reversed(found.processes):
        process.stop()


async def test_everything_over_tls(installation: Installation):
    """apply, the row service and the plugin reach NATS by their own authority, also after a restart."""
    server = installation.nats()
    given = {"url": installation.url, "tls_ca": installation.ca}
    done = installation.run("apply", "--database", f"sqlite:{installation.folder / 'rows'}", **given)
    assert done.returncode == 0, done.stderr
    await asyncio.to_thread(installation.serve)
    async with installation.storage() as storage:
        changes = []

        async def watch() -> None:
            async for change in storage.kv.watch(prefix="last"):
                changes.append(change.key)

        watching = asyncio.create_task(watch())
        large = "ü" * 30_000  # more than one record of TLS
        await storage.kv.set("large", large)
        await storage.kv.set_many({f"k:{n}": n for n in range(500)})
        assert await storage.kv.get("large") == large
        assert len((await storage.kv.list(prefix="k:", limit=1000)).keys) == 500
        table = storage.table("log")
        await table.define([Column("text", "text")])
        await asyncio.gather(*(table.insert({"text": large}) for _ in range(15)))
        assert len(await table.select()) == 15
        await asyncio.to_thread(server.kill)
        with pytest.raises(StorageError):
            await storage.kv.set("down", 1)
        await asyncio.to_thread(installation.nats)
        async with asyncio.timeout(30):
            while True:
                try:
                    await storage.kv.set("last", 1)
                    await table.insert({"text": "again"})
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
            while "last" not in changes:
                await asyncio.sleep(0.05)
        watching.cancel()
    context = json.loads((installation.folder / "config/nats/context/plugin_quotes.json").read_text())
    assert (context["url"], context["ca"]) == (installation.url, str(installation.ca))


@pytest.mark.slow
async def test_who_is_not_trusted_is_told_what_to_set(installation: Installation):
    """A server that the system's authorities do not know is refused, in time, with the setting that helps."""
    installation.nats()
    for url in (installation.url, f"nats://127.0.0.1:{installation.port}"):
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await asyncio.wait_for(Connection.open([url], timeout=120), 60)  # told at once, not at the end
        assert "ROSEY_STORAGE_TLS_CA" in (caught.value.hint or "")
    other = installation.folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await Connection.open([installation.url], tls=TlsFiles(ca=other), timeout=2)


@pytest.mark.slow
async def test_clients_with_a_certificate_of_their_own(installation: Installation):
    """With `--tls-ca` the server takes those clients alone that show one."""
    installation.nats("--tls-ca", "ca.pem")
    client = installation.certificate("client", "plugin")
    done = installation.run(
        *("apply", "--database", f"sqlite:{installation.folder / 'rows'}"),
        **{"url": installation.url, "tls_ca": installation.ca, **client},
    )
    assert done.returncode == 0, done.stderr
    await asyncio.to_thread(installation.serve)
    async with installation.storage(**client) as storage:
        await storage.kv.set("a", 1)
        assert await storage.tables() == []
    with pytest.raises(Unavailable, match="certificate") as caught:
        await asyncio.wait_for(installation.storage(timeout=120), 60)
    assert "ROSEY_STORAGE_TLS_CERT" in (caught.value.hint or "")


async def test_tls_is_not_given_up(tmp_path: Path, nats_server):
    """tls:// to a server without it is refused: nothing is sent in the clear."""
    with pytest.raises(Unavailable, match="offers no TLS"):
        await Connection.open([nats_server.url.replace("nats:", "tls:")], timeout=2)


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_of_no_use_is_told(tmp_path: Path, content: str | None):
    """Its path and its setting stand in the error, before anything is sent."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    storage = Storage.connect("quotes", url="tls://127.0.0.1:1", tls_ca=path)
    with pytest.raises(InvalidRequest, match=r"ca\.pem") as caught:
        await storage
    assert caught.value.path == "ROSEY_STORAGE_TLS_CA"
