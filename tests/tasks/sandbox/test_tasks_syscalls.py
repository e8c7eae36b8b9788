"""The system-call filter, step by step as the kernel would, for both machines."""

import errno
import re
import struct
from pathlib import Path

import pytest

from pipeline.tasks.sandbox import syscalls
from pipeline.tasks.sandbox.syscalls import ALLOW, CONVENTIONS, DENIED, KILL, filter_for

MACHINES = list(CONVENTIONS)
EPERM, ENOSYS = (syscalls.ERRNO | code for code in (errno.EPERM, errno.ENOSYS))
# Numbers of calls that every program makes, of the kernel's tables.
ORDINARY = {
    "x86_64": (0, 1, 2, 3, 9, 12, 59, 231, 257, 202, 16),
    "aarch64": (56, 57, 63, 64, 93, 98, 214, 222, 221, 29),
}
CHECKED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "mmap": (9, 222),
    "ioctl": (16, 29),
    "clone3": (435, 435),
}

# The kernel's own tables, as Debian's linux-libc-dev has them; names that its release does not have are newer.
TABLES = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(machine: str, number: int, *arguments: int, convention: int | None = None) -> int:
    """The filter's answer to a call."""
    code = filter_for(machine)
    assert code is not None
    values = [*arguments, *[0] * (6 - len(arguments))]
    call = struct.pack("=IIQ6Q", number, CONVENTIONS[machine] if convention is None else convention, 0, *values)
    steps = [struct.unpack_from("=HBBI", code, place) for place in range(0, len(code), 8)]
    place = accumulator = 0
    while True:
        operation, if_true, if_false, value = steps[place]
        place += 1
        if operation == syscalls.LOAD:
            (accumulator,) = struct.unpack_from("=I", call, value)
        elif operation == syscalls.AND:
            accumulator &= value
        elif operation == syscalls.RETURN:
            return int(value)
        else:
            is_true = accumulator == value if operation == syscalls.EQUAL else accumulator > value
            place += if_true if is_true else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_ordinary_calls_pass_and_denied_ones_do_not(machine: str) -> None:
    which = MACHINES.index(machine)
    assert {answer(machine, number) for number in ORDINARY[machine]} == {ALLOW}
    denied = [numbers[which] for numbers in DENIED.values() if numbers[which] is not None]
    assert {answer(machine, number) for number in denied} == {EPERM}
    assert len(denied) == len(set(denied)) > 70
    assert not set(denied) & set(ORDINARY[machine])


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine: str) -> None:
    number = {name: numbers[MACHINES.index(machine)] for name, numbers in CHECKED.items()}
    for call in ("socket", "socketpair"):
        assert answer(machine, number[call], 1) == ALLOW
        assert {answer(machine, number[call], family) for family in (2, 10, 16, 17, 38, 40)} == {EPERM}
    thread, new_user, new_cgroup = 0x3D0F00, 0x10000000, 0x02000000
    assert answer(machine, number["clone"], thread) == ALLOW
    assert {answer(machine, number["clone"], flags | 17) for flags in (new_user, new_cgroup)} == {EPERM}
    assert answer(machine, number["clone3"]) == ENOSYS
    private_anonymous, shared_file, shared_anonymous, validated = 0x22, 0x01, 0x21, 0x23
    assert {answer(machine, number["mmap"], 0, 4096, 3, f) for f in (private_anonymous, shared_file)} == {ALLOW}
    assert answer(machine, number["mmap"], 0, 4096, 3, shared_anonymous) == EPERM
    assert answer(machine, number["mmap"], 0, 4096, 3, validated) == EPERM
    assert answer(machine, number["ioctl"], 0, 0x5412) == EPERM
    assert answer(machine, number["ioctl"], 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_other_conventions_and_newer_calls_do_not_exist(machine: str) -> None:
    i386, x32 = 0x40000003, 0x40000000
    assert answer(machine, 20, convention=i386) == KILL
    assert {answer(machine, number) for number in (x32 | 1, 470, 10_000, 0xFFFFFFFF)} == {ENOSYS}


def test_another_machine_has_no_filter() -> None:
    assert filter_for("riscv64") is None


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    if not TABLES[machine].is_file():
        pytest.skip(f"{TABLES[machine]} is not there")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", TABLES[machine].read_text())
    kernels = {name: int(number) for name, number in defined}
    which = MACHINES.index(machine)
    ours = {name: numbers[which] for name, numbers in (DENIED | CHECKED).items() if numbers[which] is not None}
    known = kernels.keys() & ours
    assert len(known) > 70
    assert {name: ours[name] for name in known} == {name: kernels[name] for name in known}
