"""vLLM servers, one at a time, and vLLM's load generator: start, monitor, stop."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypedDict
from urllib.request import getproxies_environment

from pipeline.artifacts.keys import Payload
from pipeline.config import ServeSettings, Settings
from pipeline.config.file_names import file_name
from pipeline.config.serve import PARALLEL, parallel_options
from pipeline.errors import InputError, NotApplicable, ServerError
from pipeline.hardware.installed import vllm_version
from pipeline.hardware.probe import Hardware
from pipeline.hardware.vllm_kernels import is_asked_for, is_logged
from pipeline.models import generation
from pipeline.models.loading import release_memory
from pipeline.progress import Progress
from pipeline.results.server import ServerFacts
from pipeline.results.text import clean
from pipeline.serve import access, vllm_plugin
from pipeline.serve import server_log as serverlog
from pipeline.serve.hang_watch import HangWatch
from pipeline.serve.launcher import Launcher, launcher_of
from pipeline.serve.server_log import tail
from pipeline.serve.vllm_host import BENCHMARK, SERVER

# Settings that change how a server is reached or monitored, but neither its answers nor its speed.
NOT_IDENTITY = {"name", "url", "model", "api_key_env", "host", "port", "python", "start_timeout_s"}
SERVED_NAME = "model"


class _Logprob(TypedDict):
    logprob: float


class _Choice(TypedDict):
    """One completion of `/v1/completions`, as far as it is read here; of each prompt token, by its id."""

    index: int
    text: str
    prompt_logprobs: list[dict[str, _Logprob] | None]


class Target(Protocol):
    """Server under test: started by the pipeline, or run by the user (`external`)."""

    @property
    def launcher(self) -> Launcher:
        """Launcher that starts the clients."""

    @property
    def url(self) -> str:
        """`http://host:port`."""

    @property
    def model(self) -> str:
        """The model's name in requests."""

    @property
    def checkpoint(self) -> Path:
        """Folder with the model's tokenizer."""

    @property
    def pid(self) -> int | None:
        """Process id; None if the user runs the server."""

    @property
    def log(self) -> Path | None:
        """Log file; None if the user runs the server."""

    @property
    def client_environment(self) -> Mapping[str, str]:
        """Variables of the load generator: the key that the server asks for."""

    @property
    def key_variable(self) -> str | None:
        """Environment variable with that key; None if it asks for none."""

    def check_alive(self) -> None:
        """Raise a ServerError if the server has exited."""

    def change(self) -> str:
        """Return how the server differs from the one that was measured first; empty if it is the same."""

    def facts(self) -> ServerFacts:
        """Return the known properties of the server."""


class Server:
    """Running vLLM server; it is on this machine, and asks for no key."""

    model = SERVED_NAME
    client_environment: Mapping[str, str] = {}
    key_variable = None

    def __init__(self, launcher: Launcher, pid: int, url: str, log: Path, checkpoint: Path, argv: list[str]) -> None:
        """Describe a server that has been started; `Serving` waits until it answers."""
        self.launcher = launcher
        self.pid = pid
        self.url = url
        self.log = log
        self.checkpoint = checkpoint
        self.argv = argv
        self.ready_s = 0.0

    def check_alive(self) -> None:
        """Check that the server runs.

        Raises:
            NotApplicable: if it has exited since its vLLM cannot import what the model's architecture needs.
            ServerError: with the last lines of the log, if it has exited.
        """
        code = self.launcher.exit_code(self.pid)
        if code is not None:
            if missing := serverlog.missing_import(serverlog.read(self.log)):
                raise NotApplicable(
                    f"this vLLM cannot import what it loads the model's architecture with ({missing})",
                    "Install what is missing beside it, or name another vLLM (serve.python).",
                )
            why = f" because of {cause}" if (cause := serverlog.cause(self.log)) else ""
            raise ServerError(f"vLLM exited with code {code}{why}:\n{tail(self.log)}", f"The whole log is {self.log}.")

    def change(self) -> str:
        """Return an empty string: the process is watched."""
        return ""

    def facts(self) -> ServerFacts:
        """Return versions, arguments, and what the log reports: KV-cache size, kernels, emulations."""
        text = serverlog.read(self.log)
        return ServerFacts(
            versions=self.launcher.versions,
            argv=tuple(self.argv),
            sampling=generation.applied(self.argv, self.checkpoint),
            generation_config=generation.named(self.checkpoint),
            ready_s=round(self.ready_s, 1),
            kv_cache_tokens=serverlog.kv_cache_tokens(text),
            kernels=tuple(serverlog.kernels(text)),
            attention=serverlog.attention(text),
            emulated=tuple(serverlog.emulated(text)),
            log=str(self.log),
        )

    def check_kernel(self, requested: str, *, is_logged: bool = True) -> None:
        """Compare the kernels that vLLM chose with `serve.kernel`; vLLM itself only warns of another choice.

        Args:
            requested: the value of `serve.kernel`.
            is_logged: whether vLLM's log names the requested kernel.

        Raises:
            ServerError: if none of them is the requested one.
        """
        observed = serverlog.kernels(serverlog.read(self.log))
        if not observed and not is_logged:
            return
        if requested != "auto" and not any(is_asked_for(name, requested) for name in observed):
            chosen = ", ".join(observed) or "one that its log does not name"
            raise ServerError(
                f"serve.kernel={requested} was requested, but vLLM chose {chosen}.",
                f"Set serve.kernel=auto, or look for the cause in {self.log}.",
            )

    def complete(self, prompts: list[str], max_tokens: int) -> list[str]:
        """Return greedy completions of raw prompts, each of exactly `max_tokens` tokens."""
        length = {"min_tokens": max_tokens, "max_tokens": max_tokens}
        return [choice["text"] for choice in self._choices(prompts, **length)]

    def prompt_logprobs(self, prompts: list[str]) -> list[list[tuple[int, float]]]:
        """Return (token, log-probability) for every prompt token except the first, one list per prompt."""
        choices = self._choices(prompts, max_tokens=1, prompt_logprobs=0)
        reported = [[place for place in choice["prompt_logprobs"] if place] for choice in choices]
        return [
            [(int(token), float(item["logprob"])) for place in text for token, item in place.items()]
            for text in reported
        ]

    def _choices(self, prompts: list[str], **options: int) -> list[_Choice]:
        import httpx

        body = {"model": SERVED_NAME, "prompt": prompts, "temperature": 0, **options}
        try:
            answer = access.post(self.url, "/v1/completions", body, timeout_s=300)
            answer.raise_for_status()
            choices: list[_Choice] = answer.json()["choices"]
            return sorted(choices, key=lambda choice: choice["index"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
            self.check_alive()
            reason = clean(f"{type(error).__name__}: {error}", 300)
            raise ServerError(f"vLLM did not answer as asked ({reason}).", f"Its log is {self.log}.") from None


def pass_by_proxies() -> None:
    """Let requests to servers of this machine go past a proxy, here and in the processes started from here.

    A proxy that the environment names would look for them on its own machine.
    """
    if not getproxies_environment():
        return
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [*filter(None, map(str.strip, known.split(","))), "127.0.0.1", "localhost"]
    # Libraries differ in the spelling that they read.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys(hosts))


class Serving:
    """Servers of a run: at most one at a time, reused while the variant stays the same."""

    def __init__(self, hardware: Hardware, logs: Path, progress: Progress) -> None:
        """Write logs to `logs`; no server is started yet."""
        pass_by_proxies()
        self.hardware = hardware
        self.logs = logs
        self.progress = progress
        self.server: Server | None = None
        # Of the load generator, while it runs.
        self.client_pid: int | None = None

    def identity(self, settings: Settings) -> Payload:
        """Return the identity of served results besides the checkpoint: vLLM's version, its arguments, the plugin.

        Raises:
            InputError: if `serve.url` is set and no server answers there.
        """
        if settings.serve.url is not None:
            from pipeline.serve.external import told

            return told(settings.serve).model_dump()
        # Results of one GPU keep the keys that they had before there could be several.
        single = {name for name in PARALLEL.values() if getattr(settings.serve, name) == 1}
        serve = settings.serve.model_dump(exclude=NOT_IDENTITY | single)
        plugin = {"plugin": vllm_plugin.REVISION} if self.hardware.device == "cpu" else {}
        return {"vllm": vllm_version(settings.serve.python), "kv_cache": settings.kv_cache.dtype, **plugin, **serve}

    def serve(self, checkpoint: Path, settings: Settings, variant: str, *, prefix_caching: bool = False) -> Server:
        """Return the server of a checkpoint, started unless it is the running one.

        Raises:
            ServerError: if it exits, is not ready within `serve.start_timeout_s`, or chooses another kernel than
                `serve.kernel`.
            InputError: if `serve.port` is in use.
        """
        serve = settings.serve
        argv = self._arguments(checkpoint, settings, prefix_caching)
        if self.server is not None and self.server.argv == argv and self.server.checkpoint == checkpoint:
            self.server.check_alive()
            return self.server
        self.stop()
        release_memory()
        started = time.monotonic()
        deadline = started + serve.start_timeout_s
        self.progress.detail("importing vLLM")
        launcher = self.prepare(serve)
        port = _port(serve)
        log = self.logs / f"serve-{file_name(variant)}-{datetime.now():%Y-%m-%d_%H-%M-%S}.log"
        pid = launcher.start(variant, SERVER, [*argv, "--port", str(port)], self._environment(settings), log)
        server = Server(launcher, pid, f"http://{serve.host}:{port}", log, checkpoint, argv)
        self.server = server
        try:
            self._wait(server, deadline)
            capability = self.hardware.compute_capability
            server.check_kernel(serve.kernel, is_logged=is_logged(settings.quant.scheme, serve.kernel, capability))
        except BaseException:
            self.stop()
            raise
        server.ready_s = time.monotonic() - started
        return server

    def attach(self, tokenizer: Path, settings: Settings) -> Target:
        """Return the server that the user runs, with the load generator of this machine.

        Raises:
            InputError: if no OpenAI-compatible server answers at `serve.url`.
            ServerError: if the load generator cannot be imported.
        """
        from pipeline.serve.external import ExternalServer

        self.progress.detail("importing vLLM's load generator")
        return ExternalServer(self.prepare(settings.serve), settings.serve, tokenizer)

    def prepare(self, serve: ServeSettings) -> Launcher:
        """Return the launcher of servers and clients with vLLM imported, which is tried once for all variants.

        Raises:
            ServerError: if vLLM cannot be imported.
        """
        launcher = launcher_of(serve.python or sys.executable, self.hardware, self.logs)
        launcher.wait_ready(serve.start_timeout_s)
        return launcher

    def benchmark(self, server: Target, argv: list[str], log: Path, timeout_s: float) -> None:
        """Run vLLM's serving benchmark against a server, with its own client.

        Raises:
            ServerError: if the server or the client exits early, the server hangs, or the client runs longer than
                `timeout_s`.
        """
        deadline, watch = time.monotonic() + timeout_s, HangWatch(server.url, server.key_variable)
        pid = server.launcher.start("benchmark", BENCHMARK, argv, dict(server.client_environment), log)
        self.client_pid = pid
        try:
            while (code := server.launcher.exit_code(pid)) is None:
                server.check_alive()
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{server.url} did not answer every request within {timeout_s:g} s.",
                        f"The client's log is {log}. Raise bench.timeout_s if the server was only slow.",
                    )
                watch.look()
                time.sleep(0.1)
        finally:
            self.client_pid = None
            server.launcher.stop(pid, grace_s=1)
        if code != 0:
            raise ServerError(f"vLLM's benchmark exited with code {code}:\n{tail(log)}", f"Its log is {log}.")

    def stop(self) -> None:
        """Stop the running server, if any; its launcher stays ready for the next."""
        if self.server is not None:
            server, self.server = self.server, None
            server.launcher.stop(server.pid)

    def _arguments(self, checkpoint: Path, settings: Settings, prefix_caching: bool) -> list[str]:
        """Return vLLM's arguments, without the port."""
        serve, cpu = settings.serve, self.hardware.device == "cpu"
        eager = cpu if serve.enforce_eager is None else serve.enforce_eager
        options: dict[str, object] = {
            "--served-model-name": SERVED_NAME,
            "--host": serve.host,
            "--dtype": serve.dtype,
            "--kv-cache-dtype": settings.kv_cache.dtype,
            "--max-model-len": serve.max_model_len,
            "--max-num-seqs": serve.max_num_seqs,
            "--linear-backend": None if serve.kernel == "auto" else serve.kernel,
            **parallel_options(serve.tensor_parallel, serve.data_parallel),
            "--seed": 0,
            # A benchmark that names no temperature is to decode as deployed.
            generation.SOURCE: "auto" if settings.bench.temperature is None else "vllm",
            generation.OVERRIDE: generation.WITHOUT_LIMIT if settings.bench.temperature is None else None,
        }
        if not cpu:
            options["--gpu-memory-utilization"] = serve.gpu_memory_utilization
        elif not serve.cpu_kv_cache_gib.is_integer():
            options["--kv-cache-memory-bytes"] = int(serve.cpu_kv_cache_gib * 2**30)
        caching = "--enable-prefix-caching" if prefix_caching else "--no-enable-prefix-caching"
        flags = [caching, *(["--enforce-eager"] if eager else [])]
        if settings.model.trust_remote_code:
            flags.append("--trust-remote-code")
        given = [str(part) for option in options.items() if option[1] is not None for part in option]
        # A GGUF file; vLLM reads its config and tokenizer from beside it.
        return [str(next(checkpoint.glob("*.gguf"), checkpoint)), *given, *flags, *serve.extra_args]

    def _environment(self, settings: Settings) -> dict[str, str]:
        if self.hardware.device != "cpu":
            return {}
        cores, room = settings.serve.cpu_cores, settings.serve.cpu_kv_cache_gib
        bind = _cores_of_each(self.hardware.cores, settings.serve.gpus) if cores == "auto" else cores
        # vLLM reads whole numbers there, and prefers it to an argument.
        space = {"VLLM_CPU_KVCACHE_SPACE": f"{room:.0f}"} if room.is_integer() else {}
        return {**space, "VLLM_CPU_OMP_THREADS_BIND": bind}

    def _wait(self, server: Server, deadline: float) -> None:
        import httpx

        began = time.monotonic()
        while time.monotonic() < deadline:
            server.check_alive()
            doing = serverlog.doing(serverlog.read(server.log))
            self.progress.detail(f"{doing} ({time.monotonic() - began:.0f} s)")
            try:
                if access.get(server.url, "/health", timeout_s=2).status == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise ServerError(
            f"vLLM was not ready in time:\n{tail(server.log)}",
            f"The whole log is {server.log}. Raise serve.start_timeout_s if it was still working.",
        )


def _cores_of_each(cores: int, processes: int) -> str:
    """Return the cores of each process that shares a CPU, as vLLM reads them: `0-1|2-3`."""
    each = cores // processes
    return "|".join(f"{at * each}-{(at + 1) * each - 1}" for at in range(processes))


def _port(serve: ServeSettings) -> int:
    """Return `serve.port`, or a free port.

    Raises:
        InputError: if `serve.port` is in use.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serve.host, serve.port or 0))
        except OSError as error:
            raise InputError(
                f"serve.port={serve.port} is in use by another process ({error.strerror}).",
                "Set serve.port=null for a free port, or stop that process.",
            ) from None
        return int(probe.getsockname()[1])
