"""A server that the user runs (`serve.url`): queried and measured, but never started or stopped.

Any server with an OpenAI-compatible API works: another release of vLLM, SGLang, TensorRT-LLM. The load generator is
vLLM's, started by the local launcher.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.errors import InputError, ServerError
from pipeline.results.server import ServerFacts, Told
from pipeline.serve.launcher import Launcher


@cache
def describe(url: str) -> Told:
    """Return the first model that a server lists, and its version and context length, if reported (as by vLLM).

    Raises:
        InputError: if no OpenAI-compatible server answers at `url`.
    """
    import httpx

    try:
        answer = httpx.get(f"{url}/v1/models", timeout=10)
        answer.raise_for_status()
        served = answer.json()["data"][0]
        model, context = str(served["id"]), served.get("max_model_len")
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"serve.url={url}: {url}/v1/models does not name a model ({type(error).__name__}: {error}).",
            "Start the server first; it must have an OpenAI-compatible API.",
        ) from None
    try:
        version = str(httpx.get(f"{url}/version", timeout=10).json()["version"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        version = "not told"
    return Told(url=url, model=model, version=version, context=context if isinstance(context, int) else None)


class ExternalServer:
    """`Target` for a server that the user runs, without a process or a log."""

    pid = None
    log = None

    def __init__(self, launcher: Launcher, url: str, tokenizer: Path) -> None:
        """Connect to the server at `url`, whose model has its tokenizer in the folder `tokenizer`.

        Raises:
            InputError: if no OpenAI-compatible server answers.
        """
        self.launcher = launcher
        self.url = url
        self.checkpoint = tokenizer
        self.told = describe(url)
        self.model = self.told.model

    def check_alive(self) -> None:
        """Raise a ServerError if the launcher exited; the client reports failures of the server itself."""
        if not self.launcher.is_running():
            raise ServerError("The vLLM launcher exited.", f"Its log is {self.launcher.log}.")

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
