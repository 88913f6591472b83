"""`rosey-storage dev` in a terminal: what it shows, what it waits for, how it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from rosey_deploy.stack.dev import DevOptions, DevStack, write_environment
from rosey_deploy.stack.process import Process
from rosey_deploy.stack.service import without_own_settings
from rosey_kvstore.errors import InvalidRequest, Unavailable

__all__ = ["run_dev"]

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 10.0


class _StopAsked(BaseException):
    """A signal asked to stop; not an `Exception`, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_dev(
    options: DevOptions, command: Sequence[str], *, env_file: Path | None, database_was_chosen: bool
) -> int:
    """Start the stack, stay up or run `command`, stop the stack; return the exit status.

    Args:
        options: What to start.
        command: What to run with the settings in its environment; empty to stay up.
        env_file: Where the settings are written as well.
        database_was_chosen: By the caller; else the choice is said out loud.

    Raises:
        StorageError: A server did not start, or ended by itself.
    """
    program = _find_program(command)
    screen = _Screen(options, env_file, brief=bool(command))
    screen.begin(database_was_chosen=database_was_chosen)
    with _signals_stop() as signals:
        try:
            with DevStack(options, told=screen.step) as stack:
                if env_file is not None:
                    write_environment(env_file, stack.settings)
                screen.ready(stack)
                try:
                    if program is not None:
                        return _run_command([program, *command[1:]], stack, signals)
                    _watch(stack)
                finally:
                    signals.disarm()
                    screen.stopping()
        except _StopAsked as asked:
            screen.stopped()
            # Staying up has no other end; a command that was never reached did not run.
            return 128 + asked.number if program is not None or not screen.was_ready else 0
    screen.stopped()
    return 0


def _find_program(command: Sequence[str]) -> str | None:
    if not command:
        return None
    found = shutil.which(command[0])
    if found is None:
        raise InvalidRequest(f"There is no program {command[0]!r} to run.", hint="Is it on the PATH?")
    return str(Path(found).absolute())


class _Signals:
    """Turns the first signal into `_StopAsked`; disarmed, it lets the stopping go on undisturbed."""

    def __init__(self) -> None:
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def asked(self, number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise _StopAsked(number)


@contextlib.contextmanager
def _signals_stop() -> Iterator[_Signals]:
    signals = _Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signals.asked) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(stack: DevStack) -> None:
    """Wait for a signal; a server that ends by itself is an error."""
    while True:
        _check(stack)
        time.sleep(_POLL_SECONDS)


def _check(stack: DevStack) -> None:
    for process in stack.processes:
        if process.returncode is not None:
            lines = "".join(f"\n  {line}" for line in process.last_lines())
            raise Unavailable(
                f"{process.name} ended by itself with status {process.returncode}. Its last lines:{lines}"
            )


def _run_command(command: Sequence[str], stack: DevStack, signals: _Signals) -> int:
    environment = {**without_own_settings(os.environ), "ROSEY_ENV": "development", **stack.settings}
    child = Process("the command", command, log=None, environment=environment, foreground=True)
    try:
        while child.returncode is None:
            _check(stack)
            time.sleep(_POLL_SECONDS / 4)
    except _StopAsked as asked:
        _end_command(child, asked.number)
    finally:
        signals.disarm()
        status = child.stop()
    return 128 - status if status < 0 else status


def _end_command(child: Process, number: int) -> None:
    """Let the command end in its own way, then insist; a terminal has told it of Ctrl-C itself."""
    if number != signal.SIGINT or not _in_foreground():
        child.signal(number)
    with contextlib.suppress(TimeoutError):
        child.wait(_PATIENCE_SECONDS)


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


class _Screen:
    """What the terminal shows: on stdout when the stack is the point, on stderr beside a command."""

    def __init__(self, options: DevOptions, env_file: Path | None, *, brief: bool) -> None:
        self._options = options
        self._env_file = env_file
        self._brief = brief
        self._console = Console(file=sys.stderr if brief else sys.stdout, highlight=False, soft_wrap=True)
        self.was_ready = False

    def begin(self, *, database_was_chosen: bool) -> None:
        self._console.print("[bold]Rosey storage[/], development stack")
        if not database_was_chosen and self._options.database == "sqlite":
            self._console.print(
                "  There is no embedded PostgreSQL for this platform: rows go to [bold]SQLite[/]."
            )

    def step(self, name: str, detail: str, seconds: float) -> None:
        line = Text.assemble(
            ("  ✓ ", "green"), f"{name:<22}", (f"{detail:<34}", "cyan"), (f"{seconds:5.1f} s", "dim")
        )
        self._console.print(line)

    def ready(self, stack: DevStack) -> None:
        self.was_ready = True
        data = _short(stack.data)
        self._console.print()
        if stack.secured is not None:
            self._line("plugins", ", ".join(self._options.parsed_plugins.plugins))
            self._line("credentials", f"{_short(stack.secured.credentials)}/plugin_<name>.creds")
            home = _short(stack.secured.context_home)
            self._line("nats tool", f"XDG_CONFIG_HOME={home} nats --context plugin_<name> kv ls")
        elif self._options.plugins is None:
            self._line("plugins", "any name works; its storage is made on first use")
        else:
            self._line("plugins", f"limits and buckets of {_short(self._options.plugins)}")
        self._line("rows", self._where_rows_live(stack))
        self._line("data, logs", f"{data}/ (kept when it stops)")
        if self._env_file is not None:
            self._line("settings", f"written to {_short(self._env_file)}")
        self._console.print()
        if self._brief:
            return
        for name, value in stack.settings.items():
            self._console.print(f"export {name}={_quoted(value)}", markup=False)
        self._console.print("\n[dim]Ctrl-C stops everything.[/]")

    def stopping(self) -> None:
        self._console.print("[dim]Stopping …[/]" if not self._brief else "\n[dim]Stopping the stack …[/]")

    def stopped(self) -> None:
        self._console.print(f"[dim]Stopped. The data stay in {_short(self._options.data)}/.[/]")

    def _where_rows_live(self, stack: DevStack) -> str:
        if stack.postgres is None:
            return f"SQLite, {_short(stack.data / 'rows')}/<plugin>.sqlite3"
        password = _short(stack.postgres.folder / "password")
        return f"PostgreSQL, port {stack.postgres.port}, user postgres, its password in {password}"

    def _line(self, name: str, value: str) -> None:
        self._console.print(Text.assemble(f"  {name:<12}", value))


def _short(path: Path) -> str:
    """Return a path as the user would type it."""
    try:
        return str(path.absolute().relative_to(Path.cwd())) or "."
    except ValueError:
        return str(path)


def _quoted(value: str) -> str:
    return value if all(letter.isalnum() or letter in "/:._-@" for letter in value) else f"'{value}'"
