"""The client of a served checkpoint: concurrent completion requests, with retries.

Prompts travel as token ids, so the server reads exactly what was counted here. The limit of
concurrency counts prompts, not requests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, NotRequired, TypedDict

from pipeline.errors import ServerError
from pipeline.results.text import clean
from pipeline.serve import access
from pipeline.serve.hang_watch import HangWatch
from pipeline.stages.eval.journal import Journal

ATTEMPTS = 4
FIRST_PAUSE_S = 0.5
WATCH_S = 2.0
# A request waits for its place in the server's queue; one that has died or hangs is noticed by the watch instead.
TIMEOUT_S = 3600.0
CONNECT_S = 30.0

TEXTS = "/v1/completions"
# vLLM's own way (from 0.32 on), with token ids alone: of log-probabilities, decoding their tokens is most of the work.
TOKENS = "/inference/v1/generate"
NOT_THERE = (403, 404, 405)

# A request: its prompt as token ids, and whatever parameters the task has.
Body = dict[str, object]
Arrived = Callable[[int, Any], None]
Read = Callable[[int, "Completion"], Any]


class Asked(NamedTuple):
    """A prompt to ask: its number, the journal's key, and the request of this prompt alone."""

    number: int
    key: str
    body: Body


class Completion(TypedDict):
    """One completion, reduced to the fields read here."""

    index: int
    text: NotRequired[str]
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
        self._arrived = 0

    @cached_property
    def context(self) -> int:
        """Context length in tokens, prompt and answer together.

        Raises:
            ServerError: when the server does not say.
        """
        import httpx

        try:
            answer = access.get(self.url, "/v1/models", timeout_s=60)
            return int(json.loads(answer.text)["data"][0]["max_model_len"])
        except (httpx.HTTPError, LookupError, ValueError, TypeError, RecursionError) as error:
            self._check_alive()
            raise ServerError(f"{self.url}/v1/models does not say the context's length ({error!r}).") from error

    @cached_property
    def takes_tokens(self) -> bool:
        """True if the server answers requests of `of_tokens`; an empty one tells, which it refuses otherwise."""
        import httpx

        try:
            return access.post(self.url, TOKENS, {}, timeout_s=60).status_code not in NOT_THERE
        except httpx.HTTPError:
            self._check_alive()
            return False

    def complete(self, bodies: Iterable[Body], read: Read, arrived: Arrived, *, batch: int = 1) -> None:
        """Ask every prompt without an answer in the journal, and pass on each parsed answer.

        Args:
            bodies: requests of one prompt each, without the model's name.
            read: makes plain JSON of a prompt's completion; that is what is kept.
            arrived: called with the index and what was read, in the order in which answers come.
            batch: prompts of a request at most, which have all other parameters in common.

        Raises:
            ServerError: when the server ends, refuses a request, or keeps failing on one.
        """
        asyncio.run(self._all(bodies, read, arrived, min(batch, self.num_concurrent)))

    async def _all(self, bodies: Iterable[Body], read: Read, arrived: Arrived, batch: int) -> None:
        import httpx

        waiting = _batches(self._unknown(bodies, arrived), batch)
        in_flight = self.num_concurrent // batch
        timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
        trusts = not access.is_local(self.url)
        certificates = httpx.create_ssl_context(trust_env=trusts)

        async def worker() -> None:
            # A connection of its own: httpx's pool looks at every connection of it for every request.
            async with httpx.AsyncClient(timeout=timeout, trust_env=trusts, verify=certificates) as client:
                for asked in waiting:
                    body = asked[0].body
                    if batch > 1:
                        body = {**body, "prompt": [each.body["prompt"] for each in asked]}
                    for each, choice in zip(asked, await self._one(client, body, len(asked)), strict=True):
                        answer = _read(read, each.number, choice)
                        self._journal.append(each.key, answer)
                        arrived(each.number, answer)
                    self._arrived += 1

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

    def _unknown(self, bodies: Iterable[Body], arrived: Arrived) -> Iterator[Asked]:
        """Yield what is not in the journal; the rest has arrived."""
        for index, body in enumerate(bodies):
            key, answer = self._journal.recall(body)
            if answer is None:
                yield Asked(index, key, body)
            else:
                arrived(index, answer)

    async def _watch(self) -> None:
        """Raise a ServerError once the server has ended, or its engine computes nothing any more."""
        watch = HangWatch(self.url)
        while True:
            self._check_alive()
            await asyncio.sleep(WATCH_S)
            await asyncio.to_thread(watch.look, self._arrived)

    async def _one(self, client: Any, body: Body, number: int) -> list[Completion]:
        """Return the completions of a request with so many prompts, in their order."""
        import httpx

        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
                self._check_alive()
            try:
                path = TOKENS if "token_ids" in body else TEXTS
                answer = await client.post(f"{self.url}{path}", json={"model": self.model, **body})
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__} {error}".strip()
                continue
            if answer.status_code == 200:
                if (choices := _choices(answer.text)) is not None and len(choices) == number:
                    return choices
                trouble = f"its answer is no completion of {number} prompts: {clean(answer.text, 200)}"
                continue
            trouble = f"HTTP {answer.status_code}: {_message(answer)}"
            if answer.status_code < 500 and answer.status_code != 429:
                break
        self._check_alive()
        raise ServerError(f"The server did not complete a request of the evaluation: {trouble}.")


def of_tokens(prompt: Sequence[int], **sampling: object) -> Body:
    """Return the request of a prompt whose answer has no text; its sampling parameters are vLLM's."""
    return {"token_ids": prompt, "sampling_params": {**sampling, "detokenize": False}}


def _batches(asked: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    """Yield up to `size` prompts that follow each other with the same parameters."""
    batch: list[Asked] = []
    for each in asked:
        if batch and (len(batch) == size or _parameters(each.body) != _parameters(batch[0].body)):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _parameters(body: Body) -> Body:
    return {name: value for name, value in body.items() if name != "prompt"}


def _choices(text: str) -> list[Completion] | None:
    """Return the completions of an answer in the order of their prompts; None if it is something else."""
    try:
        answer = json.loads(text)
        choices: list[Completion] = answer["choices"]
        if "prompt_logprobs" in answer:
            # Of its only prompt.
            choices[0]["prompt_logprobs"] = answer["prompt_logprobs"]
        return sorted(choices, key=lambda choice: int(choice["index"]))
    except (LookupError, ValueError, TypeError, RecursionError):
        return None


def _read(read: Read, number: int, choice: Completion) -> Any:
    """Return what is read in a completion.

    Raises:
        ServerError: if it lacks what was asked for.
    """
    try:
        return read(number, choice)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise ServerError(
            f"The server left out of a completion what the evaluation asked for ({type(error).__name__}: {error})."
        ) from error


def _message(answer: Any) -> str:
    """Return the server's message, from an OpenAI-style error if it is one."""
    try:
        return clean(answer.json()["error"]["message"], 500)
    except (ValueError, LookupError, TypeError, RecursionError):
        return clean(answer.text, 500)
