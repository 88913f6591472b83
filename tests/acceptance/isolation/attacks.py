"""Every way around isolation that we know, as code: each returns whether it got through."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

from acceptance.isolation.worlds import MARK, SECRET, World
from rosey_kvstore.backend import BucketLimits
from rosey_kvstore.jetstream import stream_config

Attack = Callable[[World], Awaitable[bool]]

ATTACKS: dict[str, tuple[str, Attack]] = {}
"""By name: in which weak configuration it succeeds, and the attack."""


def succeeds_when(weakness: str) -> Callable[[Attack], Attack]:
    """Register an attack with the configuration that does not stop it."""

    def register(attack: Attack) -> Attack:
        ATTACKS[attack.__name__] = (weakness, attack)
        return attack

    return register


def consumer(deliver: str, *, bucket: str, only: str | None = None) -> dict[str, Any]:
    """A push consumer that delivers everything of a bucket."""
    return {
        "stream_name": f"KV_{bucket}",
        "config": {
            "name": "spy",
            "deliver_subject": deliver,
            "ack_policy": "none",
            "deliver_policy": "all",
            "filter_subject": only or f"$KV.{bucket}.>",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000,
        },
        "action": "create",
    }


def stream(name: str, **members: Any) -> dict[str, Any]:
    """A stream that fits into a plugin's account, but for what the attack makes of it."""
    return {"name": name, "storage": "file", "max_bytes": 1 << 20, "num_replicas": 1, **members}


def bucket_of(plugin: str, **members: Any) -> dict[str, Any]:
    """A plugin's bucket as it is, but for what the attack changes in it."""
    config = stream_config(plugin, BucketLimits(), description="", metadata={})
    return {**config, **members}


def origins(world: World) -> list[dict[str, Any]]:
    """The victim's bucket as a mirror or a source names it, by way of another API prefix too."""
    name = f"KV_{world.theirs}"
    return [{"name": name}, {"name": name, "external": {"api": "$JS.API", "deliver": "_INBOX.mallory"}}]


# ── Reading the victim's bucket ──────────────────────────────────────────────────────────────────


@succeeds_when("open")
async def read_by_subject(world: World) -> bool:
    got = await world.ask(f"$JS.API.DIRECT.GET.KV_{world.theirs}.$KV.{world.theirs}.secret")
    return SECRET in got


@succeeds_when("open")
async def read_by_body(world: World) -> bool:
    body = {"last_by_subj": f"$KV.{world.theirs}.secret"}
    answers = [
        await world.ask(f"$JS.API.DIRECT.GET.KV_{world.mine}", body),
        await world.ask(f"$JS.API.DIRECT.GET.KV_{world.theirs}", body),
    ]
    return SECRET in b"".join(answers)


@succeeds_when("open")
async def read_by_message_number(world: World) -> bool:
    got = await world.ask(f"$JS.API.STREAM.MSG.GET.KV_{world.theirs}", {"seq": 1})
    return b'"data"' in got


@succeeds_when("open")
async def read_by_wide_consumer_filter(world: World) -> bool:
    heard = await world.listen("_INBOX.mallory.spy")
    for stream_in_subject in (world.mine, world.theirs):
        for wide in (">", "$KV.>", f"$KV.{world.theirs}.>"):
            body = consumer("_INBOX.mallory.spy", bucket=world.theirs, only=wide)
            await world.ask(f"$JS.API.CONSUMER.CREATE.KV_{stream_in_subject}.spy", body)
            await world.ask(f"$JS.API.CONSUMER.CREATE.KV_{stream_in_subject}.spy.{wide}", body)
    return await world.comes(lambda: SECRET in heard)


@succeeds_when("shared")
async def read_by_consumer_made_through_a_reply(world: World) -> bool:
    heard = await world.listen("_INBOX.mallory.spy")
    body = consumer("_INBOX.mallory.spy", bucket=world.theirs)
    await world.by_reply(f"$JS.API.CONSUMER.CREATE.KV_{world.theirs}.spy", body)
    return await world.comes(lambda: SECRET in heard)


@succeeds_when("open")
async def read_by_mirror(world: World) -> bool:
    for origin in origins(world):
        await world.ask("$JS.API.STREAM.CREATE.steal", stream("steal", mirror=origin))
    return await world.comes(lambda: _looted(world))


@succeeds_when("open")
async def read_by_source(world: World) -> bool:
    for origin in origins(world):
        await world.ask("$JS.API.STREAM.CREATE.steal", stream("steal", sources=[origin]))
    return await world.comes(lambda: _looted(world))


@succeeds_when("shared")
async def read_by_mirror_made_through_a_reply(world: World) -> bool:
    await world.by_reply(
        "$JS.API.STREAM.CREATE.steal", stream("steal", mirror={"name": f"KV_{world.theirs}"})
    )
    return await world.comes(lambda: _looted(world))


@succeeds_when("shared")
async def read_by_source_into_the_own_bucket(world: World) -> bool:
    config = bucket_of(world.mine, sources=[{"name": f"KV_{world.theirs}"}])
    await world.by_reply(f"$JS.API.STREAM.UPDATE.KV_{world.mine}", config)
    return await world.comes(lambda: _looted(world))


@succeeds_when("shared")
async def read_by_snapshot(world: World) -> bool:
    heard = await world.listen("_INBOX.mallory.snapshot")
    body = {"deliver_subject": "_INBOX.mallory.snapshot"}
    await world.ask(f"$JS.API.STREAM.SNAPSHOT.KV_{world.theirs}", body)
    await world.by_reply(f"$JS.API.STREAM.SNAPSHOT.KV_{world.theirs}", body)
    return await world.comes(lambda: sum(map(len, heard)) > 200)


@succeeds_when("shared")
async def read_inboxes(world: World) -> bool:
    heard = await world.listen("_INBOX.>")
    await world.value(world.watch, world.theirs, "secret")
    return await world.comes(lambda: SECRET in heard)


@succeeds_when("open")
async def overhear_changes(world: World) -> bool:
    heard = await world.listen(f"kv_changes.{world.theirs}.>")
    heard_widely = await world.listen("kv_changes.>")
    await world.watch.request(f"$KV.{world.theirs}.another", SECRET, timeout=5)
    return await world.comes(lambda: SECRET in heard + heard_widely)


# ── Writing into the victim's bucket, or destroying it ───────────────────────────────────────────


@succeeds_when("open")
async def write_by_subject(world: World) -> bool:
    await world.ask(f"$KV.{world.theirs}.secret", MARK)
    return await world.comes(lambda: _marked(world))


@succeeds_when("shared")
async def write_through_a_reply(world: World) -> bool:
    await world.by_reply(f"$KV.{world.theirs}.secret", MARK)
    return await world.comes(lambda: _marked(world))


@succeeds_when("shared")
async def write_by_republish(world: World) -> bool:
    republish = {"src": f"$KV.{world.mine}.loot", "dest": f"$KV.{world.theirs}.secret"}
    config = bucket_of(world.mine, republish=republish)
    await world.ask(f"$JS.API.STREAM.UPDATE.KV_{world.mine}", config)
    await world.by_reply(f"$JS.API.STREAM.UPDATE.KV_{world.mine}", config)
    await world.ask(f"$KV.{world.mine}.loot", MARK)
    return await world.comes(lambda: _marked(world))


@succeeds_when("shared")
async def push_into_the_victims_inbox(world: World) -> bool:
    heard: list[bytes] = []
    world.watch.subscribe("_INBOX.victim.answer", lambda message: heard.append(message.data))
    await world.settle()
    await world.ask(f"$KV.{world.mine}.loot", MARK)
    body = consumer("_INBOX.victim.answer", bucket=world.mine)
    await world.ask(f"$JS.API.CONSUMER.CREATE.KV_{world.mine}.spy", body)
    await world.by_reply("_INBOX.victim.answer", MARK)
    return await world.comes(lambda: MARK in heard)


async def _marked(world: World) -> bool:
    return await world.secret() == MARK


async def _destroyed(world: World) -> bool:
    found = await world.look(f"STREAM.INFO.KV_{world.theirs}")
    return (
        "error" in found
        or found["config"]["subjects"] != [f"$KV.{world.theirs}.>"]
        or found["state"]["messages"] == 0
        or await world.secret() != SECRET
    )


async def _destroy(world: World, operation: str, body: Any) -> bool:
    subject = f"$JS.API.STREAM.{operation}.KV_{world.theirs}"
    await world.ask(subject, body)
    await world.by_reply(subject, body)
    return await world.comes(lambda: _destroyed(world))


@succeeds_when("shared")
async def purge(world: World) -> bool:
    return await _destroy(world, "PURGE", {})


@succeeds_when("shared")
async def delete(world: World) -> bool:
    return await _destroy(world, "DELETE", {})


@succeeds_when("shared")
async def delete_a_message(world: World) -> bool:
    # Not always the first: what the attack before forged may come late, into the bucket made anew.
    where = {"last_by_subj": f"$KV.{world.theirs}.secret"}
    found = await world.look(f"STREAM.MSG.GET.KV_{world.theirs}", where)
    return await _destroy(world, "MSG.DELETE", {"seq": found["message"]["seq"]})


@succeeds_when("shared")
async def update(world: World) -> bool:
    config = bucket_of(world.theirs, subjects=["elsewhere.>"])
    return await _destroy(world, "UPDATE", config)


@succeeds_when("open")
async def crowd_out_the_victims_consumers(world: World) -> bool:
    """Make a consumer on the victim's bucket, or remove one of it."""
    await world.look(
        f"CONSUMER.CREATE.KV_{world.theirs}.theirs",
        {
            "stream_name": f"KV_{world.theirs}",
            "config": {"name": "theirs", "deliver_subject": "_INBOX.victim.watch", "ack_policy": "none"},
            "action": "create",
        },
    )
    await world.ask(f"$JS.API.CONSUMER.DELETE.KV_{world.theirs}.theirs")

    async def gone() -> bool:
        names = await world.look(f"CONSUMER.NAMES.KV_{world.theirs}")
        return "theirs" not in (names.get("consumers") or [])

    return await world.comes(gone)


# ── The row service, events, the servers themselves ──────────────────────────────────────────────


async def _victims_table(world: World) -> None:
    for tail, body in (
        ("tables.define", {"table": "secrets", "columns": [{"name": "word", "type": "text"}]}),
        ("rows.insert", {"table": "secrets", "rows": [{"word": SECRET.decode()}]}),
    ):
        reply = await world.watch.request(
            f"storage.v1.{world.victim}.{tail}", json.dumps(body).encode(), timeout=20
        )
        assert b'"error"' not in reply.data, reply.data


@succeeds_when("open")
async def rows_by_the_victims_subject(world: World) -> bool:
    await _victims_table(world)
    got = await world.ask(f"storage.v1.{world.victim}.rows.select", {"table": "secrets"}, timeout=3)
    return b"secret" in got


@succeeds_when("open")
async def take_the_victims_requests(world: World) -> bool:
    """Listen where the row service listens, as one of its group."""
    heard = await world.listen(f"storage.v1.{world.victim}.rows.>")
    heard += await world.listen("storage.v1.*.rows.>")
    await _victims_table(world)
    return await world.comes(lambda: any(b"secrets" in message for message in heard))


@succeeds_when("open")
async def overhear_events(world: World) -> bool:
    every = [await world.listen(subject) for subject in ("storage.events.>", "storage.>", "*.events.>")]
    world.service.publish(f"storage.events.{world.victim}.slow", SECRET)
    return await world.comes(lambda: any(SECRET in heard for heard in every))


@succeeds_when("open")
async def forge_events(world: World) -> bool:
    heard: list[bytes] = []
    world.service.subscribe("storage.events.>", lambda message: heard.append(message.data))
    await world.settle()
    await world.say(f"storage.events.{world.victim}.error", MARK)
    return await world.comes(lambda: MARK in heard)


@succeeds_when("open")
async def ask_as_the_inspector(world: World) -> bool:
    world.service.subscribe(
        "storage.admin.>", lambda message: world.service.publish(message.reply.decode(), SECRET)
    )
    await world.settle()
    return SECRET in await world.ask("storage.admin.plugins")


@succeeds_when("open")
async def answer_for_the_row_service(world: World) -> bool:
    """Send a plugin the answer that the service has not given yet."""
    heard: list[bytes] = []
    world.watch.subscribe("_INBOX.victim.rows", lambda message: heard.append(message.data))
    await world.settle()
    await world.say("_INBOX.victim.rows", MARK)
    return await world.comes(lambda: MARK in heard)


async def _looted(world: World) -> bool:
    for item in await world.loot():
        data = json.loads(item).get("message", {}).get("data", "")
        if SECRET in base64.b64decode(data):
            return True
    return False
