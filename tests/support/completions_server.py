"""A small server of the completions protocol over a toy language model, for tests of the client's side.

The model's next-token distribution is a hash of the context, so every value can be recomputed by a test. Like vLLM, it
refuses more than four stop strings and prompts that leave no room for an answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = 64


def logprobs_after(context: Sequence[int]) -> list[float]:
    """The toy model: log-probabilities of every token after a context."""
    digest = hashlib.shake_256(json.dumps(list(context)).encode()).digest(VOCABULARY)
    total = math.log(sum(math.exp(byte / 32) for byte in digest))
    return [byte / 32 - total for byte in digest]


def greedy(context: Sequence[int], n: int) -> list[int]:
    """The toy model's greedy continuation."""
    written: list[int] = []
    for _ in range(n):
        values = logprobs_after([*context, *written])
        written.append(values.index(max(values)))
    return written


class CompletionsServer:
    """Serves until it is closed; keeps every request, and can be told to fail."""

    def __init__(self, decode: Callable[[Sequence[int]], str], context: int = 512) -> None:
        self.decode = decode
        self.context = context
        self.requests: list[dict[str, Any]] = []
        # Ends of the requests to come: an HTTP status, or a name of `misbehave`.
        self.failures: list[int | str] = []
        self.released = threading.Event()
        self.metrics = ""
        self.knows_label_ids = self.knows_prompt_logprobs = True
        # Whether every second answer to the same prompt is another one.
        self.wavers = False
        self.asked = Counter[tuple[int, ...]]()
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self.send(200, outer.metrics.encode())
                    return
                self.answer(200, {"data": [{"id": "model", "max_model_len": outer.context}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/completions":
                    self.answer(404, error("there is no such path"))
                    return
                with outer.lock:
                    outer.requests.append(body)
                    status = outer.failures.pop(0) if outer.failures else 200
                    prompts = len(body["prompt"]) if isinstance(body["prompt"][0], list) else 1
                    outer.in_flight += prompts
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                try:
                    if isinstance(status, str):
                        self.misbehave(status, outer.complete(body)[1])
                        return
                    self.answer(*outer.complete(body) if status == 200 else (status, error("as told")))
                finally:
                    with outer.lock:
                        outer.in_flight -= prompts

            def misbehave(self, how: str, good: dict[str, Any]) -> None:
                if how == "close":
                    self.close_connection = True
                elif how == "hang":
                    outer.released.wait(60)
                elif how == "cut":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [')
                    self.close_connection = True
                elif how == "garbage":
                    self.send(200, b"\x1b[31m<html>\xff not what was asked for")
                elif how == "nested":
                    self.send(200, b"[" * 100_000)
                elif how == "fewer":
                    self.answer(200, {"choices": good["choices"][1:]})
                elif how == "without":
                    self.answer(200, {"choices": [{"index": each["index"]} for each in good["choices"]]})
                elif how == "slow":
                    time.sleep(1)
                    self.answer(200, good)
                else:
                    raise AssertionError(how)

            def answer(self, status: int, content: Any) -> None:
                self.send(status, json.dumps(content).encode())

            def send(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        stops = body.get("stop") or []
        if len(stops) > 4:
            return 400, error("List should have at most 4 items")
        if any(len(prompt) + body["max_tokens"] > self.context for prompt in prompts):
            return 400, error("the prompt exceeds the context")
        # Backwards: the protocol promises an index, no order.
        return 200, {"choices": [self.choice(i, prompts[i], body, stops) for i in reversed(range(len(prompts)))]}

    def choice(self, index: int, prompt: list[int], body: dict[str, Any], stops: list[str]) -> dict[str, Any]:
        written = greedy(prompt, body["max_tokens"])
        self.asked[tuple(prompt)] += 1
        if self.wavers and self.asked[tuple(prompt)] % 2:
            written.reverse()
        reason = "length"
        for i, token in enumerate(written):
            if token in body.get("stop_token_ids", []):
                written, reason = written[:i], "stop"
                break
        text = self.decode(written)
        for stop in stops:
            if stop in text:
                text, reason = text[: text.index(stop)], "stop"
        shown = [*prompt, *written] if body.get("echo") else written
        start = len(shown) - len(written)
        labels = body.get("logprob_token_ids") if self.knows_label_ids else None
        tops: list[dict[str, float] | None] = []
        for i, token in enumerate(shown):
            before = shown[:i] if body.get("echo") else [*prompt, *shown[:i]]
            values = logprobs_after(before)
            best = values.index(max(values))
            wanted = [token, *(labels if labels and i >= start else [best])]
            tops.append({f"token_id:{t}": values[t] for t in wanted} if before else None)
        logprobs = {
            "tokens": [f"token_id:{t}" for t in shown],
            "token_logprobs": [top[f"token_id:{t}"] if top else None for t, top in zip(shown, tops, strict=True)],
            "top_logprobs": tops,
        }
        return {
            "index": index,
            "text": text,
            "finish_reason": reason,
            "logprobs": logprobs if body.get("logprobs") else None,
            "prompt_logprobs": prompt_logprobs(prompt, body.get("prompt_logprobs"))
            if self.knows_prompt_logprobs
            else None,
        }


def prompt_logprobs(prompt: Sequence[int], k: int | None) -> list[dict[str, dict[str, Any]] | None] | None:
    """As vLLM reports them: the prompt's own token first, then the k likeliest, one entry where it is one of them."""
    if k is None:
        return None
    found: list[dict[str, dict[str, Any]] | None] = [None]
    for i in range(1, len(prompt)):
        values = logprobs_after(prompt[:i])
        order = sorted(range(VOCABULARY), key=lambda token: -values[token])
        shown = dict.fromkeys([prompt[i], *order[:k]])
        found.append({str(t): {"logprob": values[t], "rank": order.index(t) + 1, "decoded_token": "x"} for t in shown})
    return found


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}
