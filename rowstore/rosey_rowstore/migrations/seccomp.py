"""A filter of system calls for the child: no network, no other process, no new program.

The kernel holds it whatever Python does, ctypes included. What the child needs, its connection to the
database above all, it has opened before.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

__all__ = ["install_filter", "supported"]

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_X32: Final = 0x40000000  # the second set of numbers of x86-64
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN: Final = 0x06
# Byte offsets in struct seccomp_data.
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_OWNER_COMMANDS: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others by way of a pipe
_OWNER_IOCTLS: Final = (0x8901, 0x8902, 0x5412)  # FIOSETOWN, SIOCSPGRP, TIOCSTI


@frozen(kw_only=True)
class _Machine:
    """The numbers of one architecture, from its kernel's unistd.h."""

    audit: int
    denied: Mapping[str, int]
    clone3: int
    prlimit64: int
    fcntl: int
    ioctl: int


# The same number on every architecture that came late.
_LATE: Final = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsmount": 432,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "mount_setattr": 442,
}

_MACHINES: Final = {
    "x86_64": _Machine(
        audit=0xC000003E,
        clone3=435,
        prlimit64=302,
        fcntl=72,
        ioctl=16,
        denied={
            "shmget": 29,
            "socket": 41,
            "connect": 42,
            "accept": 43,
            "bind": 49,
            "listen": 50,
            "socketpair": 53,
            "clone": 56,
            "fork": 57,
            "vfork": 58,
            "execve": 59,
            "kill": 62,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "rt_sigqueueinfo": 129,
            "personality": 135,
            "setpriority": 141,
            "sched_setparam": 142,
            "sched_setscheduler": 144,
            "pivot_root": 155,
            "chroot": 161,
            "mount": 165,
            "umount2": 166,
            "swapon": 167,
            "reboot": 169,
            "init_module": 175,
            "tkill": 200,
            "sched_setaffinity": 203,
            "tgkill": 234,
            "mq_open": 240,
            "kexec_load": 246,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "ioprio_set": 251,
            "migrate_pages": 256,
            "unshare": 272,
            "move_pages": 279,
            "accept4": 288,
            "rt_tgsigqueueinfo": 297,
            "perf_event_open": 298,
            "name_to_handle_at": 303,
            "open_by_handle_at": 304,
            "setns": 308,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "kcmp": 312,
            "finit_module": 313,
            "sched_setattr": 314,
            "bpf": 321,
            "execveat": 322,
            "userfaultfd": 323,
            "seccomp": 317,
            **_LATE,
        },
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        clone3=435,
        prlimit64=261,
        fcntl=25,
        ioctl=29,
        denied={
            "ioprio_set": 30,
            "umount2": 39,
            "mount": 40,
            "pivot_root": 41,
            "chroot": 51,
            "personality": 92,
            "unshare": 97,
            "kexec_load": 104,
            "init_module": 105,
            "ptrace": 117,
            "sched_setparam": 118,
            "sched_setscheduler": 119,
            "sched_setaffinity": 122,
            "kill": 129,
            "tkill": 130,
            "tgkill": 131,
            "rt_sigqueueinfo": 138,
            "setpriority": 140,
            "reboot": 142,
            "mq_open": 180,
            "msgget": 186,
            "semget": 190,
            "shmget": 194,
            "socket": 198,
            "socketpair": 199,
            "bind": 200,
            "listen": 201,
            "accept": 202,
            "connect": 203,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "clone": 220,
            "execve": 221,
            "swapon": 224,
            "migrate_pages": 238,
            "move_pages": 239,
            "rt_tgsigqueueinfo": 240,
            "perf_event_open": 241,
            "accept4": 242,
            "name_to_handle_at": 264,
            "open_by_handle_at": 265,
            "setns": 268,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "kcmp": 272,
            "finit_module": 273,
            "sched_setattr": 274,
            "seccomp": 277,
            "bpf": 280,
            "execveat": 281,
            "userfaultfd": 282,
            **_LATE,
        },
    ),
}

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Whether there is a filter for this system."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def install_filter() -> None:
    """Put this process under the filter, for good; `no_new_privs` must be set.

    Raises:
        OSError: The kernel takes none.
    """
    program = _program(_MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    whole = Filter(len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(whole), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")


def _program(machine: _Machine) -> list[Instruction]:
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    steps: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        refuse,
        # glibc falls back to clone, which is refused below.
        (_EQUAL, 0, 1, machine.clone3),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    for number in machine.denied.values():
        steps += [(_EQUAL, 0, 1, number), refuse]
    # Limits of one's own process may be read and lowered, those of others not touched.
    steps += [(_EQUAL, 0, 4, machine.prlimit64), (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, 0), allow, refuse]
    for number, values in ((machine.fcntl, _OWNER_COMMANDS), (machine.ioctl, _OWNER_IOCTLS)):
        steps += _refuse_second_argument(number, values)
    return [*steps, allow]


def _refuse_second_argument(number: int, values: Sequence[int]) -> list[Instruction]:
    checks: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS + 8)]
    for value in values:
        checks += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    checks.append((_RETURN, 0, 0, _ALLOW))
    return [(_EQUAL, 0, len(checks), number), *checks]
