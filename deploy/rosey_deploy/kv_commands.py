"""`rosey-storage kv …`: a plugin's keys from the command line, as the plugin itself writes them.

Keys are given and shown decoded (`user:bob`, not `user=3Abob`), values as JSON. On a terminal the answers are
tables; piped, they are JSON, one object a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from rich.console import Console
from rich.text import Text

from rosey_deploy.kv_output import Output, change_members, compact, entry_members, local_time
from rosey_kvstore import KV
from rosey_kvstore.connection import Connection
from rosey_kvstore.errors import InvalidJson, InvalidName, InvalidRequest, NotProvisioned
from rosey_kvstore.jetstream import JetStreamBackend
from rosey_rowstore.protocol import Fault, check_plugin, owned_name
from rosey_storage import Storage
from rosey_storage.local import local_target
from rosey_storage.settings import Settings

__all__ = ["kv_app"]

kv_app = typer.Typer(
    name="kv",
    help="Look into a plugin's keys and values, and change them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Plugin = Annotated[str, typer.Argument(help="The plugin's name.", show_default=False)]
Key = Annotated[str, typer.Argument(help="The key, as the plugin writes it.", show_default=False)]
Prefix = Annotated[str, typer.Argument(help="Only keys that begin with this text.")]
Url = Annotated[
    str | None,
    typer.Option("--url", help="nats://… or sqlite:…; default: ROSEY_STORAGE_URL.", show_default=False),
]
Credentials = Annotated[
    Path | None,
    typer.Option(
        "--credentials",
        help="NATS credentials file; default: ROSEY_STORAGE_CREDENTIALS.",
        show_default=False,
    ),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


@kv_app.command("ls")
def list_keys(
    plugin: Plugin,
    prefix: Prefix = "",
    values: Annotated[bool, typer.Option("--values", "-v", help="Show the values too.")] = False,
    url: Url = None,
    credentials: Credentials = None,
) -> None:
    """List live keys in order; piped, one JSON object a line."""

    async def work(kv: KV, output: Output) -> None:
        found = [item async for item in _items(kv, prefix, values=values)]
        if not output.for_people:
            for key, value in found:
                output.line(entry_members(key, value) if values else {"key": key})
            return
        columns = ["Key", "Value"] if values else ["Key"]
        rows = ([key, compact(value)] if values else [key] for key, value in found)
        where = f" beginning with {prefix!r}" if prefix else ""
        output.table(columns, rows, f"{len(found):,} live keys of {plugin}{where}")

    _run(plugin, url, credentials, work)


@kv_app.command("get")
def get_value(
    plugin: Plugin,
    key: Key,
    entry: Annotated[bool, typer.Option("--entry", "-e", help="Show revision and times too.")] = False,
    url: Url = None,
    credentials: Credentials = None,
) -> None:
    """Print the value of a key as JSON; exit status 1 when there is none."""

    async def work(kv: KV, output: Output) -> None:
        found = await kv.entry(key)
        if found is None:
            _fail(f"{plugin} has no live value under {key!r}.")
        if not entry:
            output.value(found.value)
        elif output.for_people:
            output.table(
                ["Key", "Revision", "Created", "Expires"],
                [[key, str(found.revision), local_time(found.created), local_time(found.expires)]],
                "",
            )
            output.value(found.value)
        else:
            expires = found.expires.isoformat() if found.expires else None
            times = {"revision": found.revision, "created": found.created.isoformat(), "expires": expires}
            output.line(entry_members(key, found.value) | times)

    _run(plugin, url, credentials, work)


@kv_app.command("set")
def set_value(  # noqa: PLR0917  # typer reads options off the parameters
    plugin: Plugin,
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON; `-` reads it from standard input.", show_default=False)],
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", help="Expires after this: 90, 90s, 15m, 2h, 1d.", show_default=False),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Only where no live value is.")] = False,
    revision: Annotated[
        int | None, typer.Option("--revision", help="Only over this revision.", show_default=False)
    ] = None,
    url: Url = None,
    credentials: Credentials = None,
) -> None:
    """Store a value and print its revision."""

    async def work(kv: KV, output: Output) -> None:
        parsed = _parse_value(sys.stdin.read() if value == "-" else value)
        lifetime = None if ttl is None else _parse_ttl(ttl)
        if create and revision is not None:
            raise InvalidRequest("--create and --revision exclude each other.")
        if create:
            written = await kv.create(key, parsed, ttl=lifetime)
        elif revision is not None:
            written = await kv.update(key, parsed, revision=revision, ttl=lifetime)
        else:
            written = await kv.set(key, parsed, ttl=lifetime)
        if output.for_people:
            output.note(f"{key} is stored as revision {written}.")
        else:
            output.line({"key": key, "revision": written})

    _run(plugin, url, credentials, work)


@kv_app.command("rm")
def remove(  # noqa: PLR0917  # typer reads options off the parameters
    plugin: Plugin,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys to delete.", show_default=False)] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Every key beginning with this.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting a prefix.")] = False,
    url: Url = None,
    credentials: Credentials = None,
) -> None:
    """Delete keys; exit status 1 when none of them had a value."""

    async def work(kv: KV, output: Output) -> None:
        if (not keys) == (prefix is None):
            raise InvalidRequest("rm takes either keys or --prefix.")
        if prefix is None:
            count = await kv.delete_many(keys)
        else:
            if prefix and not yes:
                await _confirm(kv, plugin, prefix)
            count = await kv.delete_many(prefix=prefix)
        if output.for_people:
            output.note(f"{count:,} of {plugin}'s keys are deleted.")
        else:
            output.line({"deleted": count})
        if not count:
            _fail("There was no live value to delete.")

    _run(plugin, url, credentials, work)


@kv_app.command("history")
def show_history(plugin: Plugin, key: Key, url: Url = None, credentials: Credentials = None) -> None:
    """Show what is kept of a key, newest last; exit status 1 when nothing is."""

    async def work(kv: KV, output: Output) -> None:
        changes = await kv.history(key)
        if not changes:
            _fail(f"{plugin} keeps nothing of {key!r}.")
        if not output.for_people:
            for change in changes:
                output.line(change_members(change))
            return
        rows = (
            [
                str(change.revision),
                local_time(change.created),
                change.operation,
                compact(change.value) if change.operation == "set" else "",
            ]
            for change in changes
        )
        output.table(["Revision", "Time", "Operation", "Value"], rows, f"History of {key} of {plugin}")

    _run(plugin, url, credentials, work)


@kv_app.command("watch")
def watch_changes(
    plugin: Plugin,
    prefix: Prefix = "",
    current: Annotated[bool, typer.Option("--current", "-c", help="Tell first what is there.")] = False,
    url: Url = None,
    credentials: Credentials = None,
) -> None:
    """Print changes as they happen, until stopped with Ctrl-C."""

    async def work(kv: KV, output: Output) -> None:
        async with kv.watch(prefix=prefix, current=current) as changes:
            output.note(f"Watching {plugin}'s keys{f' {prefix}…' if prefix else ''}; Ctrl-C ends it.")
            async for change in changes:
                output.change(change)

    # Ctrl-C is how a watch ends, not a failure of it.
    with contextlib.suppress(KeyboardInterrupt):
        _run(plugin, url, credentials, work)


async def _items(kv: KV, prefix: str, *, values: bool) -> AsyncIterator[tuple[str, Any]]:
    if values:
        async for item in kv.items(prefix=prefix):
            yield item
        return
    cursor = None
    while True:
        page = await kv.list(prefix=prefix, limit=10_000, cursor=cursor)
        for key in page.keys:
            yield key, None
        cursor = page.next_cursor
        if cursor is None:
            return


async def _confirm(kv: KV, plugin: str, prefix: str) -> None:
    found = [key async for key, _ in _items(kv, prefix, values=False)]
    if not found:
        return
    if not sys.stdin.isatty():
        raise InvalidRequest(f"{len(found):,} keys of {plugin} would go.", hint="Give --yes to delete them.")
    typer.confirm(f"Delete {len(found):,} keys of {plugin} that begin with {prefix!r}?", abort=True)


def _parse_value(text: str) -> Any:
    def refuse(name: str) -> Never:
        raise ValueError(f"{name} is no JSON value")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        quoted = json.dumps(text.strip(), ensure_ascii=False)
        hint = f"For text write '{quoted}', quoted for the shell and for JSON." if len(text) < 200 else None
        raise InvalidJson(f"The value is no JSON: {error}.", hint=hint) from error


def _parse_ttl(text: str) -> dt.timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text!r} is no time.", path="--ttl", hint="As 90, 90s, 15m, 2h or 1d.")
    try:
        return dt.timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])
    except OverflowError as error:
        raise InvalidRequest(f"{text!r} is too long a time.", path="--ttl") from error


@asynccontextmanager
async def _opened(plugin: str, settings: Settings) -> AsyncIterator[KV]:
    """Open the plugin's bucket, never make one: a mistyped name is an error, not a new bucket."""
    if settings.local:
        target = local_target(plugin, settings)
        if not (isinstance(target, Path) and target.exists()):
            raise NotProvisioned(f"{plugin} has no storage at {target}.", hint="The plugin makes it first.")
        async with Storage.connect(plugin, url=settings.url) as storage:
            yield storage.kv
        return
    connection = await Connection.open(
        settings.servers,
        credentials=settings.credentials_of(plugin),
        tls=settings.tls,
        name="rosey-storage kv",
        timeout=settings.timeout,
    )
    try:
        backend = JetStreamBackend(
            connection, bucket=owned_name(plugin), create=None, timeout=settings.timeout
        )
        kv = KV(backend, plugin=plugin, timeout=settings.timeout)
        try:
            yield kv
        finally:
            await kv.close()
    finally:
        await connection.close()


def _run(
    plugin: str, url: str | None, credentials: Path | None, work: Callable[[KV, Output], Awaitable[None]]
) -> None:
    async def run() -> None:
        try:
            check_plugin(plugin)
        except Fault as fault:
            raise InvalidName(fault.message, hint=fault.hint) from fault
        given = {"url": url, "credentials": credentials}
        settings = Settings.load(None, **{name: value for name, value in given.items() if value is not None})
        async with _opened(plugin, settings) as kv:
            await work(kv, Output())

    asyncio.run(run())


def _fail(message: str) -> Never:
    """End with status 1, for an answer that is no error of the storage's: there is nothing."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(message))
    raise typer.Exit(1)
