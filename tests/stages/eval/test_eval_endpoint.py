"""Servers that misbehave while they are asked: each request ends answered, at once or later, or with a reason."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.completions_server import CompletionsServer, greedy

from pipeline.errors import ServerError
from pipeline.serve import hang_watch
from pipeline.stages.eval import endpoint as module
from pipeline.stages.eval.endpoint import Completion, Endpoint

COMPUTED = 'vllm:generation_tokens_total{engine="0"} 5\n'


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"FIRST_PAUSE_S": 0.01, "WATCH_S": 0.05}.items():
        monkeypatch.setattr(module, name, seconds)
    for name, seconds in {"LOOK_S": 0.05, "HANG_S": 0.5}.items():
        monkeypatch.setattr(hang_watch, name, seconds)


def ask(server: CompletionsServer, prompts: int = 1) -> list[str]:
    """The texts, by the number of the prompt."""
    endpoint = Endpoint(server.url, "model", max(2, prompts), lambda: None)
    texts: dict[int, str] = {}
    bodies = [{"prompt": [5, 6, 7 + number], "max_tokens": 2} for number in range(prompts)]

    def read(number: int, choice: Completion) -> Any:
        return choice["text"]

    endpoint.complete(bodies, read, texts.__setitem__, batch=prompts)
    return [texts[number] for number in range(prompts)]


OK = None


@pytest.mark.parametrize(
    ("ends", "requests", "reason"),
    [
        ([], 1, OK),
        (["slow"], 1, OK),
        ([500, 503, 429], 4, OK),
        (["close"], 2, OK),
        (["cut"], 2, OK),
        (["garbage"], 2, OK),
        (["nested"], 2, OK),
        (["fewer"], 2, OK),
        ([500] * 9, 4, "HTTP 500: as told"),
        ([429] * 9, 4, "HTTP 429: as told"),
        ([400], 1, "HTTP 400: as told"),
        ([404], 1, "HTTP 404: as told"),
        (["close"] * 9, 4, "RemoteProtocolError Server disconnected"),
        (["cut"] * 9, 4, "RemoteProtocolError peer closed connection"),
        (["garbage"] * 9, 4, "its answer is no completion of 1 prompts: .31m<html>"),
        (["fewer"] * 9, 4, "its answer is no completion of 1 prompts"),
        (["without"], 1, "left out of a completion what the evaluation asked for .KeyError: 'text'"),
        (["hang"], 1, "The server hangs: it computed nothing"),
    ],
)
def test_each_request_ends(server: CompletionsServer, ends: list[int | str], requests: int, reason: str | None) -> None:
    if ends == ["slow"]:
        # It is not hung while it computes.
        server.metrics = Growing(COMPUTED)  # type: ignore[assignment]
    server.failures = [*ends]
    if reason is OK:
        assert ask(server) == [server.decode(greedy([5, 6, 7], 2))]
    else:
        with pytest.raises(ServerError, match=reason) as error:
            ask(server)
        assert "\x1b" not in str(error.value)
    assert len(server.requests) == requests


class Growing(str):
    """Counters that are larger each time they are read."""

    count = 0

    def encode(self, *_: Any) -> bytes:
        Growing.count += 1
        return str(self).replace(" 5", f" {Growing.count}").encode()


def test_one_answer_of_several_that_is_missing_is_asked_for_again(server: CompletionsServer) -> None:
    server.failures = ["fewer"]
    texts = ask(server, prompts=4)
    assert texts == [server.decode(greedy([5, 6, 7 + number], 2)) for number in range(4)]


def test_an_engine_that_computes_nothing_is_noticed_though_its_metrics_answer(server: CompletionsServer) -> None:
    server.metrics = COMPUTED
    server.failures = ["hang"]
    with pytest.raises(ServerError, match="The server hangs"):
        ask(server)


def test_a_request_costs_no_more_of_the_client_beside_many_others(server: CompletionsServer) -> None:
    """In seconds of the client's own thread; in one pool of connections it was seven times as much beside 128."""
    server.metrics = Growing(COMPUTED)  # type: ignore[assignment]

    def cost(num_concurrent: int) -> float:
        bodies = ({"prompt": [5, 6, 7 + number], "max_tokens": 2} for number in range(256))
        began = time.thread_time()
        endpoint = Endpoint(server.url, "model", num_concurrent, lambda: None)
        endpoint.complete(bodies, lambda _, choice: choice["text"], lambda *_: None)
        return time.thread_time() - began

    cost(4)
    assert cost(96) < 3 * cost(4)
