"""Continuous batching on a roofline: what a server could reach at best under a load that arrives all at once.

Step by step, as vLLM's scheduler does it (W. Kwon et al., SOSP 2023; A. Agrawal et al., Sarathi-Serve, OSDI 2024, for
chunked prefill): every running sequence gets one token, what is left of the token budget goes to prompts in the order
of arrival, a request is admitted when the KV cache has room for all of it. So nobody is preempted, and a step takes
what the roofline says: nothing for launches, sampling, scheduling, unpacking.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from pipeline.results.base import Frozen


class Load(Frozen):
    """Requests that arrive all at once, their lengths in tokens; `source` says whence the lengths.

    `max_concurrency` is the client's limit. Lengths are spread like an exponential distribution of that mean, cut at
    `longest` tokens in all: the study does not say how they are spread.
    """

    requests: int
    mean_input: float
    mean_output: float
    max_concurrency: int | None = None
    longest: int = 2048
    source: str


class Limits(Frozen):
    """The server's: sequences in a batch, tokens in a step, tokens in the KV cache."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int


class Served(Frozen):
    """What came of it, in the study's units; `concurrency` is the mean number of running sequences."""

    throughput_tok_s: float
    mean_ttft_ms: float
    mean_tpot_ms: float
    concurrency: float


class Step(NamedTuple):
    """One forward pass: sequences that decode, the sum of their contexts, and the prompt tokens beside them.

    `prompt_pairs` counts pairs of a prompt token and a token that it looks at; `prompts_done` get their first token.
    """

    decoding: int
    context: int
    prompt_tokens: int
    prompt_pairs: float
    prompts_done: int


@cache
def lengths(load: Load) -> tuple[tuple[int, int], ...]:
    """Input and output tokens of each request: quantiles of two exponential distributions, in a fixed random order."""
    quantiles = [-math.log1p(-(index + 0.5) / load.requests) for index in range(load.requests)]
    # The quantiles of few requests average less than 1.
    scale = load.requests / math.fsum(quantiles)
    shuffled = random.Random(0)
    prompts, outputs = shuffled.sample(quantiles, load.requests), shuffled.sample(quantiles, load.requests)
    found = []
    for ours, theirs in zip(prompts, outputs, strict=True):
        prompt = min(max(1, round(ours * scale * load.mean_input)), load.longest - 1)
        found.append((prompt, min(max(1, round(theirs * scale * load.mean_output)), load.longest - prompt)))
    return tuple(found)


def serve(load: Load, limits: Limits, seconds: Callable[[Step, int], float]) -> Served | None:
    """Runs the load to its end; None where a single request does not fit the KV cache.

    Args:
        load: the requests.
        limits: the server's.
        seconds: the duration of a step, or of so many like it in a row, each of which adds its tokens to the context.
    """
    requests = lengths(load)
    if max(prompt + output for prompt, output in requests) > limits.kv_tokens:
        return None
    batch = _Batch(requests, limits, min(limits.max_num_seqs, load.max_concurrency or load.requests))
    ttft = tpot = running = now = 0.0
    started = [0.0] * len(requests)
    while batch.is_busy:
        step, prefilled = batch.schedule()
        # Without a prompt in it, nothing changes before the next sequence ends.
        steps = 1 if step.prompt_tokens else batch.until_next_end
        took = seconds(step, steps)
        now, running = now + took, running + took * batch.occupied
        for index in batch.finish_decodes(steps):
            tpot += (now - started[index]) / (requests[index][1] - 1)
        for index in prefilled:
            started[index] = now
            ttft += now
            batch.start_decode(index)
    return Served(
        throughput_tok_s=sum(prompt + output for prompt, output in requests) / now,
        mean_ttft_ms=1000 * ttft / len(requests),
        mean_tpot_ms=1000 * tpot / max(1, sum(output > 1 for _, output in requests)),
        concurrency=running / now,
    )


class _Batch:
    """What the server holds: admitted requests, prompts half done, sequences that decode and when each will end."""

    def __init__(self, requests: Sequence[tuple[int, int]], limits: Limits, places: int) -> None:
        self.requests, self.limits, self.places = requests, limits, places
        self.admitted = self.occupied = self.reserved = self.context = self.steps = 0
        self.prefilling: list[tuple[int, int]] = []  # a request and the tokens of its prompt that are done
        self.ends: list[tuple[int, int]] = []  # a heap of the last step of each decoding request

    @property
    def is_busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.admitted < len(self.requests) or self.prefilling or self.ends)

    def schedule(self) -> tuple[Step, list[int]]:
        """The next step, and the requests whose prompts it completes."""
        budget = self.limits.max_num_batched_tokens - len(self.ends)
        tokens, pairs = 0, 0.0
        completed, cut = [], []
        while budget > 0 and (taken := self._next_prompt()) is not None:
            index, before = taken
            prompt = self.requests[index][0]
            chunk = min(budget, prompt - before)
            budget, tokens = budget - chunk, tokens + chunk
            pairs += chunk * (before + (chunk + 1) / 2)
            if before + chunk == prompt:
                completed.append(index)
            else:
                cut.append((index, before + chunk))
        self.prefilling = cut + self.prefilling
        return Step(len(self.ends), self.context, tokens, pairs, len(completed)), completed

    @property
    def until_next_end(self) -> int:
        """Steps until a decoding sequence has its last token."""
        return self.ends[0][0] - self.steps

    def finish_decodes(self, steps: int) -> list[int]:
        """Gives each decoding sequence so many tokens, and lets go of those that have their last."""
        self.steps += steps
        self.context += steps * len(self.ends)
        done = []
        while self.ends and self.ends[0][0] == self.steps:
            index = heapq.heappop(self.ends)[1]
            self.context -= sum(self.requests[index])
            self._release(index)
            done.append(index)
        return done

    def start_decode(self, index: int) -> None:
        """Its prompt is done and has given the first token."""
        prompt, output = self.requests[index]
        if output == 1:
            self._release(index)
            return
        heapq.heappush(self.ends, (self.steps + output - 1, index))
        self.context += prompt + 1

    def _next_prompt(self) -> tuple[int, int] | None:
        if self.prefilling:
            return self.prefilling.pop(0)
        if self.admitted == len(self.requests) or self.occupied == self.places:
            return None
        needed = sum(self.requests[self.admitted])
        if self.reserved + needed > self.limits.kv_tokens:
            return None
        self.admitted, self.occupied, self.reserved = self.admitted + 1, self.occupied + 1, self.reserved + needed
        return self.admitted - 1, 0

    def _release(self, index: int) -> None:
        self.occupied -= 1
        self.reserved -= sum(self.requests[index])
