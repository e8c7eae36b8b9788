"""Requests to servers under test: never by a proxy on this machine, with the key that is asked for, within limits."""

from __future__ import annotations

import os
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from pipeline.config.credentials import NOT_SET, SET_IT
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import httpx

# Bytes of an answer that is read; vLLM's metrics of many engines have some hundred thousand.
LARGEST = 16 * 2**20
# Some kilobytes of a compressed answer may stand for gigabytes.
PLAIN = {"Accept-Encoding": "identity"}


class Answer(NamedTuple):
    """A whole answer of a server."""

    status: int
    text: str


def is_local(url: str) -> bool:
    """Return whether an address is one of this machine, which no proxy of a network reaches."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_of(variable: str | None) -> str | None:
    """Return the key that an environment variable holds; None if a server asks for none.

    Raises:
        ConfigError: if the variable is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"serve.api_key_env: {NOT_SET}.", SET_IT)
    return key


def headers(variable: str | None) -> dict[str, str]:
    """Return the headers that a server with a key asks for."""
    key = key_of(variable)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def get(url: str, path: str, variable: str | None = None, *, timeout_s: float = 10) -> Answer:
    """Return the whole answer to a GET request.

    Args:
        url: of the server.
        path: after it.
        variable: the environment variable with the server's key.
        timeout_s: seconds that the whole answer may take.

    Raises:
        httpx.HTTPError: if there is no answer, or none within the time or the size that an honest one has, or if it is
            compressed.
        ConfigError: if the variable is not set.
    """
    import httpx

    deadline, received = monotonic() + timeout_s, bytearray()
    with (
        httpx.Client(timeout=timeout_s, trust_env=not is_local(url), headers=PLAIN | headers(variable)) as client,
        client.stream("GET", f"{url}{path}") as answer,
    ):
        if (coding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise httpx.DecodingError(f"the answer is compressed ({coding[:40]})", request=answer.request)
        for part in answer.iter_raw():
            received += part
            if len(received) > LARGEST:
                raise httpx.DecodingError(f"the answer has more than {LARGEST:,} bytes", request=answer.request)
            if monotonic() > deadline:
                raise httpx.ReadTimeout(f"the answer took more than {timeout_s:g} s", request=answer.request)
        return Answer(answer.status_code, received.decode(answer.encoding or "utf-8", errors="replace"))


def post(url: str, path: str, body: dict[str, object], *, timeout_s: float) -> httpx.Response:
    """Return the answer of a server of the pipeline's own to a POST request.

    Raises:
        httpx.HTTPError: if there is no answer in time.
    """
    import httpx

    with httpx.Client(timeout=timeout_s, trust_env=not is_local(url)) as client:
        return client.post(f"{url}{path}", json=body)
