"""Requests to servers of this machine do not go to a proxy."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from pipeline.serve.server import pass_by_proxies

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/health"
    server.shutdown()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        for spelling in (name, name.upper()):
            # Set first, so that what the code sets is taken back.
            monkeypatch.setenv(spelling, "")
            monkeypatch.delenv(spelling)


def test_a_server_of_this_machine_is_reached_past_a_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    pass_by_proxies()
    assert httpx.get(url).status_code == 200
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intranet.example,127.0.0.1,localhost"
    pass_by_proxies()
    assert os.environ["NO_PROXY"].count("localhost") == 1


def test_without_a_proxy_nothing_is_set() -> None:
    pass_by_proxies()
    assert "NO_PROXY" not in os.environ and "no_proxy" not in os.environ
