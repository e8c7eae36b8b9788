"""Continuous batching on a roofline: the best that a server could reach under a load that arrives all at once.

It simulates steps of vLLM's scheduler (W. Kwon et al., SOSP 2023; A. Agrawal et al., Sarathi-Serve, OSDI 2024, for
chunked prefill): every running sequence gets one token, the rest of the token budget goes to prompts in the order of
arrival, and a request is admitted when the KV cache has room for all of it. So no request is preempted. The duration of
a step is the roofline's: launches, sampling, scheduling and unpacking take no time.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, NamedTuple

from pydantic import Field

from pipeline.results.base import Frozen

# Tokens of prompt and reply of each request.
Lengths = tuple[tuple[int, int], ...]


class RooflineLoad(Frozen):
    """Requests that arrive all at once, their lengths in tokens; `source`: where the lengths come from.

    Attributes:
        requests: number of requests.
        mean_input: mean tokens of a prompt.
        mean_output: mean tokens of a reply.
        max_concurrency: the client's limit.
        longest: most tokens of a request, where the distribution is assumed.
        spread: distribution of lengths around the means where they were not recorded: exponential, or all equal.
        recorded: (prompt, reply) tokens of each request, one tuple for each repeat; empty if not recorded.
    """

    requests: int
    mean_input: float
    mean_output: float
    max_concurrency: int | None = None
    longest: int = 2048
    spread: Literal["exponential", "equal"] = "exponential"
    recorded: tuple[Lengths, ...] = Field((), exclude=True)
    source: str

    @property
    def repeats(self) -> tuple[Lengths, ...]:
        """Prompt and reply tokens of each request: as recorded, one tuple for each repeat, else as assumed."""
        return self.recorded or (lengths(self),)


class BatchLimits(Frozen):
    """Limits of a step: sequences in a batch, tokens in a step."""

    max_num_seqs: int
    max_num_batched_tokens: int


class ServerLimits(BatchLimits):
    """Limits of the server: those of a step, and tokens in the KV cache."""

    kv_tokens: int


class Served(Frozen):
    """The simulated performance, in the study's units; `concurrency` is the mean number of running sequences."""

    throughput_tok_s: float
    mean_ttft_ms: float
    mean_tpot_ms: float
    concurrency: float


class BatchStep(NamedTuple):
    """One forward pass: sequences that decode, the sum of their contexts, and the prompt tokens beside them.

    `prompt_pairs` counts pairs of a prompt token and a token it attends to; `prompts_done` get their first token.
    """

    decoding: int
    context: int
    prompt_tokens: int
    prompt_pairs: float
    prompts_done: int


@cache
def lengths(load: RooflineLoad) -> Lengths:
    """Return the assumed tokens of each request: exponential quantiles in a fixed random order, or all equal."""
    if load.spread == "equal":
        return ((max(1, round(load.mean_input)), max(1, round(load.mean_output))),) * load.requests
    quantiles = [-math.log1p(-(index + 0.5) / load.requests) for index in range(load.requests)]
    # The quantiles of few requests average less than 1.
    scale = load.requests / math.fsum(quantiles)
    shuffled = random.Random(0)
    prompts, outputs = shuffled.sample(quantiles, load.requests), shuffled.sample(quantiles, load.requests)
    pairs = []
    for prompt_quantile, output_quantile in zip(prompts, outputs, strict=True):
        prompt = min(max(1, round(prompt_quantile * scale * load.mean_input)), load.longest - 1)
        output = min(max(1, round(output_quantile * scale * load.mean_output)), load.longest - prompt)
        pairs.append((prompt, output))
    return tuple(pairs)


def serve(load: RooflineLoad, limits: ServerLimits, seconds: Callable[[BatchStep, int], float]) -> Served | None:
    """Simulate the load to its end; None if a single request does not fit the KV cache.

    With recorded lengths each repeat is simulated, and the figures are means over repeats as those of a benchmark are.

    Args:
        load: the requests.
        limits: those of the server.
        seconds: the duration of a number of equal steps in a row, each of which adds its tokens to the context.
    """
    if max(prompt + output for requests in load.repeats for prompt, output in requests) > limits.kv_tokens:
        return None
    served = [_simulate(requests, load.max_concurrency, limits, seconds) for requests in load.repeats]
    return Served(**{name: statistics.fmean(getattr(each, name) for each in served) for name in Served.model_fields})


def _simulate(
    requests: Lengths, max_concurrency: int | None, limits: ServerLimits, seconds: Callable[[BatchStep, int], float]
) -> Served:
    """Simulate one repeat."""
    batch = _Batch(requests, limits, min(limits.max_num_seqs, max_concurrency or len(requests)))
    ttft = tpot = running = now = 0.0
    started = [0.0] * len(requests)
    while batch.is_busy:
        step, prefilled = batch.schedule()
        # Without prompt tokens, nothing changes before the next sequence ends.
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
    """State of the server: admitted requests, partial prompts, decoding sequences and the last step of each."""

    def __init__(self, requests: Sequence[tuple[int, int]], limits: ServerLimits, places: int) -> None:
        self.requests, self.limits, self.places = requests, limits, places
        self.admitted = self.occupied = self.reserved = self.context = self.steps = 0
        self.prefilling: list[tuple[int, int]] = []  # request, prompt tokens already processed
        self.ends: list[tuple[int, int]] = []  # heap of (last step, decoding request)

    @property
    def is_busy(self) -> bool:
        """True if any request is unfinished."""
        return bool(self.admitted < len(self.requests) or self.prefilling or self.ends)

    def schedule(self) -> tuple[BatchStep, list[int]]:
        """Return the next step, and the requests whose prompts it completes."""
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
        return BatchStep(len(self.ends), self.context, tokens, pairs, len(completed)), completed

    @property
    def until_next_end(self) -> int:
        """Steps until a decoding sequence has its last token."""
        return self.ends[0][0] - self.steps

    def finish_decodes(self, steps: int) -> list[int]:
        """Add `steps` tokens to each decoding sequence; release and return those that end."""
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
        """Start decoding a request whose prompt is complete and produced the first token."""
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
