"""Script that builds the namespaces of one program and runs it inside; started by `sandbox`, standard library only.

It makes new mount, network, PID, IPC and UTS namespaces (in a new user namespace unless it is root), and a root file
system in memory with the interpreter and system libraries read-only, a small writable /tmp, no /proc and no network.
Then it drops every privilege, becomes process 1 of the PID namespace and starts the program under the system-call
filter, as a user of its own. When the program or the pipeline exits, the kernel kills all processes left in the
namespace.
"""

# `json`, `re` and `signal` import `enum`, which takes longer than all that is done here.
import ctypes
import marshal
import os
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
FLAG_OF = {"ro": RDONLY, "nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC, "noatime": 1024, "nodiratime": 2048}
DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
SECCOMP_MODE_FILTER = 2
SIGKILL = 9
INSIDE = 1000
NEEDED = " without CAP_SETUID, CAP_SETGID and CAP_SETFCAP"

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call libc, with strings as bytes; raise an OSError naming the call if it fails."""
    plain = [a.encode() if isinstance(a, str) else ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(libc, name)(*plain) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def mount(source: str, target: str, kind: "str | None", flags: int, data: "str | None" = None) -> None:
    """Mount a file system, or a folder a second time."""
    call("mount", source, target, kind, flags, data)


def own_user() -> "int | None":
    """Return a user id that no other process has; None where there are not enough to choose from.

    The kernel counts processes by user, and exempts root: a program that shares its user shares its limit, or has none.
    """
    if os.getuid() != 0:
        return None
    with open("/proc/self/uid_map") as table:
        first, _, size = max((tuple(map(int, line.split())) for line in table), key=lambda each: each[2])
    half = size // 2
    return first + half + os.getpid() % (half - 1) if half > 1000 else None


def enter_namespaces(own: "int | None") -> "int | None":
    """Enter new namespaces; return the user to change to before the program starts, None if it is that already."""
    kinds = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    if own is not None:
        try:
            os.setgroups([])
        except OSError:
            raise OSError(f"root cannot be limited{NEEDED}") from None
        try:
            call("unshare", kinds)
            return own
        except OSError:
            pass
    uids, gids = ([f"{INSIDE} {mine} 1\n"] for mine in (os.getuid(), os.getgid()))
    if own is not None:
        # Files of root stay within reach of the mounts below, and the program is another user than root.
        uids = gids = ["0 0 1\n", f"{INSIDE} {own} 1\n"]
    waiting, entered = os.pipe()
    helper = os.fork()
    if not helper:
        # A process outside can map a user that is not its own, with the privilege for it.
        os.close(entered)
        if os.read(waiting, 1):
            for name, lines in (("setgroups", ["deny"]), ("uid_map", uids), ("gid_map", gids)):
                write(f"/proc/{os.getppid()}/{name}", "".join(lines))
        os._exit(0)
    call("unshare", kinds | NEWUSER)
    os.write(entered, b"x")
    if os.waitpid(helper, 0)[1]:
        raise OSError(f"no user of its own for the program{NEEDED if own is not None else ''}")
    return INSIDE if own is not None else None


def write(path: str, text: str) -> None:
    """Write a kernel file in one system call."""
    handle = os.open(path, os.O_WRONLY)
    os.write(handle, text.encode())
    os.close(handle)


def build_root(root: str, visible: "list[str]", links: "dict[str, str]", tmp: str) -> None:
    """Mount the program's root file system on the empty folder `root` and enter it; `tmp` has the options of /tmp."""
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=0755")
    os.umask(0o022)
    # First, since packages may be installed below it.
    os.mkdir(f"{root}/tmp")
    mount("tmpfs", f"{root}/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, tmp)
    for path in visible:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        mount(path, target, None, BIND | REC)
    for name, target in links.items():
        os.symlink(target, root + name)
    points = mounts_below(root)
    if len(points) <= len(visible) + 1:
        raise OSError(f"{len(points)} mounts in {root}, of {len(visible) + 2}")
    for point, flags in points:
        if point == f"{root}/tmp":
            continue
        guard = 0 if point.startswith(f"{root}/dev/") else NODEV
        mount("none", point, None, REMOUNT | BIND | RDONLY | NOSUID | guard | flags)
    os.chdir(root)
    # The old root is stacked on the new one and detached, so none of it can be reached.
    call("syscall", PIVOT_ROOT[os.uname().machine], ".", ".")
    call("umount2", ".", DETACH)
    os.chdir("/tmp")


PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def mounts_below(root: str) -> "list[tuple[str, int]]":
    """Return every mount at or below a folder with the flags that a remount must keep."""
    mounts = []
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split()
            # The kernel writes blanks and backslashes as octal escapes, and all other bytes as they are.
            point = os.fsdecode(fields[4].decode("unicode_escape").encode("latin-1"))
            if point == root or point.startswith(f"{root}/"):
                mounts.append((point, sum(FLAG_OF.get(name, 0) for name in fields[5].decode().split(","))))
    return mounts


def give_up_privileges(user: "int | None") -> None:
    """Change to another user, if one is given, and prevent regaining capabilities."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
            break
    if user is not None:
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Filter(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def restrict_calls(steps: bytes) -> None:
    """Apply the system-call filter to this process and all that it starts."""
    call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(steps) // 8, steps)), 0, 0)


def status_of(wait_status: int) -> int:
    """Return the exit code, 128 plus the signal number for a killed process."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def main() -> None:
    """Run the command given in the options; exit with its code."""
    options = marshal.loads(bytes.fromhex(sys.argv[1]))
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    user = enter_namespaces(own_user())
    init = os.fork()
    if init:
        sys.exit(status_of(os.waitpid(init, 0)[1]))
    call("sethostname", "sandbox", len("sandbox"))
    build_root(options["root"], options["visible"], options["links"], options["tmp"])
    give_up_privileges(user)
    # setuid clears PR_SET_PDEATHSIG, so set it again.
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    program = os.fork()
    if not program:
        os.setsid()
        restrict_calls(options["filter"])
        os.execve(options["command"][0], options["command"], options["env"])
    while True:
        ended, wait_status = os.wait()
        if ended == program:
            os._exit(status_of(wait_status))


if __name__ == "__main__":
    main()
