"""An attacker and its victim, in the real installation and in configurations that are weak on purpose.

- `strong`: what `rosey-storage apply` makes; the attacker holds its plugin's credentials.
- `strong-admin`: the same, and the attacker has stolen its own account's administrator as well.
- `shared`: one account for all, each user with the narrow list of a plugin: permissions alone.
- `open`: one account for all, without permissions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rosey_deploy.provision.users import plugin_permissions
from rosey_deploy.stack.nats import NatsServer
from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.connection import Connection, Message
from rosey_kvstore.errors import StorageError
from rosey_kvstore.jetstream import stream_config
from rosey_rowstore.application import Application
from rosey_rowstore.plugins import Plugins
from support.secure import Installation
from support.servers import Servers

SECRET = b'"the victim\'s secret"'
MARK = b'"mallory was here"'


class World:
    """One attack's surroundings.

    Attributes:
        attacker: The attacker's connection: everything an attack sends goes through it.
        mallory, victim: The names of the two plugins.
        own: Sees everything in the attacker's account.
        watch: Sees everything in the victim's account; attacks never use it, checks do.
        service: Is the row service: in the storage account, or in the one account there is.
        patience: Seconds within which an attack's effect shows: an effect is waited for on a busy
            machine, what never comes is not waited for long.
    """

    attacker: Connection
    own: Connection
    watch: Connection
    service: Connection

    def __init__(self, mallory: str, victim: str, *, patience: float) -> None:
        self.patience = patience
        self.mallory, self.victim = mallory, victim
        self.mine, self.theirs = f"plugin_{mallory}", f"plugin_{victim}"
        self.stack = AsyncExitStack()

    async def ask(self, subject: str, body: Any = b"", *, timeout: float = 0.5) -> bytes:
        """The attacker asks, and takes whatever comes; empty when nothing does."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        with contextlib.suppress(StorageError):
            return (await self.attacker.request(subject, payload, timeout=timeout)).data
        return b""

    async def say(self, subject: str, body: Any = b"", *, reply: str = "") -> None:
        """The attacker publishes, and waits until the server has seen it."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.attacker.publish(subject, payload, reply=reply)
        await self.settle()

    async def by_reply(self, subject: str, body: Any) -> None:
        """JetStream says `body` on `subject`: it answers to whatever reply subject a caller names."""
        # What is not stored yet would not be said: on a busy machine the acknowledgement is waited for.
        await self.ask(f"$KV.{self.mine}.loot", body, timeout=max(0.5, self.patience))
        await self.say(f"$JS.API.DIRECT.GET.KV_{self.mine}.$KV.{self.mine}.loot", reply=subject)
        body = {"last_by_subj": f"$KV.{self.mine}.loot"}
        await self.say(f"$JS.API.DIRECT.GET.KV_{self.mine}", body, reply=subject)

    async def listen(self, subject: str) -> list[bytes]:
        """The attacker subscribes; the list fills with what it hears."""
        heard: list[bytes] = []

        def take(message: Message) -> None:
            heard.append(message.data)

        self.attacker.subscribe(subject, take)
        await self.settle()
        return heard

    async def settle(self) -> None:
        """Let what the attacker and the service said reach the server, and a refusal come back."""
        for connection in (self.attacker, self.watch, self.service):
            await connection._client.flush(timeout=30)
        await asyncio.sleep(0.02)

    async def comes(self, check: Callable[[], bool | Awaitable[bool]]) -> bool:
        """Whether `check` comes true within `patience`: what JetStream is asked it does in its own time."""
        deadline = asyncio.get_running_loop().time() + self.patience
        while True:
            answer = check()
            if answer if isinstance(answer, bool) else await answer:
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.05)

    # What only the checks use.

    async def look(self, operation: str, body: Any = b"") -> dict[str, Any]:
        """Ask JetStream in the victim's account."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.watch.request(f"$JS.API.{operation}", payload, timeout=5)
        answer: dict[str, Any] = json.loads(reply.data)
        return answer

    async def secret(self) -> bytes:
        """What the victim's key holds now."""
        return await self.value(self.watch, self.theirs, "secret")

    @staticmethod
    async def value(connection: Connection, bucket: str, key: str) -> bytes:
        reply = await connection.request(f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{key}", timeout=5)
        return b"" if reply.status == "404" else reply.data

    async def loot(self) -> list[bytes]:
        """Everything that stands in any stream of the attacker's account, whatever its name."""
        names = json.loads((await self.own.request("$JS.API.STREAM.NAMES", timeout=5)).data)
        found = []
        for name in names.get("streams") or []:
            if name == f"KV_{self.theirs}":
                continue
            state = json.loads((await self.own.request(f"$JS.API.STREAM.INFO.{name}", timeout=5)).data)[
                "state"
            ]
            for number in range(state["first_seq"], state["last_seq"] + 1):
                body = json.dumps({"seq": number}).encode()
                found.append((await self.own.request(f"$JS.API.STREAM.MSG.GET.{name}", body, timeout=5)).data)
        return found

    async def prepare(self) -> None:
        """A secret in the victim's bucket, something in the attacker's."""
        await self.watch.request(f"$KV.{self.theirs}.secret", SECRET, timeout=5)
        await self.own.request(f"$KV.{self.mine}.mine", b"1", timeout=5)

    async def connect(self, url: str, credentials: Path | None = None) -> Connection:
        connection = await Connection.open([url], credentials=credentials, name="isolation test")
        self.stack.push_async_callback(connection.close)
        return connection


async def strong(installation: Installation, plugin: str, *, admin: bool) -> World:
    """Two plugins as `rosey-storage apply` makes them."""
    world = World(f"{plugin}-mallory", f"{plugin}-victim", patience=0.5)
    for name in (world.mallory, world.victim):
        await installation.add(name, rows=True)
    url = installation.nats.url
    stolen = installation.admin if admin else installation.credentials
    world.attacker = await world.connect(url, stolen(world.mallory))
    world.own = await world.connect(url, installation.admin(world.mallory))
    world.watch = await world.connect(url, installation.admin(world.victim))
    world.service = await world.connect(url, installation.authority.service_credentials)
    await world.prepare()
    return world


def weak_server(servers: Servers, folder: Path) -> NatsServer:
    """A server with one account: for `shared` users with the lists of plugins, for `open` one without."""
    users: list[dict[str, Any]] = [
        {"user": "admin", "password": "a"},
        {"user": "mallory-open", "password": "a"},
    ]
    for name in ("mallory", "victim"):
        listed = plugin_permissions(name, "storage", kv=True, inspector=False)
        users.append(
            {
                "user": name,
                "password": "a",
                "permissions": {"publish": [*(listed.publish or ())], "subscribe": ["_INBOX.>"]},
            }
        )
    return servers.nats(folder, settings={"accounts": {"APP": {"jetstream": "enabled", "users": users}}})


async def weak(server: NatsServer, kind: str) -> World:
    """Two plugins in one account, and a row service beside them."""
    world = World("mallory", "victim", patience=15)
    try:
        return await _weakly(world, server, kind)
    except BaseException:
        await world.stack.aclose()
        raise


async def _weakly(world: World, server: NatsServer, kind: str) -> World:

    def url(user: str) -> str:
        return server.url.replace("//", f"//{user}:a@")

    world.attacker = await world.connect(url("mallory" if kind == "shared" else "mallory-open"))
    world.own = world.watch = world.service = await world.connect(url("admin"))
    names = json.loads((await world.watch.request("$JS.API.STREAM.NAMES", timeout=5)).data)
    for name in names.get("streams") or []:
        await world.watch.request(f"$JS.API.STREAM.DELETE.{name}", timeout=5)
    for bucket in (world.mine, world.theirs):
        config = stream_config(bucket, BucketLimits(), description="", metadata={})
        config["deny_delete"] = False
        for _ in range(50):  # what the attack before left may still be going away
            made = await world.look(f"STREAM.CREATE.KV_{bucket}", config)
            if "error" not in made:
                break
            await asyncio.sleep(0.1)
        assert "error" not in made, made
    await world.prepare()
    application = Application("sqlite::memory:", Plugins(), provision=True)
    await application.open()
    world.stack.push_async_callback(application.close)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(message: Message) -> None:
        _, _, plugin, tail = message.subject.decode().split(".", 3)
        reply, headers = await application.handle(plugin, tail, message.data, None)
        world.service.publish(message.reply.decode(), reply, headers=headers)

    def take(message: Message) -> None:
        if message.reply:
            tasks.add(task := asyncio.ensure_future(answer(message)))
            task.add_done_callback(tasks.discard)

    world.service.subscribe("storage.v1.*.rows.>", take)
    world.service.subscribe("storage.v1.*.tables.>", take)
    return world
