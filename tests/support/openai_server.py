"""An OpenAI-compatible server that streams words, or misbehaves as it is told: what a user may attach to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Behaviour = Literal[
    "well",
    "500",
    "500 in silence",
    "429",
    "429 sometimes",
    "hang",
    "close",
    "close sometimes",
    "garbage",
    "short",
    "restarts",
    "dies",
]
# Requests after which one restarts, or dies.
SOON = 6


class OpenAIServer:
    """Serves on a free port until closed; `requests` are the bodies that it was sent, `keys` what came with them.

    With a key, it answers only who sends it; with a path, only below it; `models` are those that it lists.
    """

    def __init__(
        self,
        behaviour: Behaviour = "well",
        metrics: str = "",
        token_s: float = 0.001,
        context: int | None = None,
        *,
        key: str = "",
        path: str = "",
        models: Sequence[str] = ("theirs",),
        port: int = 0,
        listing: str | None = None,
    ) -> None:
        self.behaviour, self.metrics, self.token_s = behaviour, metrics, token_s
        self.keys: set[str | None] = set()
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def is_let_in(self) -> bool:
                """Says why it is not, if so."""
                served.keys.add(self.headers["Authorization"])
                if not self.path.startswith(path):
                    self.answer(404, "{}")
                elif key and self.headers["Authorization"] != f"Bearer {key}":
                    self.answer(401, "{}")
                else:
                    self.path = self.path.removeprefix(path)
                    return True
                return False

            def do_GET(self) -> None:
                if not self.is_let_in():
                    return
                if self.path == "/v1/models":
                    data = [{"id": name, "max_model_len": context} for name in models]
                    self.answer(200, json.dumps({"data": data}) if listing is None else listing)
                elif self.path == "/metrics" and served.metrics:
                    self.answer(200, served.metrics)
                else:
                    self.answer(404, "{}")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.is_let_in():
                    return
                if "completions" not in self.path:
                    self.answer(404, "{}")
                    return
                served.requests.append(body)
                number = len(served.requests)
                if served.behaviour == "restarts" and number == SOON:
                    served.metrics = "process_start_time_seconds 1.8e+09\n"
                if served.behaviour == "dies" and number > SOON:
                    served.http.socket.close()
                    self.close_connection = True
                elif served.behaviour in ("500", "429"):
                    self.answer(int(served.behaviour), "{}")
                elif served.behaviour == "500 in silence":
                    self.answer(500, "{}", reason="")
                elif served.behaviour == "429 sometimes" and number % 4 == 0:
                    self.answer(429, "{}")
                elif served.behaviour == "garbage":
                    self.answer(200, "<html>\x1b[31m not what was asked for </html>")
                elif served.behaviour == "hang":
                    served.released.wait(60)
                else:
                    self.stream(body, number)

            def stream(self, body: dict[str, Any], number: int) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                wanted = body.get("max_completion_tokens") or body["max_tokens"]
                if served.behaviour == "short":
                    wanted = max(1, wanted // 2)
                for _ in range(wanted):
                    self.event({"choices": [{"index": 0, "delta": {"content": "word "}, "text": "word "}]})
                    if served.behaviour == "close" or (served.behaviour == "close sometimes" and number % 4 == 0):
                        self.close_connection = True
                        return
                    time.sleep(served.token_s)
                self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": wanted}})
                self.chunk(b"data: [DONE]\n\n")
                self.chunk(b"")

            def event(self, content: dict[str, Any]) -> None:
                self.chunk(f"data: {json.dumps(content)}\n\n".encode())

            def chunk(self, data: bytes) -> None:
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()

            def answer(self, status: int, text: str, reason: str | None = None) -> None:
                data = text.encode()
                self.send_response(status, reason)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        # A client that goes away is none.
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}{path}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
