"""The first moments of every child: drop root, tie its life to its parent's, become the server.

Run as a script with an interpreter that loads nothing else (`python -I -S guard.py JSON COMMAND …`), so
that all of it happens in a process with one thread and without code between fork and exec in the parent.

On Linux the kernel sends a signal when the parent ends, and this process becomes the server itself.
Elsewhere it stays beside the server and reads a pipe whose other end only the parent holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522
_GRACE_SECONDS = 15.0


def _prctl(option: int, *arguments: int) -> bool:
    # Every argument as a long: the kernel refuses stray bits in the unused ones.
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, *padded) == 0)


def _become(uid: int, gid: int, *, search: bool) -> None:
    """Give up root; with `search`, keep the one right to pass through folders closed to `uid`."""
    if search:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if search and not any(map(_keep, (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE))):
        raise OSError(f"uid {uid} can't be given the right to pass through closed folders")


def _keep(capability: int) -> bool:
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # effective, permitted, inheritable; then the same for capabilities from 32 up.
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, data) != 0:
        return False
    return _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _run(command: list[str]) -> NoReturn:
    # Python ignores these two for itself; a server that inherits that would miss its broken pipes.
    for name in ("SIGPIPE", "SIGXFSZ"):
        with contextlib.suppress(AttributeError):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 - becoming the server is what this is for


def _stay_beside(command: list[str], plan: dict[str, Any]) -> int:
    """Run `command` as a child until it ends, or until the parent does."""
    passed_on = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # none may be lost before the handlers stand
    child = os.fork()
    if child == 0:
        os.close(plan["pipe"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        _run(command)
    gone = threading.Event()

    def send(number: int, _: object = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            # A SIGKILL to this process would leave the child alone, so it comes as SIGUSR1.
            os.kill(child, signal.SIGKILL if number == signal.SIGUSR1 else number)

    def watch() -> None:
        os.read(plan["pipe"], 1)  # nothing is ever written: it returns when the parent is gone
        send(plan["signal"])
        if not gone.wait(_GRACE_SECONDS):
            send(signal.SIGUSR1)

    for number in passed_on:
        signal.signal(number, send)
    if plan["foreground"]:  # the terminal itself tells the child of Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(child, 0)
    gone.set()
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL has no other way to be
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def main() -> int:
    """Follow the plan in the first argument, then run the command in the others."""
    plan, command = json.loads(sys.argv[1]), sys.argv[2:]
    if plan["uid"] is not None:
        _become(plan["uid"], plan["gid"], search=plan["search"])
    if plan["pipe"] is not None:
        return _stay_beside(command, plan)
    # After setuid, which clears it.
    _prctl(_PR_SET_PDEATHSIG, plan["signal"])
    if os.getppid() != plan["parent"]:
        return 1  # it ended before the kernel was asked to tell
    _run(command)


if __name__ == "__main__":
    sys.exit(main())
