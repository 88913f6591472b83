"""Start a server so that it ends with its parent, wait until it answers, stop it by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from rosey_kvstore.errors import Unavailable

__all__ = ["Account", "Process"]

_GUARD = Path(__file__).with_name("guard.py")
_LONGEST_LOG = 8 * 1024 * 1024
_USE_DEATH_SIGNAL = sys.platform == "linux"


@frozen(kw_only=True)
class Account:
    """The system user a child runs as; `search` lets it pass through folders that are closed to it."""

    uid: int
    gid: int
    search: bool = False


class _Spawner:
    """One thread that starts every child and never ends.

    Linux sends the death signal when the *thread* that forked ends, not the process: a child started
    from a worker thread would be stopped as soon as that thread has nothing left to do.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owner: int | None = None

    def run(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():  # first use, or a fork that left the thread behind
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, args=(self._jobs,), daemon=True, name="spawner").start()
                self._owner = os.getpid()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, future))
        return future.result()

    @staticmethod
    def _work(jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
        while True:
            start, future = jobs.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller, not to this thread
                future.set_exception(error)


_spawner = _Spawner()


class Process:
    """A running child.

    Args:
        name: What messages call it, as `nats-server`.
        command: The program, as an absolute path, and its arguments.
        log: Where its output goes; None leaves it the parent's terminal.
        environment: Its whole environment; None for the parent's.
        stop_signal: What asks it to stop, also sent when the parent dies.
        account: The user it runs as; None for the parent's own.
        foreground: It shares the parent's terminal and process group, so that Ctrl-C reaches it.

    Raises:
        Unavailable: It could not be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path | None,
        environment: Mapping[str, str] | None = None,
        stop_signal: int = signal.SIGTERM,
        account: Account | None = None,
        foreground: bool = False,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._stop_signal = stop_signal
        # Of the pipe the parent keeps one end, and only its death closes that.
        self._watched = None if _USE_DEATH_SIGNAL else os.pipe()
        output: IO[bytes] | None = _open_log(log) if log else None
        plan = {
            "parent": os.getpid(),
            "pipe": self._watched[0] if self._watched else None,
            "signal": int(stop_signal),
            "foreground": foreground,
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "search": account.search if account else False,
        }
        arguments = [sys.executable, "-I", "-S", str(_GUARD), json.dumps(plan), *map(str, command)]
        try:
            self._popen = _spawner.run(
                lambda: subprocess.Popen(
                    arguments,
                    stdin=None if foreground else subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if output else None,
                    env=None if environment is None else dict(environment),
                    start_new_session=not foreground,
                    pass_fds=() if self._watched is None else (self._watched[0],),
                    cwd=cwd,
                )
            )
        except OSError as error:
            self._close_pipe()
            raise Unavailable(f"{name} could not be started: {error}.") from error
        finally:
            if output:
                output.close()

    @property
    def pid(self) -> int:
        """The process to signal."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def wait_until(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Wait until `ready` says so.

        Raises:
            Unavailable: It ended before, or `timeout` seconds were not enough; the last lines of its log
                are in the message.
        """
        deadline = time.monotonic() + timeout
        pause = 0.005
        while not ready():
            if self.returncode is not None:
                raise Unavailable(f"{self.name} ended with status {self.returncode}.{self._last_words()}")
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} did not answer within {timeout:g} s.{self._last_words()}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended; `TimeoutError` when it has not within `timeout`."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from error

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._popen.send_signal(number)

    def stop(self, *, timeout: float = 10.0) -> int:
        """Ask it to stop, insist after `timeout` seconds, and return its exit status."""
        if self.returncode is None:
            self.signal(self._stop_signal)
            with contextlib.suppress(TimeoutError):
                self.wait(timeout)
        return self.kill()

    def kill(self) -> int:
        """End it at once, as a crash would, and return its exit status."""
        if self.returncode is None:
            if self._watched:  # the guard kills the server first, or nobody would
                self.signal(signal.SIGUSR1)
                with contextlib.suppress(TimeoutError):
                    self.wait(2.0)
            self._popen.kill()
        status = self._popen.wait()
        self._close_pipe()
        return status

    def last_lines(self, count: int = 8) -> list[str]:
        """Return the end of its log."""
        if self.log is None or not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16_384))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]

    def _last_words(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.last_lines())
        return f" The end of {self.log}:{lines}" if lines else ""

    def _close_pipe(self) -> None:
        if self._watched:
            for end in self._watched:
                with contextlib.suppress(OSError):
                    os.close(end)
            self._watched = None


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LONGEST_LOG:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")
