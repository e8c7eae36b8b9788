"""Configuration reported by a server: part of every result measured on one."""

from __future__ import annotations

from pydantic import Field

from pipeline.results.base import Frozen


class Told(Frozen):
    """Facts reported by a server that the user runs; `context` in tokens if reported (vLLM does).

    `instance` is the start of its process, or the time of the measurement if it does not tell.
    """

    url: str
    model: str
    version: str
    context: int | None
    instance: str = ""

    @property
    def is_told_apart(self) -> bool:
        """True if it tells the start of its process."""
        return self.instance.startswith("started")


class ServerFacts(Frozen):
    """Facts of a started server from its log, or of an attached one as reported by itself.

    Attributes:
        attached: facts of a server that the user runs.
        versions: versions of the serving packages.
        client: versions of the load generator's packages, if it runs apart from the server.
        argv: vLLM's arguments.
        sampling: sampling parameters of requests that name none, as far as they are not neutral.
        generation_config: those that the checkpoint's generation_config.json names, applied or not.
        ready_s: seconds from the start to the first answer.
        kv_cache_tokens: capacity of the KV cache.
        kernels: kernels that vLLM chose for Linear modules.
        attention: attention backend.
        emulated: names of what the plugin emulates for lack of kernels on this machine.
        log: path of the server's log.
    """

    attached: Told | None = None
    versions: dict[str, str] = Field({})
    client: dict[str, str] = Field({})
    argv: tuple[str, ...] = ()
    sampling: dict[str, float] = Field({})
    generation_config: dict[str, float] = Field({})
    ready_s: float | None = None
    kv_cache_tokens: int | None = None
    kernels: tuple[str, ...] = ()
    attention: str | None = None
    emulated: tuple[str, ...] = ()
    log: str | None = None
