"""Script that runs one program in a fresh interpreter, passed to it as text (see `sandbox`).

Standard input holds a secret line and then the program. The descriptor named on the command line gets one byte when
the program starts and, when it has finished, the secret, a status byte and the error. The secret distinguishes a
program that ran to its end from one that exited early with code 0.
"""

import _sitebuiltins
import builtins
import marshal
import os
import resource
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec


def main() -> None:
    """Set the limits, then execute the program as a module."""
    # `json` takes longer to import than most programs to run.
    options = marshal.loads(bytes.fromhex(sys.argv[1]))
    if options["executable"]:
        allow_execution(options["executable"])
    for name, value in options["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    verdict = options["verdict"]
    secret, _, source = sys.stdin.buffer.read().partition(b"\n")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.argv = ["program.py"]
    # Added by `site` otherwise, which is not loaded because it reads many files.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    sys.meta_path.append(Packages(options["packages"]))
    module = types.ModuleType("program")
    sys.modules["program"] = module
    process = os.getpid()
    os.write(verdict, b"\0")
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
        answer = secret + b"+"
    except BaseException as error:
        answer = secret + b"-" + describe(error, source).encode(errors="replace")[:1000]
    # A child forked by the program gets here, too, and must not report.
    if os.getpid() == process:
        os.write(verdict, answer + b"\n")
    # Do not wait for the program's threads or run its exit handlers.
    os._exit(0)


class Packages:
    """Finder of numpy; what else is in its folder stays unknown."""

    def __init__(self, folder: str) -> None:
        """Find in this folder; "" finds nothing."""
        self.folder = folder

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "types.ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the specification of the package, or None."""
        return sys.meta_path[2].find_spec(name, [self.folder]) if name == "numpy" and self.folder else None


def allow_execution(paths: "list[str]") -> None:
    """Allow files to be executed only at or below these paths, by Landlock, from now on.

    The other way of isolation mounts /tmp so that nothing in it can be executed, for which bubblewrap has no option.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    create, add, restrict, execute, path_beneath = 444, 445, 446, 1, 1

    def checked(*arguments: object) -> int:
        answer = int(libc.syscall(*arguments))
        if answer < 0:
            raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
        return answer

    rules = checked(create, (ctypes.c_uint64 * 1)(execute), ctypes.c_size_t(8), 0)
    for path in paths:
        place = os.open(path, os.O_PATH)
        checked(add, rules, path_beneath, execute.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder), 0)
        os.close(place)
    checked(restrict, rules, 0)
    os.close(rules)


def describe(error: BaseException, source: bytes) -> str:
    """Return the exception in one line, with the program's line that raised it."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "program.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = source.decode(errors="replace").split("\n")
    where = f" (line {line}: {lines[line - 1].strip()[:160]})" if line and line <= len(lines) else ""
    return f"{type(error).__name__}: {str(error)[:300]}".split("\n")[0].rstrip(": ") + where


main()
