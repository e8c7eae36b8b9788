"""Continuous batching on a roofline: nothing is lost, no limit is passed, and closed forms come out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import expon

from pipeline.compare.roofline.batching import RooflineLoad, ServerLimits, lengths, serve

PLENTY = ServerLimits(max_num_seqs=10_000, max_num_batched_tokens=10**9, kv_tokens=10**9)


def in_ones(step, steps):
    return steps


def load(requests=50, mean_input=100.0, mean_output=50.0, **more):
    return RooflineLoad(requests=requests, mean_input=mean_input, mean_output=mean_output, source="a test", **more)


def test_lengths_have_the_means_that_were_asked_for_and_are_always_the_same():
    found = lengths(load(1000, 200, 150, longest=10**6))
    assert sum(prompt for prompt, _ in found) / 1000 == pytest.approx(200, rel=0.01)
    assert sum(output for _, output in found) / 1000 == pytest.approx(150, rel=0.01)
    assert found == lengths(load(1000, 200, 150, longest=10**6))
    long = lengths(load(1000, 2000, 2000))
    assert max(prompt + output for prompt, output in long) == 2048 and min(output for _, output in long) == 1


def test_lengths_are_in_the_same_order_on_every_machine():
    """What was predicted for a report is predicted again for the next."""
    assert [prompt for prompt, _ in lengths(load(6, 100, 50))] == [93, 263, 9, 30, 57, 147]


def test_lengths_are_exponential_or_equal():
    """The quantiles at 1/20, 3/20 ... 19/20 of an exponential, scaled to the mean."""
    quantiles = expon.ppf((2 * np.arange(10) + 1) / 20)
    found = lengths(load(10, 1000, 100, longest=10**6))
    for tokens, mean in zip(zip(*found, strict=True), (1000, 100), strict=True):
        assert sorted(tokens) == [round(value) for value in (mean * quantiles / quantiles.mean()).tolist()]
    assert lengths(load(3, 99.6, 0.2, spread="equal")) == ((100, 1),) * 3
    # However short, a prompt and an answer have a token.
    assert lengths(load(3, 0.1, 0.1)) == lengths(load(3, 0.1, 0.1, spread="equal")) == ((1, 1),) * 3


def test_with_room_for_all_every_prompt_is_done_in_the_first_step():
    longest = max(output for _, output in lengths(load()))
    total = sum(prompt + output for prompt, output in lengths(load()))
    found = serve(load(), PLENTY, in_ones)
    assert found.mean_ttft_ms == 1000 and found.mean_tpot_ms == pytest.approx(1000)
    assert found.throughput_tok_s == pytest.approx(total / longest)


def test_one_at_a_time_is_the_sum_of_all():
    one = ServerLimits(max_num_seqs=1, max_num_batched_tokens=10**9, kv_tokens=10**9)
    steps = sum(output for _, output in lengths(load()))
    total = sum(prompt + output for prompt, output in lengths(load()))
    found = serve(load(), one, in_ones)
    assert found.throughput_tok_s == pytest.approx(total / steps) and found.concurrency == pytest.approx(1)
    assert found == serve(load(max_concurrency=1), PLENTY, in_ones)


def test_a_request_that_never_fits_is_not_served():
    assert serve(load(), ServerLimits(max_num_seqs=8, max_num_batched_tokens=64, kv_tokens=60), in_ones) is None


@given(
    requests=st.integers(1, 60),
    means=st.tuples(st.floats(1, 300), st.floats(1, 100)),
    places=st.integers(1, 40),
    budget=st.integers(1, 600),
    room=st.integers(2048, 20_000),
)
def test_every_token_is_made_and_no_limit_is_passed(requests, means, places, budget, room):
    asked = load(requests, *means)
    limits = ServerLimits(max_num_seqs=places, max_num_batched_tokens=max(budget, places), kv_tokens=room)
    seen = {"prompt": 0, "output": 0, "pairs": 0.0}

    def seconds(step, steps):
        assert steps == 1 or not step.prompt_tokens
        assert step.decoding <= places and step.decoding + step.prompt_tokens <= limits.max_num_batched_tokens
        assert step.context + (steps - 1) * step.decoding <= room
        assert step.decoding or step.prompt_tokens
        seen["prompt"] += step.prompt_tokens
        seen["output"] += steps * step.decoding + step.prompts_done
        seen["pairs"] += step.prompt_pairs
        return 0.001 * steps

    found = serve(asked, limits, seconds)
    wanted = lengths(asked)
    assert seen["prompt"] == sum(prompt for prompt, _ in wanted)
    assert seen["output"] == sum(output for _, output in wanted)
    assert seen["pairs"] == pytest.approx(sum(prompt * (prompt + 1) / 2 for prompt, _ in wanted))
    assert found.concurrency <= places + 1e-9 and found.mean_ttft_ms > 0


@given(places=st.integers(1, 30), room=st.integers(2100, 9000))
def test_faster_steps_serve_more(places, room):
    limits = ServerLimits(max_num_seqs=places, max_num_batched_tokens=512, kv_tokens=room)
    slow, fast = (serve(load(), limits, lambda step, steps, t=t: t * steps) for t in (0.02, 0.01))
    assert fast.throughput_tok_s == pytest.approx(2 * slow.throughput_tok_s)
    assert fast.mean_ttft_ms == pytest.approx(slow.mean_ttft_ms / 2)
