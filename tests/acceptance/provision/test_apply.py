"""`apply` makes what is declared, once; mends what is lost; changes what differs; leaves the rest alone."""

from __future__ import annotations

import asyncio
import shutil
import stat
import time
from pathlib import Path

import attrs
import psycopg
import pytest

from rosey_deploy.provision import actions, users
from rosey_deploy.provision.files import hold
from rosey_deploy.provision.reconcile import opened
from rosey_deploy.provision.users import read_credentials
from rosey_kvstore.errors import InvalidRequest, Unavailable
from rosey_kvstore.jetstream import bucket
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin
from rosey_storage import Column, NotProvisioned, PermissionDenied, QuotaExceeded, Storage
from support.secure import Installation


def parts(changes):
    return {(change.owner, change.part, change.verb) for change in changes}


async def test_everything_is_made_once(own_installation: Installation, plugin: str) -> None:
    """A plan tells what apply then makes; a second apply finds nothing to do."""
    own_installation.plugins[plugin] = Plugin(name=plugin, rows=True)
    planned = await own_installation.plan()
    assert {("credentials", "make"), ("account", "make"), ("bucket", "make"), ("rows", "make")} <= {
        (change.part, change.verb) for change in planned.changes if change.owner == plugin
    }
    assert not own_installation.credentials(plugin).exists()
    made = await own_installation.apply()
    assert parts(made.changes) == parts(planned.changes)
    assert not made.failures
    assert (await own_installation.plan()).changes == []
    assert (await own_installation.apply()).changes == []


async def test_files_are_their_owners_alone(own_installation: Installation, plugin: str) -> None:
    """Whatever holds a secret has mode 0600, the folder 0700; a wider file is refused, not used."""
    await own_installation.add(plugin, rows=True)
    folder = own_installation.authority.folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {
        *("operator.creds", "service.creds", "service.env", "operator.nk", "system.nk", "storage.nk"),
        *(f"plugin_{plugin}.creds", f"plugin_{plugin}.admin.creds", f"plugin_{plugin}.nk"),
    } <= names
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((own_installation.contexts / f"plugin_{plugin}.json").stat().st_mode) == 0o600
    own_installation.credentials(plugin).chmod(0o644)
    (failure,) = (await own_installation.apply()).failures
    assert isinstance(failure.error, InvalidRequest)
    assert "chmod 600" in (failure.error.hint or "")


async def test_limits_follow_the_file(own_installation: Installation, plugin: str) -> None:
    """A larger and a smaller bucket, another history: the bucket changes, what it holds stays."""
    before = await own_installation.add(plugin, bucket_size=1 << 20, history=5)
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("kept", "x" * 1000)
        for size, history in ((4 << 20, 20), (1 << 19, 3)):
            limits = attrs.evolve(before.limits, bucket_size=size, history=history)
            own_installation.plugins[plugin] = attrs.evolve(before, limits=limits)
            outcome = await own_installation.apply()
            assert not outcome.failures
            assert {change.part for change in outcome.changes} == {"account", "bucket"}
            assert (await own_installation.apply()).changes == []
            assert await storage.kv.get("kept") == "x" * 1000
    async with own_installation.storage(plugin) as storage:
        with pytest.raises(QuotaExceeded):
            for number in range(20):
                await storage.kv.set(f"k{number}", "x" * 60_000)


async def test_an_installation_from_before_copies(
    own_installation: Installation, plugin: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Watches work on it, and with its credentials; `apply` brings the copies, and with them every change."""
    with monkeypatch.context() as older:
        older.setattr(bucket, "copies_config", lambda _: None)
        older.setattr(users, "copies_config", lambda _: {"dest": "_INBOX.>"})
        await own_installation.add(plugin)
    old = shutil.copy2(own_installation.credentials(plugin), tmp_path / "old.creds")

    async def told(storage: Storage, *, writes: int) -> int:
        async with storage.kv.watch(prefix="n") as changes:
            await asyncio.gather(*(storage.kv.set("n", number) for number in range(writes)))
            await storage.kv.set("n", "end")
            async with asyncio.timeout(30):
                count = 1
                while (await anext(changes)).value != "end":
                    count += 1
        return count

    async with own_installation.storage(plugin) as storage:
        assert await told(storage, writes=0) == 1
        outcome = await own_installation.apply()
        assert not outcome.failures
        assert {change.part for change in outcome.changes} == {"credentials", "bucket"}
        assert "republish" in next(change.detail for change in outcome.changes if change.part == "bucket")
        assert (await own_installation.apply()).changes == []
        assert await told(storage, writes=0) == 1
    async with own_installation.storage(plugin, credentials=Path(old)) as storage:
        assert await told(storage, writes=0) == 1
    async with own_installation.storage(plugin) as storage:
        assert await told(storage, writes=300) == 301


async def test_what_was_lost_is_made_again(own_installation: Installation, plugin: str) -> None:
    """Credentials, the account's key, a bucket, an account, a context, roles: apply brings back each."""
    await own_installation.add(plugin, rows=True)
    own, admin = own_installation.credentials(plugin), own_installation.admin(plugin)
    key = own_installation.authority.plugin_key(plugin)
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)
        await storage.table("t").define([Column("n", "integer")])
        await storage.table("t").insert({"n": 1})

    async def works() -> None:
        outcome = await own_installation.apply()
        assert outcome.changes
        assert not outcome.failures
        assert (await own_installation.apply()).changes == []
        async with own_installation.storage(plugin) as storage:
            assert await storage.kv.get("a") == 1
            assert len((await storage.table("t").select()).rows) == 1

    for path in (own, admin, own_installation.contexts / f"plugin_{plugin}.json"):
        path.unlink()
        await works()
    for path in (key, own, admin):  # the account itself stays, and so does what it holds
        path.unlink()
    await works()
    with psycopg.connect(own_installation.database, autocommit=True) as connection:
        connection.execute(f'ALTER ROLE "plugin_{plugin}" NOLOGIN SUPERUSER CONNECTION LIMIT 5'.encode())
        connection.execute(f'ALTER ROLE "plugin_{plugin}" RESET statement_timeout'.encode())
        connection.execute(f'GRANT USAGE ON SCHEMA "plugin_{plugin}" TO PUBLIC'.encode())
    outcome = await own_installation.apply()
    assert [change.part for change in outcome.changes] == ["rows"]
    for word in ("the rights of", "statement_timeout", "the connection limit", "the rights on the schema"):
        assert word in outcome.changes[0].detail
    assert (await own_installation.apply()).changes == []


async def test_one_plugins_fault_stops_no_other(own_installation: Installation, plugin: str) -> None:
    """Somebody's own context of the name is not touched: that plugin is told, the others are made."""
    own_installation.contexts.mkdir(parents=True)
    mine = own_installation.contexts / f"plugin_{plugin}.json"
    mine.write_text('{"description": "my own", "url": "nats://elsewhere"}')
    own_installation.plugins = {name: Plugin(name=name) for name in (plugin, f"{plugin}x")}
    outcome = await own_installation.apply()
    assert [(failure.owner, failure.error.code) for failure in outcome.failures] == [
        (plugin, "invalid_request")
    ]
    assert mine.read_text() == '{"description": "my own", "url": "nats://elsewhere"}'
    async with own_installation.storage(f"{plugin}x") as storage:
        await storage.kv.set("a", 1)


async def test_who_left_the_file_is_told_and_kept(own_installation: Installation, plugin: str) -> None:
    """Nothing is deleted by apply."""
    await own_installation.add(plugin, rows=True)
    del own_installation.plugins[plugin]
    outcome = await own_installation.apply(database=own_installation.database)
    assert list(outcome.leftovers) == [plugin]
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("still", "there")


async def test_one_at_a_time(own_installation: Installation, plugin: str) -> None:
    """While one command provisions, another is refused at once."""
    with hold(own_installation.authority.folder), pytest.raises(Unavailable, match="Another command"):
        await own_installation.add(plugin)


async def test_rotation_reaches_a_running_plugin(own_installation: Installation, plugin: str) -> None:
    """Earlier credentials are refused, and a plugin whose file is replaced goes on by itself."""
    made = await own_installation.add(plugin, rows=True)
    stolen = own_installation.data / "stolen.creds"
    stolen.write_text(own_installation.credentials(plugin).read_text())
    async with (
        own_installation.storage(plugin) as storage,
        Storage.connect(plugin, url=own_installation.nats.url, credentials=stolen) as thief,
    ):
        await thief.kv.set("a", 1)
        await storage.table("t").define([Column("n", "integer")])
        async with opened(own_installation.target(), write=True) as world:
            await actions.rotate(world, made)
        assert await storage.kv.get("a") == 1
        await storage.table("t").insert({"n": 1})
        with pytest.raises(PermissionDenied, match=r"(?i)revoked"):
            for _ in range(20):
                await thief.kv.get("a")
    with pytest.raises(PermissionDenied):
        await Storage.connect(plugin, url=own_installation.nats.url, credentials=stolen).open()
    assert (await own_installation.apply()).changes == []
    with psycopg.connect(own_installation.database) as connection:
        count = connection.execute("SELECT count(DISTINCT password) FROM rosey_service.logins").fetchone()
    assert count == (2,)


async def test_suspension_outlives_apply(own_installation: Installation, plugin: str) -> None:
    """A suspended plugin is out until it is resumed, whatever apply mends; its data stay."""
    made = await own_installation.add(plugin)
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)
        async with opened(own_installation.target(), write=True) as world:
            assert await actions.set_suspended(world, made, suspended=True)
            assert not await actions.set_suspended(world, made, suspended=True)
        with pytest.raises(PermissionDenied):
            await storage.kv.get("a")
        assert (await own_installation.apply()).changes == []
        own_installation.credentials(plugin).unlink()
        assert (await own_installation.apply()).changes
        with pytest.raises(PermissionDenied):
            await own_installation.storage(plugin).open()
        async with opened(own_installation.target(), write=True) as world:
            found = await actions.standing(world, own_installation.target().plugins, plugin)
            assert found.state == "suspended"
            assert found.bucket is not None
            assert await actions.set_suspended(world, made, suspended=False)
    async with own_installation.storage(plugin) as storage:
        assert await storage.kv.get("a") == 1


async def test_kv_taken_away_and_given_back(own_installation: Installation, plugin: str) -> None:
    """`kv = false` takes the way to the keys; they are there again when it is true."""
    made = await own_installation.add(plugin)
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)
    own_installation.plugins[plugin] = attrs.evolve(made, kv=False)
    assert not (await own_installation.apply()).failures
    async with own_installation.storage(plugin, timeout=1) as storage:
        with pytest.raises(PermissionDenied, match="bucket"):
            await storage.kv.get("a")
    own_installation.plugins[plugin] = made
    assert not (await own_installation.apply()).failures
    async with own_installation.storage(plugin) as storage:
        assert await storage.kv.get("a") == 1


async def test_a_new_plugin_is_usable_within_a_second(own_installation: Installation, plugin: str) -> None:
    """From the start of apply to the first row, with its own limits, no restart, no connection lost."""
    await own_installation.add(f"{plugin}first", rows=True)
    own_installation._write()
    async with own_installation.storage(f"{plugin}first") as first:
        revision = await first.kv.set("a", 1)
        with pytest.raises((PermissionDenied, NotProvisioned)):
            await Storage.connect(
                plugin, url=own_installation.nats.url, credentials=own_installation.credentials(plugin)
            ).open()
        lost = []
        first._transport._connection.on_lost(lambda: lost.append(1))
        began = time.monotonic()
        await own_installation.add(plugin, rows=True, rows_per_page=7)
        async with own_installation.storage(plugin) as storage:
            await storage.kv.set("a", 1)
            await storage.table("t").define([Column("n", "integer")])
            await storage.table("t").insert({"n": 1})
        assert time.monotonic() - began < 3  # 0.6 s beside 200 others on a quiet machine: bench-provision
        assert await first.kv.set("a", 2) == revision + 1
        assert lost == []


async def test_credentials_say_when_they_were_issued(own_installation: Installation, plugin: str) -> None:
    """Neither the key nor the JWT's bytes stand in a repr."""
    await own_installation.add(plugin)
    found = read_credentials(own_installation.credentials(plugin))
    assert found is not None
    assert abs(found.issued_at - time.time()) < 60
    assert found.user.seed not in repr(found)
    assert own_installation.authority.operator.seed not in repr(own_installation.authority)
    assert Limits() == own_installation.plugins[plugin].limits
