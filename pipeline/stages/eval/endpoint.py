"""The client of a served checkpoint: concurrent completion requests, with retries.

Prompts travel as token ids, so the server reads exactly what was counted here. The limit of
concurrency counts prompts, not requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NotRequired, TypedDict

from pipeline.errors import ServerError
from pipeline.stages.eval.journal import Journal

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
WATCH_S = 2.0
# A request waits for its place in the server's queue; a server that has died is noticed by the watch instead.
TIMEOUT_S = 3600.0

# A request: its prompts as token ids, and whatever parameters the task has.
Body = dict[str, object]
Arrived = Callable[[int, Any], None]


class Completion(TypedDict):
    """One completion, reduced to the fields read here."""

    index: int
    text: str
    finish_reason: NotRequired[str | None]
    logprobs: Any
    prompt_logprobs: NotRequired[Any]


class Endpoint:
    """One server's completions API."""

    def __init__(
        self,
        url: str,
        model: str,
        num_concurrent: int,
        check_alive: Callable[[], None],
        journal: Journal | None = None,
    ) -> None:
        """Connect to `url`.

        Args:
            url: of the server, without a path.
            model: the name that it serves the checkpoint under.
            num_concurrent: prompts in flight.
            check_alive: raises ServerError once the server has ended.
            journal: of answers, which are not asked for again; by default none is kept.
        """
        self.url = url
        self.model = model
        self.num_concurrent = num_concurrent
        self._check_alive = check_alive
        self._journal = journal or Journal()

    @cached_property
    def context(self) -> int:
        """Context length in tokens, prompt and answer together.

        Raises:
            ServerError: when the server does not say.
        """
        import httpx

        try:
            answer = httpx.get(f"{self.url}/v1/models", timeout=60)
            answer.raise_for_status()
            return int(answer.json()["data"][0]["max_model_len"])
        except (httpx.HTTPError, KeyError, IndexError, ValueError, TypeError) as error:
            self._check_alive()
            raise ServerError(f"{self.url}/v1/models does not say the context's length ({error!r}).") from error

    def complete(
        self, bodies: Iterable[Body], in_flight: int, read: Callable[[int, list[Completion]], Any], arrived: Arrived
    ) -> None:
        """Send every request without an answer in the journal, and pass on each parsed answer.

        Args:
            bodies: the requests, without the model's name.
            in_flight: requests at a time.
            read: makes plain JSON of a request's choices, which are in the order of its prompts; that is what is kept.
            arrived: called with the request's index and what was read, in the order in which answers come.

        Raises:
            ServerError: when the server ends, refuses a request, or keeps failing on one.
        """
        asyncio.run(self._all(bodies, in_flight, read, arrived))

    async def _all(
        self, bodies: Iterable[Body], in_flight: int, read: Callable[[int, list[Completion]], Any], arrived: Arrived
    ) -> None:
        import httpx

        waiting = iter(enumerate(bodies))
        limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)

        async def worker() -> None:
            for index, body in waiting:
                key, answer = self._journal.recall(body)
                if answer is None:
                    answer = read(index, await self._one(client, body))
                    self._journal.append(key, answer)
                arrived(index, answer)

        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
            watch = asyncio.create_task(self._watch())
            ended: asyncio.Future[Any] = asyncio.gather(*(worker() for _ in range(in_flight)))
            try:
                pending: set[asyncio.Future[Any]] = {watch, ended}
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()
                await ended
            finally:
                watch.cancel()
                ended.cancel()
                await asyncio.gather(watch, ended, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self._check_alive()
            await asyncio.sleep(WATCH_S)

    async def _one(self, client: Any, body: Body) -> list[Completion]:
        import httpx

        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
                self._check_alive()
            try:
                answer = await client.post(f"{self.url}/v1/completions", json={"model": self.model, **body})
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__} {error}".strip()
                continue
            if answer.status_code == 200:
                choices: list[Completion] = answer.json()["choices"]
                return sorted(choices, key=lambda choice: int(choice["index"]))
            trouble = f"HTTP {answer.status_code}: {_message(answer)}"
            if answer.status_code < 500 and answer.status_code != 429:
                break
        self._check_alive()
        raise ServerError(f"The server did not complete a request of the evaluation: {trouble}.")


def _message(answer: Any) -> str:
    """Return the server's message, from an OpenAI-style error if it is one."""
    try:
        return str(answer.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:500]
