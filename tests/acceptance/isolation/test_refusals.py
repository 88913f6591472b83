"""What a plugin learns when it crosses a line, or its credentials no longer count: at once, in words."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest

from rosey_deploy.provision.accounts import CONNECTIONS
from rosey_deploy.provision.jwt import claims_of, encode
from rosey_deploy.provision.keys import key_of
from rosey_deploy.provision.users import read_credentials
from rosey_kvstore.connection import Connection
from rosey_storage import NotProvisioned, PermissionDenied, QuotaExceeded, Storage
from support.secure import Installation


async def test_anothers_storage_is_denied_within_50_ms(installation: Installation, plugin: str) -> None:
    """The code, the subject that was refused, and no waiting for a timeout; what is its own goes on."""
    await installation.add(plugin, rows=True)
    other = f"{plugin}other"
    await installation.add(other, rows=True)
    mine = installation.credentials(plugin)
    async with installation.storage(other, credentials=mine) as storage:
        calls = {
            f"KV_plugin_{other}": lambda: storage.kv.get("a"),
            f"KV_plugin_{other}  ": lambda: storage.kv.set("a", 1),
            f"KV_plugin_{other} ": storage.kv.list,
            f"storage.v1.{other}.rows.select": lambda: storage.table("t").select(),
            f"storage.v1.{other}.tables.list": storage.tables,
        }
        for refused, call in calls.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                with pytest.raises(PermissionDenied) as denied:
                    await call()
                times.append(time.perf_counter() - began)
            assert refused.strip() in denied.value.message
            assert denied.value.plugin == other
            assert min(times) < 0.05, times
    connection = await Connection.open([installation.nats.url], credentials=mine)
    for subject in (
        "storage.admin.health",
        "storage.events.x",
        "$SYS.REQ.CLAIMS.LIST",
        "$JS.API.STREAM.LIST",
    ):
        began = time.perf_counter()
        with pytest.raises(PermissionDenied, match=subject.replace("$", r"\$")):
            await connection.request(subject, timeout=5)
        assert time.perf_counter() - began < 0.5
    await connection.close()
    async with installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)


async def test_expired_credentials_say_so(installation: Installation, plugin: str, tmp_path: Path) -> None:
    """At opening: the code, and the time at which they expired."""
    await installation.add(plugin)
    path = installation.credentials(plugin)
    found = read_credentials(path)
    signer = installation.authority.plugin_key(plugin).read_text().strip()
    assert found is not None
    token = encode(key_of(signer), found.user.public, "old", found.claims["nats"])
    claims = claims_of(token)
    expired = _signed_again(key_of(signer), {**claims, "exp": int(time.time()) - 60})
    text = path.read_text()
    old = text.split("-----BEGIN NATS USER JWT-----\n")[1].split("\n")[0]
    copy = tmp_path / "expired.creds"
    copy.write_text(text.replace(old, expired))
    with pytest.raises(PermissionDenied, match="expired at 20"):
        await Storage.connect(plugin, url=installation.nats.url, credentials=copy).open()


def _signed_again(signer, claims):
    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = packed(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    body = packed(json.dumps(claims).encode())
    return f"{head}.{body}.{packed(signer.sign(f'{head}.{body}'.encode()))}"


@pytest.mark.parametrize("content", [None, "", "no credentials at all"])
async def test_unusable_files_are_told(
    content: str | None, installation: Installation, plugin: str, tmp_path: Path
) -> None:
    """A file that is missing, empty or something else is named, and nothing hangs."""
    await installation.add(plugin)
    path = tmp_path / "odd.creds"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PermissionDenied, match=r"odd\.creds"):
        await Storage.connect(plugin, url=installation.nats.url, credentials=path).open()
    with pytest.raises(PermissionDenied, match="Authorization"):
        await Storage.connect(plugin, url=installation.nats.url).open()


async def test_a_folder_of_credentials(installation: Installation, plugin: str) -> None:
    """The setting may name the folder: each plugin finds its own file in it."""
    await installation.add(plugin)
    folder = installation.authority.folder
    async with Storage.connect(plugin, url=installation.nats.url, credentials=folder) as storage:
        await storage.kv.set("a", 1)


async def test_the_connection_limit_has_its_code(installation: Installation, plugin: str) -> None:
    """One connection too many is `quota_exceeded` at once; when one is closed, there is room again."""
    await installation.add(plugin)
    neighbour = f"{plugin}other"
    await installation.add(neighbour)
    opened = [
        await Connection.open([installation.nats.url], credentials=installation.credentials(plugin))
        for _ in range(CONNECTIONS)
    ]
    began = time.perf_counter()
    with pytest.raises(QuotaExceeded, match="no more connections"):
        await installation.storage(plugin).open()
    assert time.perf_counter() - began < 1
    async with installation.storage(neighbour) as storage:
        await storage.kv.set("a", 1)
    await opened.pop().close()
    async with installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)
    for connection in opened:
        await connection.close()


async def test_a_plugin_makes_no_bucket(installation: Installation, plugin: str) -> None:
    """Where the bucket is missing, development says `not_provisioned` as production does."""
    await installation.add(plugin)
    admin = await Connection.open([installation.nats.url], credentials=installation.admin(plugin))
    await admin.request(f"$JS.API.STREAM.DELETE.KV_plugin_{plugin}")
    await admin.close()
    for env in ("production", "development"):
        settings = {"url": installation.nats.url, "credentials": installation.credentials(plugin)}
        async with Storage.connect(plugin, env=env, **settings) as storage:
            with pytest.raises(NotProvisioned, match="no bucket"):
                await storage.kv.get("a")
