"""A plugin that is removed leaves no trace, and what was exported is all of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import psycopg
import pytest

from rosey_deploy.provision import actions
from rosey_deploy.provision.reconcile import opened
from rosey_deploy.provision.resolver import Resolver
from rosey_kvstore.connection import Connection
from rosey_storage import Column, PermissionDenied
from support.secure import Installation


def traces_in_postgres(url: str, plugin: str) -> list[tuple[str, ...]]:
    """Every row of the catalog, and of the service's own tables, that names the plugin."""
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        for table, column in (
            ("pg_roles", "rolname"),
            ("pg_namespace", "nspname"),
            ("pg_class", "relname"),
            ("pg_class", "relnamespace::regnamespace::text"),
            ("pg_database", "datacl::text"),
            ("pg_default_acl", "defaclacl::text"),
            ("pg_stat_activity", "usename"),
            ("rosey_service.logins", "role || plugin"),
        ):
            rows = connection.execute(
                f"SELECT {column} FROM {table} WHERE {column} LIKE %s".encode(), (f"%{plugin}%",)
            ).fetchall()
            found += [(table, *map(str, row)) for row in rows]
    return found


async def traces_in_nats(installation: Installation, account: str, plugin: str) -> list[str]:
    """Accounts, streams and connections that the servers still know, and files that name the account."""
    credentials = installation.authority.operator_credentials
    resolver = await Resolver.open([installation.nats.url], credentials, timeout=5)
    found = [item.name for item in await resolver.accounts() if account in (item.public, item.name)]
    await resolver.close()
    connection = await Connection.open([installation.nats.url], credentials=credentials)
    for endpoint, body in (
        ("JSZ", {"accounts": True, "streams": True, "config": True}),
        ("CONNZ", {"auth": True, "subscriptions": True}),
        ("ACCOUNTZ", {}),
    ):
        reply = await connection.request(f"$SYS.REQ.SERVER.PING.{endpoint}", json.dumps(body).encode())
        if plugin in reply.data.decode() or account in reply.data.decode():
            found.append(f"{endpoint}: {reply.data.decode()}")
    await connection.close()
    folder = installation.nats.folder
    found += [str(path) for path in (folder / "accounts").rglob("*") if account in path.name]
    # JetStream leaves the folder of an account that had streams; nothing is in it.
    found += [str(path) for path in (folder / "jetstream").rglob("*") if plugin in path.name]
    found += [str(path) for path in (folder / "jetstream").rglob(f"{account}/**/*") if path.is_file()]
    return found


async def test_no_trace_is_left(own_installation: Installation, plugin: str, tmp_path: Path) -> None:
    """Bucket, account, schema, roles, passwords, files, context, connections: all gone, all exported."""
    made = await own_installation.add(plugin, rows=True)
    neighbour = f"{plugin}b"
    await own_installation.add(neighbour, rows=True)
    async with own_installation.storage(neighbour) as other:
        await other.kv.set("a", "neighbour")
        async with own_installation.storage(plugin) as storage:
            await storage.kv.set("prefs:alice", {"theme": "dark"})
            await storage.kv.set("game", 1, ttl=900)
            await storage.kv.set("gone", 1)
            await storage.kv.delete("gone")
            quotes = storage.table("quotes")
            await quotes.define([Column("text", "text"), Column("price", "decimal"), Column("more", "json")])
            await quotes.insert_many([{"text": 'a\n"b"\\', "price": "1.10", "more": {"x": [1]}}] * 3)
            async with opened(own_installation.target(), write=True) as world:
                account = world.account(plugin)
                assert account is not None
                assert traces_in_postgres(own_installation.database, plugin)
                assert await traces_in_nats(own_installation, account.public, f"plugin_{plugin}")
                written = await actions.export(world, made, tmp_path / "export")
                told: list[str] = []
                await actions.remove(world, made, told.append)
                await actions.remove(world, made, told.append)  # once more is no error
            with pytest.raises(PermissionDenied):
                await storage.kv.get("prefs:alice")
        assert len(told) == len(set(told)) == 7
        assert await other.kv.get("a") == "neighbour"

    found_rows = traces_in_postgres(own_installation.database, plugin)
    assert [trace for trace in found_rows if neighbour not in str(trace)] == []
    name = f"plugin_{plugin}"
    traces = await traces_in_nats(own_installation, account.public, name)
    # nats-server keeps an empty folder, and lists the bare key, of an account that once had a stream.
    bare = [trace for trace in traces if trace.startswith("ACCOUNTZ") and name not in trace]
    assert [trace for trace in traces if neighbour not in trace and trace not in bare] == []
    left = [path for path in own_installation.data.rglob(f"{name}*") if neighbour not in path.name]
    assert left == []

    folder = Path(written["folder"])
    keys = [json.loads(line) for line in (folder / "kv.ndjson").read_text().splitlines()]
    assert {item["key"]: item["value"] for item in keys} == {"prefs:alice": {"theme": "dark"}, "game": 1}
    rows = [json.loads(line) for line in (folder / "rows" / "quotes.ndjson").read_text().splitlines()]
    assert len(rows) == 3
    assert (rows[0]["text"], rows[0]["more"]) == ('a\n"b"\\', {"x": [1]})
    assert written["rows"] == {"quotes": 3}
    described = json.loads((folder / "rows" / "tables.json").read_text())
    assert "price" in {column["name"] for column in described["quotes"]}
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700  # noqa: ASYNC240 - one look


async def test_a_plugin_made_again_is_empty(own_installation: Installation, plugin: str) -> None:
    """Nothing of the former plugin of that name comes back."""
    made = await own_installation.add(plugin, rows=True)
    async with own_installation.storage(plugin) as storage:
        await storage.kv.set("a", 1)
        await storage.table("t").define([Column("n", "integer")])
    async with opened(own_installation.target(), write=True) as world:
        await actions.remove(world, made, lambda _: None)
    await own_installation.add(plugin, rows=True)
    async with own_installation.storage(plugin) as storage:
        assert await storage.kv.get("a") is None
        assert await storage.tables() == []
