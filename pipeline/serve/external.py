"""A server that the user runs (`serve.url`): queried and measured, but never started or stopped.

Any server with an OpenAI-compatible API works: another release of vLLM, SGLang, TensorRT-LLM. The load generator is
vLLM's, started by the local launcher.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from pipeline.config import ServeSettings
from pipeline.errors import InputError, ServerError
from pipeline.results.server import ServerFacts, Told
from pipeline.results.text import clean
from pipeline.serve import access
from pipeline.serve.launcher import Launcher

# Of the Prometheus client's own metrics: seconds since the epoch.
STARTED = "process_start_time_seconds "
# vLLM's load generator reads the server's key there.
CLIENT_KEY = "OPENAI_API_KEY"


def told(serve: ServeSettings) -> Told:
    """Return what the server of `serve.url` says of itself, asked once.

    Raises:
        InputError: if no OpenAI-compatible server answers, it wants a key, or it serves several models.
    """
    assert serve.url is not None
    return _told_once(serve.url, serve.model, serve.api_key_env)


def ask(url: str, model: str | None = None, variable: str | None = None) -> Told:
    """Return what a server says of itself now: its model, version, context length and start.

    Args:
        url: of the server.
        model: the one that is meant; None if it serves one only.
        variable: the environment variable with the server's key.

    Raises:
        InputError: if no OpenAI-compatible server answers, it wants a key, or it serves several models.
    """
    import httpx

    try:
        answer = access.get(url, "/v1/models", variable)
        if answer.status in (401, 403):
            raise _refused(url, answer.status, variable)
        served = {str(each["id"]): each for each in json.loads(answer.text)["data"]}
        chosen = model if model is not None and model in served else _only(url, served, model)
        context = served[chosen].get("max_model_len")
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = clean(f"{type(error).__name__}: {error}", 200)
        raise InputError(
            f"serve.url={url}: {url}/v1/models does not name a model ({reason}).",
            "Start the server first; it must have an OpenAI-compatible API.",
        ) from None
    return Told(
        url=url,
        model=chosen,
        version=_version(url, variable),
        context=context if isinstance(context, int) else None,
        instance=_instance(url, variable),
    )


_told_once = cache(ask)


def _only(url: str, served: dict[str, object], model: str | None) -> str:
    """Return the only model of a server.

    Raises:
        InputError: if it has several, or not the one that is meant.
    """
    if not served:
        raise LookupError("its list is empty")
    names = clean(", ".join(list(served)[:20]), 400)
    if model is not None:
        raise InputError(f"serve.model={model}: {url} serves {names}.", "Name one of these, as it is spelled here.")
    if len(served) > 1:
        raise InputError(
            f"serve.url={url}: the server has {len(served)} models: {names}.", "Say which is measured: serve.model=..."
        )
    return next(iter(served))


def _refused(url: str, status: int, variable: str | None) -> InputError:
    if variable is None:
        return InputError(
            f"serve.url={url}: the server wants a key (HTTP {status}).",
            "Put it in an environment variable, and name that variable: serve.api_key_env=MY_KEY.",
        )
    return InputError(
        f"serve.url={url}: the server does not take the key of {variable} (HTTP {status}).",
        "Set the variable to the key that the server was started with.",
    )


def _version(url: str, variable: str | None) -> str:
    import httpx

    try:
        return clean(json.loads(access.get(url, "/version", variable).text)["version"], 60)
    except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError):
        return "not told"


def _instance(url: str, variable: str | None) -> str:
    """Return the start of the server's process, else the time of this run: what cannot be told apart is not reused."""
    import httpx

    try:
        lines = access.get(url, "/metrics", variable).text.splitlines()
        started = next(float(line.removeprefix(STARTED)) for line in lines if line.startswith(STARTED))
        return f"started {datetime.fromtimestamp(started, UTC).isoformat(timespec='milliseconds')}"
    except (httpx.HTTPError, ValueError, OverflowError, OSError, StopIteration):
        return f"measured {datetime.now(UTC).isoformat(timespec='milliseconds')}"


class ExternalServer:
    """`Target` for a server that the user runs, without a process or a log."""

    pid = None
    log = None

    def __init__(self, launcher: Launcher, serve: ServeSettings, tokenizer: Path) -> None:
        """Connect to the server of `serve.url`, whose model has its tokenizer in the folder `tokenizer`.

        Raises:
            InputError: if no OpenAI-compatible server answers.
        """
        assert serve.url is not None
        self.launcher = launcher
        self.url = serve.url
        self.key_variable = serve.api_key_env
        self.checkpoint = tokenizer
        self.told = told(serve)
        self.model = self.told.model

    @property
    def client_environment(self) -> dict[str, str]:
        """The server's key, as the load generator reads it: in no argument that other users see."""
        key = access.key_of(self.key_variable)
        return {} if key is None else {CLIENT_KEY: key}

    def check_alive(self) -> None:
        """Raise a ServerError if the launcher exited; the client reports failures of the server itself."""
        if not self.launcher.is_running():
            raise ServerError("The vLLM launcher exited.", f"Its log is {self.launcher.log}.")

    def change(self) -> str:
        """Return how the server differs from the one that was measured first; empty if it is the same."""
        try:
            now = ask(self.url, self.model, self.key_variable)
        except InputError as error:
            return error.problem
        names = [name for name in Told.model_fields if getattr(now, name) != getattr(self.told, name)]
        # What does not tell its start is another one each time.
        if not self.told.is_told_apart:
            names = [name for name in names if name != "instance"]
        return ", ".join(f"{name} {getattr(self.told, name)} -> {getattr(now, name)}" for name in names)

    def facts(self) -> ServerFacts:
        """Return the properties that the server reports."""
        return ServerFacts(
            attached=self.told,
            versions={},
            client=self.launcher.versions,
            argv=(),
            ready_s=None,
            kv_cache_tokens=None,
            kernels=(),
            emulated=(),
            log=None,
        )
