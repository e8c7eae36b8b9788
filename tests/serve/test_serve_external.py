"""What an attached server says of itself, whatever it answers."""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from support.openai_server import OpenAIServer

from pipeline.config import ServeSettings
from pipeline.errors import ConfigError, InputError
from pipeline.serve import access, counters, external

KEY = "sk-very-secret"
STARTED = "process_start_time_seconds 1.7e+09\n"


@pytest.fixture
def serving() -> Iterator[Callable[..., OpenAIServer]]:
    started: list[OpenAIServer] = []

    def start(**how: Any) -> OpenAIServer:
        started.append(OpenAIServer(**how))
        return started[-1]

    yield start
    for server in started:
        server.close()


def test_a_server_is_told_from_another_at_its_address_by_its_start(serving: Callable[..., OpenAIServer]) -> None:
    first = serving(metrics=STARTED)
    told = external.ask(first.url)
    assert told == external.ask(first.url)
    assert told.instance == "started 2023-11-14T22:13:20.000+00:00"
    first.metrics = STARTED.replace("1.7e", "1.8e")
    assert external.ask(first.url).instance != told.instance
    # One that does not tell is measured anew each time.
    first.metrics = ""
    assert external.ask(first.url).instance != external.ask(first.url).instance


@pytest.mark.parametrize(
    ("how", "model", "variable", "said"),
    [
        ({"models": ("a", "b\x1b[31m")}, None, None, r"2 models: a, b\[31m. Say which is measured: serve.model="),
        ({"models": ("a", "b")}, "c", None, "serve.model=c: .* serves a, b"),
        ({"models": ()}, None, None, "its list is empty"),
        ({"key": KEY}, None, None, "wants a key .HTTP 401.*serve.api_key_env"),
        ({"key": "another"}, None, "THEIR_KEY", "does not take the key of THEIR_KEY"),
        ({"listing": "<html>"}, None, None, "does not name a model"),
        ({"listing": "[" * 100_000}, None, None, "does not name a model"),
        ({"listing": '{"data": 3}'}, None, None, "does not name a model"),
        ({"listing": '{"data": [[]]}'}, None, None, "does not name a model"),
        ({"listing": "null"}, None, None, "does not name a model"),
        ({"path": "/team"}, None, None, "does not name a model"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(
    serving: Callable[..., OpenAIServer],
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    model: str | None,
    variable: str | None,
    said: str,
) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    server = serving(**how)
    with pytest.raises(InputError, match=said) as error:
        external.ask(server.url.removesuffix("/team"), model, variable)
    assert KEY not in str(error.value) and "\x1b" not in str(error.value)


def test_a_key_a_path_and_one_of_several_models(
    serving: Callable[..., OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    server = serving(key=KEY, path="/team/qwen", models=("a", "b"), metrics=STARTED, context=64)
    url = server.url.removeprefix("http://") + "//v1/"
    serve = ServeSettings(name="theirs", url=url, model="b", api_key_env="THEIR_KEY")
    told = external.told(serve)
    assert (told.model, told.context, told.url) == ("b", 64, server.url)
    target = external.ExternalServer(SimpleNamespace(versions={}), serve, None)  # type: ignore[arg-type]
    assert target.client_environment == {"OPENAI_API_KEY": KEY}
    assert target.change() == ""
    server.metrics = STARTED.replace("1.7e", "1.8e")
    assert "instance started 2023" in target.change()
    assert KEY not in repr(target.facts()) + repr(vars(target))
    assert counters.read(server.url, "THEIR_KEY") is not None and counters.read(server.url) is None
    assert server.keys == {f"Bearer {KEY}", None}


def test_a_key_that_is_not_there_is_named_before_anything_is_sent(serving: Callable[..., OpenAIServer]) -> None:
    server = serving()
    with pytest.raises(ConfigError, match="serve.api_key_env: the environment has no variable"):
        external.ask(server.url, None, "NO_SUCH_VARIABLE")
    assert server.keys == set()


def test_what_a_laptops_environment_says_does_not_reach_this_machine(
    serving: Callable[..., OpenAIServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        # A scheme for which httpx has no package here.
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert external.ask(server.url).model == "theirs"
    assert server.keys == {None}


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost:1", True),
        ("http://[::1]:1/x", True),
        ("http://127.0.0.1.example:1", False),
        ("http://gateway.example", False),
    ],
)
def test_addresses_of_this_machine(url: str, is_local: bool) -> None:
    assert access.is_local(url) is is_local


@pytest.mark.parametrize("kind", ["endless", "drip"])
def test_an_answer_without_an_end_is_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "LARGEST", 2**16)
    done = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        try:
            while not done.is_set():
                connection.sendall(b"x" * (2**14 if kind == "endless" else 1))
                done.wait(0 if kind == "endless" else 0.05)
        except OSError:
            pass

    threading.Thread(target=work, daemon=True).start()
    assert counters.read(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=1) is None
    done.set()
    listener.close()


@pytest.mark.parametrize("coding", ["zstd", "gzip"])
def test_an_answer_that_unpacks_to_more_than_memory_is_not_unpacked(coding: str) -> None:
    size = 64 << 20
    body = pytest.importorskip("zstandard").compress(bytes(size)) if coding == "zstd" else gzip.compress(bytes(size))
    accepted: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accepted.append(self.headers["Accept-Encoding"])
            self.send_response(200)
            self.send_header("Content-Encoding", coding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=f"the answer is compressed .{coding}"):
                external.ask(f"http://127.0.0.1:{server.server_port}")
            assert tracemalloc.get_traced_memory()[1] < size
        finally:
            tracemalloc.stop()
            server.shutdown()
    assert accepted == ["identity"]
