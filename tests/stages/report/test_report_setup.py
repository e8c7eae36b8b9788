"""The setup states the results' own loads, repeats and items, not those of the command that makes the report."""

from collections.abc import Iterator

import pytest
from support.compare_records import TASKS, record

from pipeline.compare import compare
from pipeline.results.base import Missing, Result
from pipeline.results.bench import BenchResult, LoadResult
from pipeline.results.eval import EvalResult
from pipeline.results.quantize import QuantizeResult
from pipeline.results.server import ServerFacts
from pipeline.stages.report.collect.setup import setup_of


def loaded(name, repeats, **changes):
    """A record with one load and that many repeats."""
    made = record(name, noise=tuple(1 + 0.01 * index for index in range(repeats)))
    load = LoadResult(
        name="rate inf",
        num_prompts=1000,
        request_rate="inf",
        max_concurrency=None,
        asked=1000 * repeats,
        completed=1000 * repeats,
        failed=0,
        metrics=made.speed.metrics,
        **changes,
    )
    speed = made.speed.model_copy(update={"loads": (load,), "headline": load.name, "warm_up": (9.0,)})
    return made.model_copy(update={"speed": speed})


def test_repeats_prompts_and_items_are_those_of_the_results() -> None:
    records = [loaded("bf16", 5), loaded("a", 3)]
    found = setup_of([], records, compare(records, TASKS))
    assert found["Load"] == "1,000 prompts a repeat, request rate inf, requests in flight: no limit"
    assert found["Repeats"] == "3 to 5 of each variant, after 1 of warm-up"
    assert found["Scoring"] == "MMLU: t (acc), 400 items; GSM8K: t (acc), 400 items"
    assert found["KL from BF16"] == "not measured"
    assert "Blocks" not in found


def test_what_was_not_measured_has_no_setup() -> None:
    gone = Missing(reason="gone")
    records = [record("bf16", speed=gone, tasks=gone)]
    found = setup_of([], records, compare(records, TASKS))
    assert (found["Load"], found["Scoring"]) == ("nothing was measured", "nothing was scored")
    assert "Repeats" not in found


def test_several_devices_are_named_with_their_variants() -> None:
    records = [loaded("bf16", 2, devices=("GPU-1", "GPU-1")), loaded("a", 2, devices=("GPU-2", "GPU-2"))]
    assert setup_of([], records, compare(records, TASKS))["Device"] == "GPU-1: BF16; GPU-2: A"


class Measured:
    """The part of a report's source that the setup reads: results by their class."""

    def __init__(self, *results: Result) -> None:
        self._results = {type(each): each for each in results}

    def result(self, cls: type[Result]) -> Result | Missing:
        return self._results.get(cls, Missing(reason="has not run"))

    def servers(self) -> Iterator[ServerFacts]:
        return (each.server for each in self._results.values() if "server" in each.model_fields_set)


def setup_with(settings, *results: Result) -> dict[str, str]:
    gone = Missing(reason="gone")
    records = [record("bf16", speed=gone, tasks=gone)]
    return setup_of([Measured(*results)], records, compare(records, TASKS))


NAMED = {"temperature": 0.6, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("temperature", "server", "says"),
    [
        (
            0,
            {"sampling": {}, "generation_config": NAMED},
            "benchmarks: greedy, without penalties; "
            "not applied: repetition_penalty=1.05, temperature=0.6 of generation_config.json",
        ),
        (
            None,
            {"sampling": NAMED, "generation_config": NAMED},
            "benchmarks: no temperature named, temperature=0.6, repetition_penalty=1.05 by the server",
        ),
        (0.7, {"sampling": {}, "generation_config": {}}, "benchmarks: temperature 0.7, without penalties"),
        (
            0,
            {"attached": {"url": "http://a", "model": "m", "version": "1", "context": None}},
            "benchmarks: greedy, all else by the attached server",
        ),
    ],
)
def test_decoding_is_what_requests_and_servers_were_given(settings, temperature, server, says) -> None:
    bench = BenchResult(asked=1, completed=1, metrics={}, temperature=temperature, server=ServerFacts(**server))
    assert setup_with(settings, bench)["Decoding"] == says


def test_tasks_are_greedy_and_early_results_say_nothing(settings) -> None:
    scored = EvalResult(tasks={}, server=ServerFacts(sampling={}, generation_config=NAMED))
    assert setup_with(settings, scored)["Decoding"].startswith("tasks: greedy without penalties")
    assert "Decoding" not in setup_with(settings, EvalResult(tasks={}), BenchResult(asked=1, completed=1, metrics={}))


def test_weights_that_were_cast_are_named(settings) -> None:
    made = QuantizeResult(bytes=1, quantized_layers=0, cast_from="float32")
    assert setup_with(settings, made)["Weights"].startswith("cast from float32 to BF16")
    assert "Weights" not in setup_with(settings, QuantizeResult(bytes=1, quantized_layers=0))
