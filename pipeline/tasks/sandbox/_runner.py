"""Runs one program in the interpreter that was started for it; passed to that interpreter as text (see `sandbox`).

Standard input holds a secret line and then the program. The descriptor named on the command line gets one byte when
the program starts and, once it is through, the secret with `passed`, or what went wrong. The secret tells a program
that ran to its end from one that left early with a good exit code.
"""

import _sitebuiltins
import builtins
import json
import os
import resource
import sys
import types


def main() -> None:
    """Sets the limits, then executes the program as a module of its own."""
    options = json.loads(sys.argv[1])
    for name, value in options["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    verdict = options["verdict"]
    secret, _, source = sys.stdin.buffer.read().partition(b"\n")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["program.py"]
    # What `site` would have added; it is not loaded, because it reads a good many files.
    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    module = types.ModuleType("program")
    sys.modules["program"] = module
    process = os.getpid()
    os.write(verdict, b"\0")
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
        answer = secret + b"passed"
    except BaseException as error:
        answer = secret + describe(error, source).encode(errors="replace")[:1000]
    # A child that the program forked comes here, too, and has no say.
    if os.getpid() == process:
        os.write(verdict, answer + b"\n")
    # Threads and exit handlers of the program are no part of it.
    os._exit(0)


def describe(error: BaseException, source: bytes) -> str:
    """The exception in one line, with the program's line that raised it."""
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
