"""Client of the launcher, a process that imports vLLM once and forks servers and benchmarks (`vllm_host.py`)."""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory

from pipeline.config.credentials import SECRET
from pipeline.errors import ServerError
from pipeline.hardware.probe import Hardware
from pipeline.serve.server_log import tail
from pipeline.serve.vllm_host import HostMessage, Start, Stop

LAUNCHER = Path(__file__).with_name("vllm_host.py")
# What makes vLLM ask for a key, leave out the plugin, log otherwise than is read here, or share others' state.
UNFIT = re.compile(
    r"VLLM_(API_KEY|PLUGINS|CONFIGURE_LOGGING|LOGGING_\w+|HOST_IP|PORT|USE_MODELSCOPE|RPC_BASE_PATH)"
    r"|PROMETHEUS_MULTIPROC_DIR"
)


class Launcher:
    """Process that has vLLM imported (see `vllm_host.py`)."""

    def __init__(self, python: str, environment: dict[str, str], log: Path) -> None:
        """Start the process, which imports vLLM in the background.

        Raises:
            ServerError: if `python` cannot be run.
        """
        self.python = python
        self.log = log
        # vLLM's sockets; the path of one has at most 107 bytes, so not below `outputs`. The process removes it too.
        self._sockets = TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True)
        self._failed: ServerError | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("a") as errors:
                self._process = subprocess.Popen(
                    [python, "-u", str(LAUNCHER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**environment, "VLLM_RPC_BASE_PATH": self._sockets.name},
                    text=True,
                    bufsize=1,
                )
        except OSError as error:
            raise ServerError(
                f"serve.python={python} cannot be run: {error.strerror}.", "Name a Python interpreter that has vLLM."
            ) from None
        self._answers: Queue[HostMessage | None] = Queue()
        self._codes: dict[int, int] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.versions: dict[str, str] = {}

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until vLLM is imported; a failure is remembered, and not waited for again.

        Raises:
            ServerError: if the import fails or takes longer than `timeout_s`.
        """
        if self.versions:
            return
        if self._failed is None:
            self._failed = self._why_not_ready(timeout_s)
        if self._failed is not None:
            raise self._failed

    def _why_not_ready(self, timeout_s: float) -> ServerError | None:
        """Wait until vLLM is imported; return the error if it is not."""
        try:
            answer = self._next(timeout_s)
        except ServerError as error:
            return error
        if "ready" in answer:
            self.versions = answer["packages"]
            return None
        return ServerError(
            f"vLLM cannot be imported by {self.python}: {answer.get('error', 'no answer')}.\n{tail(self.log)}",
            f"The log is {self.log}. Install vLLM there, or set serve.python.",
        )

    def start(self, name: str, module: str, argv: list[str], env: dict[str, str], log: Path) -> int:
        """Fork a child; return its pid."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._send({"start": name, "module": module, "argv": argv, "env": env, "log": str(log)})
        while True:
            answer = self._next(60)
            if "pid" in answer:
                return int(answer["pid"])

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a child, or None while it runs.

        Raises:
            ServerError: if the launcher has exited; its children end with it.
        """
        if not self.is_running():
            # Its last messages may still be on their way.
            self._listener.join(5)
        while True:
            try:
                self._note(self._answers.get_nowait())
            except Empty:
                break
        return self._codes.get(pid)

    def stop(self, pid: int, grace_s: float = 15) -> None:
        """Terminate a child and its descendants, and wait for its exit; with the launcher its children end anyway."""
        with suppress(ServerError):
            if self.exit_code(pid) is None and self.is_running():
                self._send({"stop": pid, "grace": grace_s})
                deadline = time.monotonic() + grace_s + 15
                while self.exit_code(pid) is None and time.monotonic() < deadline:
                    time.sleep(0.05)

    def is_running(self) -> bool:
        """Return whether the launcher process is alive."""
        return self._process.poll() is None

    def close(self) -> None:
        """Terminate the launcher and all its children."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._sockets.cleanup()

    @property
    def has_failed(self) -> bool:
        """True if vLLM could not be imported."""
        return self._failed is not None

    def _send(self, request: Start | Stop) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _next(self, timeout_s: float) -> HostMessage:
        try:
            answer = self._answers.get(timeout=timeout_s)
        except Empty:
            raise ServerError(
                f"The vLLM launcher did not answer within {timeout_s:.0f} s.", f"See {self.log}."
            ) from None
        return self._note(answer)

    def _note(self, answer: HostMessage | None) -> HostMessage:
        if answer is None:
            self._answers.put(None)
            raise self._gone()
        if "exited" in answer:
            self._codes[int(answer["exited"])] = int(answer["code"])
        return answer

    def _gone(self) -> ServerError:
        return ServerError(f"The vLLM launcher exited.\n{tail(self.log)}", f"Its log is {self.log}.")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)


# Launchers by interpreter and device. The jobs of a sweep share them, since importing vLLM takes many seconds.
_launchers: dict[tuple[str, str], Launcher] = {}


@atexit.register
def close_launchers() -> None:
    """Terminate every launcher and its children."""
    while _launchers:
        _launchers.popitem()[1].close()


def launcher_of(python: str, hardware: Hardware, logs: Path) -> Launcher:
    """Return the launcher of an interpreter, started if necessary.

    Args:
        python: an interpreter that has vLLM.
        hardware: the machine, which decides the device of the servers.
        logs: folder for its log.

    Raises:
        ServerError: if `python` cannot be run.
    """
    key = (python, hardware.device)
    if key in _launchers and not _launchers[key].is_running() and not _launchers[key].has_failed:
        _launchers.pop(key).close()
    if key not in _launchers:
        _launchers[key] = Launcher(python, {**environment(), **settled(hardware)}, logs / "launcher.log")
    return _launchers[key]


def settled(hardware: Hardware) -> dict[str, str]:
    """Return the variables that are set for every server of a machine."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}
    if hardware.device == "cpu":
        # vLLM's CPU worker reads it to choose the number of threads of the engine process.
        return {**quiet, "CUDA_VISIBLE_DEVICES": ""}
    # Triton's own default: vLLM would compile the same kernels again for each variant, into a folder of its own.
    kernels = Path(os.environ.get("TRITON_HOME") or Path.home(), ".triton", "cache")
    return {**quiet, "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR") or str(kernels)}


def environment() -> dict[str, str]:
    """Return the environment of servers and clients: the user's, without keys and what does not concern them."""
    return {
        name: value for name, value in os.environ.items() if not SECRET.fullmatch(name) and not UNFIT.fullmatch(name)
    }
