"""The life of the service process: reach the database, then NATS; serve; answer what was accepted; leave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, Final, Protocol

from rosey_rowstore.events import Events, Publish
from rosey_rowstore.live_plugins import LivePlugins
from rosey_rowstore.migrations.sandbox import hide_process
from rosey_rowstore.service.binding import Binding, Handler
from rosey_rowstore.service.connection import ServiceConnection
from rosey_rowstore.service.health import Health, answer_probes
from rosey_rowstore.service.logs import configure_logging
from rosey_rowstore.service.tls import tls_context
from rosey_rowstore.settings import ServiceSettings

__all__ = ["DRAIN_SECONDS", "LEAVE_SECONDS", "Served", "run", "serve"]

# Containers are killed after ten seconds. What was accepted has longer than a statement may take by default;
# what is left of the ten is for the last answers, a migration's undoing and the connections.
DRAIN_SECONDS: Final = 7.0
_END_SECONDS: Final = 2.0
LEAVE_SECONDS: Final = 9.5
"""After so many seconds the process is gone, whatever hangs."""
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 1.0

_log = logging.getLogger("rosey.rowstore.service")


class Served(Handler, Protocol):
    """What the process opens, serves and closes."""

    @property
    def events(self) -> Events:
        """What it tells of itself."""

    def trouble(self) -> str | None:
        """Return why the database cannot be reached now, None when it can."""

    async def open(self) -> None:
        """Reach the database; raises when it is away."""

    async def close(self) -> None:
        """Let go of it."""


def run(settings: ServiceSettings, *, provision: bool) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    Args:
        settings: Where NATS and the database are.
        provision: Plugins are made on their first use, as in development.

    Raises:
        Fault: The settings or `plugins.toml` are wrong; nothing was started.
    """
    plugins = LivePlugins(settings.plugins)
    # Late, so that a wrong setting is told before the database libraries have loaded.
    from rosey_rowstore.application import Application  # noqa: PLC0415

    configure_logging(as_json=settings.environment == "production")
    # A revision runs as the same user: it must not read this process's memory and environment.
    hide_process()
    application = Application(
        settings.database,
        plugins,
        provision=provision,
        allow_rollback=settings.environment != "production",
        read_cache=settings.read_cache,
    )
    return _new_loop_run(serve(application, plugins, settings))


def _new_loop_run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop  # noqa: PLC0415 - it exists for Unix alone
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def serve(application: Served, plugins: LivePlugins, settings: ServiceSettings) -> int:
    """Serve `application` until a signal asks to stop; return the exit status."""
    stop = asyncio.Event()
    tls = tls_context(settings)
    health = Health(application)
    with _stopping(stop):
        async with answer_probes(settings.health, health):
            if await _unless(stop, _open(application)):
                connection = health.bus = ServiceConnection()
                connected = await _unless(
                    stop,
                    connection.open(
                        settings.servers, credentials=settings.credentials, name="rowstore", tls=tls
                    ),
                )
                if connected:
                    await _serve_on(connection, application, plugins, settings, stop, health=health)
                health.stage = "draining"
                await _in_time(connection.part())
            await _in_time(application.close())
    _log.info("stopped")
    return 0


async def _serve_on(
    connection: ServiceConnection,
    application: Served,
    plugins: LivePlugins,
    settings: ServiceSettings,
    stop: asyncio.Event,
    *,
    health: Health,
) -> None:
    application.events.go_out_by(_publisher(connection, f"{settings.subject}.events."))
    binding = Binding(connection, application, plugins, subject=settings.subject, timeout=settings.timeout)
    # What was made until here lives as long as the process: no need to look through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    binding.start()
    await connection.settle()
    health.stage = "serving"
    following = asyncio.create_task(plugins.follow(binding.limits_changed))
    _log.info("serving", extra={"subject": settings.subject, "pid": os.getpid()})
    await stop.wait()
    health.stage = "draining"
    following.cancel()
    _log.info("draining", extra={"pending": binding.pending})
    if left := await binding.drain(DRAIN_SECONDS):
        _log.warning("stopped before everything was answered", extra={"unanswered": left})


def _publisher(connection: ServiceConnection, prefix: str) -> Publish:
    def publish(place: str, body: bytes) -> None:
        if connection.answer(f"{prefix}{place}".encode(), body, None):
            _log.warning("an event is larger than NATS carries", extra={"place": place, "bytes": len(body)})

    return publish


async def _open(application: Served) -> None:
    """Open, however long the database is away; each new reason is logged once."""
    wait, told = _FIRST_WAIT, ""
    while True:
        try:
            await application.open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the database may be there in a moment
            if (reason := _reason(error)) != told:
                told = reason
                _log.warning("the database is away: %s", reason)
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, wait * 2)
        else:
            return


def _reason(error: BaseException) -> str:
    """Return an error as one line; what the database said, where the error stands for that."""
    return " ".join(str(error.__cause__ or error).split()) or type(error).__name__


async def _in_time(ending: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_SECONDS):
            await ending


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` unless `stop` comes first; say whether it was done."""
    doing = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        for task in (doing, stopping):
            task.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


def _give_up() -> None:
    """Leave at once: something waits for a server that does not answer, and a kill would come next."""
    _log.error("something did not end in time; leaving without it", extra={"seconds": LEAVE_SECONDS})
    os._exit(1)


@contextlib.contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        loop.call_later(LEAVE_SECONDS, _give_up)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
