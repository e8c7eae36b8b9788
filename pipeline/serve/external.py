"""A server that the user runs: asked what it serves, measured, and never started or stopped from here.

Any server with an OpenAI-compatible API will do: another release of vLLM, SGLang, TensorRT-LLM. The load generator is
still vLLM's, from the launcher of this machine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.errors import InputError, ServerError
from pipeline.results.server import ServerFacts, Told
from pipeline.serve.launcher import Launcher


@cache
def describe(url: str) -> Told:
    """The model that a server names first; its version, and the tokens of its context, where it tells (vLLM does).

    Raises:
        InputError: when nothing answers there, or it is no OpenAI-compatible API.
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


class Attached:
    """Has the face of a server of ours, without a process or a log."""

    pid = None
    log = None

    def __init__(self, launcher: Launcher, url: str, tokenizer: Path) -> None:
        """Attaches to the server at `url`, whose model has the tokenizer in that folder.

        Raises:
            InputError: when no such server answers.
        """
        self.launcher = launcher
        self.url = url
        self.checkpoint = tokenizer
        self.told = describe(url)
        self.model = self.told.model

    def check_alive(self) -> None:
        """Nothing to look at between requests: what the client sees is what counts."""
        if not self.launcher.is_running():
            raise ServerError("The vLLM launcher ended.", f"Its log is {self.launcher.log}.")

    def facts(self) -> ServerFacts:
        """The server's own words about itself."""
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
