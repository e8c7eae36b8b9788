"""A server that computes in steps, simulated in virtual time: every request in flight gets one token a step.

A step takes a fixed time, plus a time for each sequence, plus a time for each prompt token that is read in it. An
answered request is a row of `Requests`, so the analysis of a load is that of a real one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests


@dataclass(frozen=True)
class StepServer:
    """Times in seconds; lengths are gamma-distributed."""

    step: float = 4.9e-3
    sequence: float = 45e-6
    prompt_token: float = 20e-6
    slots: int = 1024
    prompt: float = 220.0
    answer: float = 330.0
    shape: float = 2.0

    def send(self, load: Load, seed: int) -> Requests:
        """Return the requests of a load, open (Poisson arrivals in a fixed time, as vLLM's client) or closed."""
        dice, number = np.random.default_rng(seed), load.num_prompts
        prompts = np.maximum(4, dice.gamma(self.shape, self.prompt / self.shape, number)).astype(np.int64)
        answers = np.maximum(2, dice.gamma(self.shape, self.answer / self.shape, number)).astype(np.int64)
        if load.request_rate == "inf":
            arrivals = np.zeros(number)
        else:
            arrivals = np.cumsum(dice.exponential(1.0, number))
            arrivals *= number / load.request_rate / arrivals[-1]
        return self._run(arrivals.tolist(), prompts.tolist(), answers.tolist(), load.max_concurrency)

    def _run(self, arrivals: list[float], prompts: list[int], answers: list[int], limit: int | None) -> Requests:
        number, now, running, sent, step, joined, answered = len(arrivals), 0.0, 0, 0, 0, 0, 0
        start, first, last = [0.0] * number, [0.0] * number, [0.0] * number
        ends: dict[int, list[int]] = {}
        flight = limit or number
        while answered < number:
            while sent < number and arrivals[sent] <= now and sent - answered < flight:
                start[sent] = arrivals[sent] if limit is None else now
                sent += 1
            if not running and joined == sent:
                now = arrivals[sent]
                continue
            joining = range(joined, min(sent, joined + self.slots - running))
            running += len(joining)
            now += self.step + self.sequence * running
            for request in joining:
                now += self.prompt_token * prompts[request]
                ends.setdefault(step + answers[request] - 1, []).append(request)
            joined = joining.stop
            for request in joining:
                first[request] = now
            if step in ends:
                for request in ends.pop(step):
                    last[request] = now
                    running -= 1
                    answered += 1
            step += 1
        begun, ttft, end = np.asarray(start), np.asarray(first), np.asarray(last)
        return Requests(
            input_lens=np.asarray(prompts),
            output_lens=np.asarray(answers),
            good=np.ones(number, np.bool_),
            ttft=ttft - begun,
            latency=end - begun,
            start=begun,
            itl=np.zeros(0),
            itl_counts=np.zeros(number, np.int64),
        )
