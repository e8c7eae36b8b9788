"""System-call filter of the sandbox: a seccomp program, assembled here for x86-64 and aarch64.

Calls that ordinary programs make are allowed. Denied are those that reach what no namespace separates (keyrings), take
memory that no process is charged for, make new namespaces, or lead into parts of the kernel that no program of a
benchmark needs. A call that is newer than this table, or of another calling convention (x32), does not exist inside.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import cache

# The convention that the kernel reports with each call, by machine; the order is that of the numbers below.
CONVENTIONS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEWEST = 466

# Numbers on x86-64 and on aarch64; None: it has no such call.
DENIED: dict[str, tuple[int, int | None]] = {
    # Keyrings: no namespace separates them.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Memory that is in no process, and may outlive all.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185),
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # Large parts of the kernel.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    # The machine.
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "ustat": (136, None),
    "sysfs": (139, None),
}
# Calls that are another call, with arguments behind a pointer where a filter cannot look: libc then takes the other.
MISSING = {"clone3": (435, 435)}

AF_UNIX = 1
NEW_NAMESPACES = 0x7E020000
SHARED_ANONYMOUS = 0x21
TERMINAL_INPUT, CONSOLE, LINE_DISCIPLINE = 0x5412, 0x541C, 0x5423
# Denied by an argument: numbers, the argument, the bits that count, and either the values that they must not have or
# the only one that they may have. Shared anonymous memory stays when a process has given its pages back.
DENIED_VALUES = {
    "clone": ((56, 220), 0, [(1 << bit, 1 << bit) for bit in range(32) if NEW_NAMESPACES >> bit & 1]),
    "mmap": ((9, 222), 3, [(SHARED_ANONYMOUS, SHARED_ANONYMOUS)]),
    "ioctl": ((16, 29), 1, [(0xFFFFFFFF, value) for value in (TERMINAL_INPUT, CONSOLE, LINE_DISCIPLINE)]),
}
ITSELF = 0
ONLY_VALUE = {
    "socket": ((41, 198), 0, AF_UNIX),
    "socketpair": ((53, 199), 0, AF_UNIX),
    "prlimit64": ((302, 261), 0, ITSELF),
}

# Instructions of classic BPF, and offsets in what the filter is shown of a call.
LOAD, AND, EQUAL, ABOVE, RETURN = 0x20, 0x54, 0x15, 0x25, 0x06
NUMBER_AT, CONVENTION_AT, ARGUMENTS_AT = 0, 4, 16
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
DENY, NO_SUCH_CALL = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS


@cache
def filter_for(machine: str | None = None) -> bytes | None:
    """Return the filter as the kernel reads it; None where its numbers are not known.

    Args:
        machine: `x86_64` or `aarch64`, as `uname` says; None: this machine.
    """
    machine = machine or os.uname().machine
    if machine not in CONVENTIONS:
        return None
    which = list(CONVENTIONS).index(machine)
    code = [
        _step(LOAD, CONVENTION_AT),
        _step(EQUAL, CONVENTIONS[machine], 1, 0),
        _step(RETURN, KILL),
        _step(LOAD, NUMBER_AT),
        *_return_if(ABOVE, NEWEST, NO_SUCH_CALL),
    ]
    for numbers, answer in [(n, DENY) for n in DENIED.values()] + [(n, NO_SUCH_CALL) for n in MISSING.values()]:
        number = numbers[which]
        if number is not None:
            code += _return_if(EQUAL, number, answer)
    for numbers, argument, patterns in DENIED_VALUES.values():
        code += _for_call(numbers[which], [step for each in patterns for step in _deny(argument, *each)])
    for numbers, argument, value in ONLY_VALUE.values():
        steps = [_step(LOAD, ARGUMENTS_AT + 8 * argument), _step(EQUAL, value, 1, 0), _step(RETURN, DENY)]
        code += _for_call(numbers[which], steps)
    return b"".join([*code, _step(RETURN, ALLOW)])


def number_of(name: str) -> int | None:
    """Return the number of a denied call on this machine; None if it has no such call."""
    machine = os.uname().machine
    return DENIED[name][list(CONVENTIONS).index(machine)] if machine in CONVENTIONS else None


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction; a comparison skips so many of the next ones."""
    return struct.pack("=HBBI", operation, if_true, if_false, value)


def _return_if(comparison: int, value: int, answer: int) -> list[bytes]:
    return [_step(comparison, value, 0, 1), _step(RETURN, answer)]


def _deny(argument: int, bits: int, value: int) -> list[bytes]:
    """Return the steps that deny a call by the low half of an argument."""
    return [_step(LOAD, ARGUMENTS_AT + 8 * argument), _step(AND, bits), *_return_if(EQUAL, value, DENY)]


def _for_call(number: int, steps: list[bytes]) -> list[bytes]:
    """Return the steps for one call, which is allowed unless they return; all others skip them."""
    return [_step(EQUAL, number, 0, len(steps) + 1), *steps, _step(RETURN, ALLOW)]
