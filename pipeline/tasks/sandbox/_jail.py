"""Script that builds the namespaces of one program and runs it inside; started by `sandbox`, standard library only.

It makes new mount, network, PID, IPC and UTS namespaces (in a new user namespace unless it is root), and a root file
system in memory with the interpreter and system libraries read-only, a small writable /tmp, no /proc and no network.
Then it drops every privilege, becomes process 1 of the PID namespace and starts the program. When the program or the
pipeline exits, the kernel kills all processes left in the namespace.
"""

import ctypes
import json
import os
import signal
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
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
NOBODY = 65534
INSIDE = 1000
DEVICES = ("null", "zero", "full", "random", "urandom")

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


def enter_namespaces() -> bool:
    """Enter new namespaces; return whether that required a user namespace."""
    kinds = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        try:
            call("unshare", kinds)
            return False
        except OSError:
            pass
    call("unshare", kinds | NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{INSIDE} {uid} 1")
    write("/proc/self/gid_map", f"{INSIDE} {gid} 1")
    return True


def write(path: str, text: str) -> None:
    """Write a kernel file in one system call."""
    handle = os.open(path, os.O_WRONLY)
    os.write(handle, text.encode())
    os.close(handle)


def build_root(root: str, visible: "list[str]", links: "dict[str, str]", tmp_bytes: int) -> None:
    """Mount the program's root file system on the empty folder `root` and enter it."""
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=0755")
    os.umask(0o022)
    for path in [*visible, *(f"/dev/{name}" for name in DEVICES)]:
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        mount(path, target, None, BIND | REC)
    for name, target in links.items():
        os.symlink(target, root + name)
    os.mkdir(f"{root}/tmp")
    os.symlink("/tmp", f"{root}/dev/shm")
    for point, flags in mounts_below(root):
        guard = 0 if point.startswith(f"{root}/dev/") else NODEV
        mount("none", point, None, REMOUNT | BIND | RDONLY | NOSUID | guard | flags)
    mount("tmpfs", f"{root}/tmp", "tmpfs", NOSUID | NODEV | NOEXEC, f"size={tmp_bytes},nr_inodes=4096,mode=1777")
    os.chdir(root)
    # The old root is stacked on the new one and detached, so none of it can be reached.
    call("syscall", PIVOT_ROOT[os.uname().machine], ".", ".")
    call("umount2", ".", DETACH)
    os.chdir("/tmp")


PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217}


def mounts_below(root: str) -> "list[tuple[str, int]]":
    """Return every mount at or below a folder with the flags that a remount must keep."""
    mounts = []
    with open("/proc/self/mountinfo") as table:
        for line in table:
            fields = line.split()
            point = fields[4].encode().decode("unicode_escape")
            if point == root or point.startswith(f"{root}/"):
                mounts.append((point, sum(FLAG_OF.get(name, 0) for name in fields[5].split(","))))
    return mounts


def give_up_privileges(is_root: bool) -> None:
    """Change from root to a user id shared with no other process, and prevent regaining capabilities."""
    if is_root:
        os.setgroups([])
        # Process limits are counted per user, so each program needs its own.
        for uid in (10_000_000 + os.getppid(), NOBODY):
            try:
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                break
            except OSError:
                if uid == NOBODY:
                    raise
    else:
        for capability in range(64):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == -1:
                break
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def status_of(wait_status: int) -> int:
    """Return the exit code, 128 plus the signal number for a killed process."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def main() -> None:
    """Run the command given in the options; exit with its code."""
    options = json.loads(sys.argv[1])
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    has_user_namespace = enter_namespaces()
    init = os.fork()
    if init:
        sys.exit(status_of(os.waitpid(init, 0)[1]))
    build_root(options["root"], options["visible"], options["links"], options["tmp_bytes"])
    give_up_privileges(not has_user_namespace)
    # setuid clears PR_SET_PDEATHSIG, so set it again.
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    program = os.fork()
    if not program:
        os.setsid()
        os.execve(options["command"][0], options["command"], options["env"])
    while True:
        ended, wait_status = os.wait()
        if ended == program:
            os._exit(status_of(wait_status))


if __name__ == "__main__":
    main()
