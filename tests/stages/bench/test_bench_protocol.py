"""A protocol from start to end on a simulated server: what is sent with which seeds, and what the result holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.step_server import StepServer

from pipeline.config import Settings
from pipeline.demo import BENCHMARK, CHECKPOINT
from pipeline.errors import InputError, NotApplicable, ServerError
from pipeline.results.bench import Conditions, LoadResult, Metric
from pipeline.results.server import ServerFacts
from pipeline.stages.bench import protocol
from pipeline.stages.bench.client import Run
from pipeline.stages.bench.plan import Load
from pipeline.stages.bench.requests import Requests
from pipeline.stages.bench.steady import Steady

RANDOM = ("bench=throughput", "bench.num_prompts=40", "bench.warmup_prompts=7", "bench.repeats=3")
LADDER = ("bench=throughput", "bench.warmup_prompts=4", "bench.warmup_rounds=1", "bench.repeats=2")
CLIMB = "+bench.ladder={concurrency: [1, 4], rates: [0.5, 0.9], min_prompts: 8, level_s: 20}"
SHAPE = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}


def summed(requests: Requests) -> dict[str, Any]:
    """What vLLM's client would say of the requests."""
    good, seconds = requests.good, float((requests.start + requests.latency).max())
    output, prompts = int(requests.output_lens[good].sum()), int(requests.input_lens[good].sum())
    return {
        "duration": seconds,
        "completed": int(good.sum()),
        "total_input_tokens": prompts,
        "total_output_tokens": output,
        "request_throughput": int(good.sum()) / seconds,
        "total_token_throughput": (output + prompts) / seconds,
        "mean_e2el_ms": 1000 * float(requests.latency[good].mean()),
    }


class Watched:
    """In the monitor's place: what it was asked to watch, and conditions that tell repeats apart."""

    made: list[Watched]

    def __init__(self, *given: Any) -> None:
        self.given, self.requests = given, None
        self.made.append(self)
        self.conditions = Conditions(seconds=float(len(self.made)), peak_memory_bytes=1000 + len(self.made))

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        assert error or self.requests is not None, "the requests are known before the watch ends"


class Bench:
    """A job with a simulated server, and what was sent to it."""

    def __init__(self, settings: Settings, folder: Path, server: StepServer) -> None:
        self.sent: list[tuple[Load, int]] = []
        self.said: list[str] = []
        self.details: list[str] = []
        self.stopped = 0
        self.step_server = server
        self.damage: Callable[[Load, Requests], Run | None] = lambda load, requests: None
        target = SimpleNamespace(
            url="http://127.0.0.1:9",
            pid=42,
            key_variable="KEY",
            log=None,
            change=lambda: self.change,
            facts=lambda: ServerFacts(kv_cache_tokens=1000, attention="FLASH", emulated=self.emulated),
        )
        self.change = ""
        self.emulated: tuple[str, ...] = ()
        artifact = SimpleNamespace(manifest=lambda: None)
        self.job: Any = SimpleNamespace(
            settings=settings,
            variant="awq",
            block=0,
            reference=None,
            hardware=SimpleNamespace(device="cuda", device_id="GPU-1", gpus={"0": "GPU-1"}),
            model=SimpleNamespace(config=SHAPE, context=lambda wanted: wanted or 4096),
            progress=SimpleNamespace(detail=self.details.append, say=self.said.append),
            serving=SimpleNamespace(logs=folder / "logs", client_pid=17, stop=self.stop),
            target=lambda: target,
            artifact=lambda stage: artifact,
        )
        self.draft: Any = SimpleNamespace(folder=folder, results=None)

    def stop(self) -> None:
        self.stopped += 1

    def send(self, _: Any, load: Load, seed: int) -> Run:
        self.sent.append((load, seed))
        requests = self.step_server.send(load, seed)
        return self.damage(load, requests) or Run(summed(requests), requests)

    @property
    def names(self) -> list[str]:
        return [load.name for load, _ in self.sent]

    def run(self) -> Any:
        protocol.bench(self.job, self.draft)
        return self.draft.results


@pytest.fixture
def bench(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    monkeypatch.setattr(protocol, "Watch", Watched)
    monkeypatch.setattr(protocol.memory_bandwidth, "measured", {"cuda": 3e12}.get)
    Watched.made = []

    def make(*overrides: str, server: StepServer | None = None) -> Bench:
        found = Bench(settings(*overrides), tmp_path, server or StepServer())
        monkeypatch.setattr(protocol.Client, "send", lambda client, load, seed: found.send(client, load, seed))
        return found

    return make


def test_one_load_is_warmed_up_repeated_and_summed_up(bench: Callable[..., Bench], tmp_path: Path) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=2", "bench.seed=5")
    result = made.run()
    assert [(load.name, load.num_prompts, seed) for load, seed in made.sent] == [
        *(("warm-up", 7, 10_005), ("warm-up", 7, 10_006)),
        *(("rate inf", 40, 5), ("rate inf", 40, 6), ("rate inf", 40, 7)),
    ]
    (load,) = result.loads
    runs = [made.step_server.send(sent, seed) for sent, seed in made.sent[2:]]
    assert (load.asked, load.completed, load.failed, load.seeds) == (120, 120, 0, (5, 6, 7))
    assert load.output_tokens == tuple(int(run.output_lens.sum()) for run in runs)
    assert load.input_tokens == tuple(int(run.input_lens.sum()) for run in runs)
    assert load.analysed == (40, 40, 40)
    assert load.in_flight == tuple(round(run.latency.sum() / run.latency.max(), 3) for run in runs)
    assert load.metrics["request_throughput"].values == pytest.approx([40 / run.latency.max() for run in runs])
    assert [each.seconds for each in load.conditions] == [1, 2, 3]
    assert (result.headline, result.asked, result.completed, result.failed) == ("rate inf", 120, 120, 0)
    assert result.output_tokens == load.output_tokens and result.metrics == load.metrics
    assert (result.protocol, result.temperature, result.block, result.device) == ("throughput", 0, 0, "GPU-1")
    assert len(result.warm_up) == 2 and all(rate > 0 for rate in result.warm_up)
    assert [detail for detail in made.details if detail.startswith("warming up")] == [
        "warming up, round 1 of at most 2",
        "warming up, round 2 of at most 2",
    ]
    assert result.server.attention == "FLASH" and result.memory_bandwidth == 3e12
    assert (result.memory.kv_cache_bytes, result.memory.peak_bytes) == (1_024_000, 1003)
    assert result.goodput is None and result.failures == () and result.left_out == ()
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("loads/*/*"))
    assert files == [f"loads/rate-inf/repeat-{i}.{kind}" for i in range(3) for kind in ("json", "npz")]
    assert not list(tmp_path.glob(".scratch-*")) and (tmp_path / "logs" / "clients" / "awq").is_dir()
    names = [guard.name for guard in result.guards]
    assert names.count("warm-up") == names.count("trend") == names.count("reply length") == 1
    assert not {"same server", "budget", "distinct prompts"} & set(names)


def test_a_format_that_turns_out_to_be_emulated_is_sent_nothing(bench: Callable[..., Bench]) -> None:
    """Of a checkpoint of others, whose format no table has, the server's log tells it first."""
    made = bench(*RANDOM)
    made.emulated = ("fp8_w8a8_static",)
    with pytest.raises(NotApplicable, match="emulated on this machine"):
        made.run()
    assert not made.sent


def test_the_server_and_the_client_are_watched(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1", "bench.repeats=1")
    made.run()
    ((url, pid, gpus, client, key_variable),) = [each.given for each in Watched.made]
    assert (url, pid, gpus, client(), key_variable) == ("http://127.0.0.1:9", 42, ("0",), 17, "KEY")
    made.job.hardware.gpus = {}
    made.run()
    assert Watched.made[-1].given[2] == ()


def test_each_block_has_seeds_of_its_own(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1", "bench.seed=5")
    made.job.block = 2
    assert made.run().loads[0].seeds == (11, 12, 13)
    assert made.draft.results.block == 2


def test_warm_up_ends_when_it_is_steady_or_has_had_its_rounds(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=9", "bench.repeats=1", "bench.num_prompts=1")
    growing = iter([100.0, 101.0, 102.0, 102.5, 102.5])

    def steady(load: Load, requests: Requests) -> Run:
        return Run(summed(requests) | {"total_token_throughput": next(growing, 102.5)}, requests)

    made.damage = steady
    assert made.run().warm_up == (100.0, 101.0, 102.0), "a rise of more than 5 % is ruled out by three"
    none = bench(*RANDOM, "bench.warmup_prompts=0", "bench.repeats=1", "bench.num_prompts=1")
    result = none.run()
    assert result.warm_up == () and none.names == ["rate inf"]
    assert next(guard.passed for guard in result.guards if guard.name == "warm-up") is False


def test_failed_requests_and_replies_of_other_lengths_are_counted(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1", "bench.output_len=9")

    def fail(load: Load, requests: Requests) -> Run:
        lengths, good = np.full(len(requests.good), 9), requests.good.copy()
        good[0] = load.name == "warm-up"
        lengths[0] = 0
        spoiled = replace(requests, good=good, output_lens=lengths)
        return Run(summed(spoiled), spoiled)

    made.damage = fail
    result = made.run()
    assert (result.asked, result.completed, result.failed) == (120, 117, 3)
    guards = {guard.name: guard for guard in result.guards}
    assert guards["requests"].text == "3 of 120 requests failed" and guards["requests"].passed is False
    # A failed request has no reply whose length could be wrong.
    assert guards["reply length"].passed is True
    assert guards["reply length"].text.startswith("1053 tokens generated of 1053 requested")


def test_prompts_that_were_sent_twice_matter_to_a_server_with_a_cache(bench: Callable[..., Bench]) -> None:
    for url, passed in (("", None), ("serve.url=http://127.0.0.1:9", False)):
        made = bench(*RANDOM, "bench.warmup_rounds=1")
        one = protocol.Protocol(made.job, Path(), made.job.settings.bench, None, Path())
        if url:
            serve = made.job.settings.serve.model_copy(update={"url": "http://127.0.0.1:9"})
            made.job.settings = made.job.settings.model_copy(update={"serve": serve})
        load = Load(name="rate inf", num_prompts=3)
        requests = replace(made.step_server.send(load, 1), output_lens=np.full(3, 128))
        runs = [Run({}, requests), Run({}, requests, repeats_prompts=True)]
        (distinct, reply) = one._load_guards(load, runs, [])
        assert (distinct.name, distinct.passed, distinct.load) == ("distinct prompts", passed, "rate inf")
        assert distinct.text.startswith("3 requests are more than the data set has prompts")
        assert (reply.name, reply.passed) == ("reply length", True)
        assert [guard.name for guard in one._load_guards(load, runs[:1], [])] == ["reply length"]
    free = made.job.settings.bench.model_copy(update={"output_len": None})
    assert protocol.Protocol(made.job, Path(), free, None, Path())._load_guards(load, runs[:1], []) == []


def test_a_probe_that_does_not_complete_its_rate_is_no_fault(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM)
    free = made.job.settings.bench.model_copy(update={"output_len": None})
    one = protocol.Protocol(made.job, Path(), free, None, Path())
    empty = made.step_server.send(Load(name="x", num_prompts=2), 1)
    part = Steady(requests=empty, begin=0.0, end=10.0, in_flight=1.0, completed=0, sent=1.0)
    for name, guards in (("probe 1, rate 2/s", []), ("rate 2/s", ["completions", "ramp"])):
        load = Load(name=name, num_prompts=2, request_rate=2.0, is_cut=True, cut_s=1.0)
        assert [guard.name for guard in one._load_guards(load, [], [part])] == guards


def test_a_server_that_changed_is_told(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1", "bench.repeats=1")
    made.change = "version 1 -> 2"
    guard = made.run().guards[-1]
    assert (guard.name, guard.passed, guard.text, guard.load) == ("same server", False, "version 1 -> 2", None)


def climbed(made: Bench) -> dict[str, LoadResult]:
    return {load.name: load for load in made.run().loads}


def test_a_ladder_has_a_pilot_for_each_level_and_rates_of_its_own_throughput(bench: Callable[..., Bench]) -> None:
    made = bench(*LADDER, CLIMB, "bench.seed=3")
    found = climbed(made)
    rates = [name for name in found if name.startswith("rate")]
    assert made.names == [
        "warm-up",
        *("pilot concurrency 1", "concurrency 1", "concurrency 1"),
        *("pilot concurrency 4", "concurrency 4", "concurrency 4"),
        *(rates[0], rates[0], rates[1], rates[1]),
    ]
    seeds = dict(zip(range(len(made.sent)), (seed for _, seed in made.sent), strict=True))
    # The seed, 100 for each place in the ladder, and the repeat; pilots are far from all.
    assert list(seeds.values()) == [10_003, 20_003, 3, 4, 20_103, 103, 104, 203, 204, 303, 304]
    pilots = [load for load, _ in made.sent if load.name.startswith("pilot")]
    assert [load.num_prompts for load in pilots] == [4, 4]
    for slots, (pilot, seed) in ((1, made.sent[1]), (4, made.sent[4])):
        latency = made.step_server.send(pilot, seed).latency.mean()
        expected = max(8, 6 * slots, int(np.ceil(slots * 20 / latency)) + 3 * slots)
        assert found[f"concurrency {slots}"].num_prompts == expected
    best = max(np.mean(load.metrics["request_throughput"].values) for load in found.values() if load.kind == "closed")
    for name, share in zip(rates, (0.5, 0.9), strict=True):
        rate = float(found[name].request_rate)
        assert rate == pytest.approx(share * best, rel=0.01)
        assert f"{share:g} of own saturation" in name
        # 20 s, and a long answer at either end.
        assert found[name].num_prompts >= rate * 20 and found[name].analysed[0] < found[name].num_prompts
    assert made.draft.results.headline == "concurrency 4", "the last load without a rate"
    assert found["concurrency 4"].analysed == (found["concurrency 4"].num_prompts - 12,) * 2


def test_the_loads_of_a_ladder_are_those_of_bf16(bench: Callable[..., Bench]) -> None:
    def stored(name: str, rate: float | str, slots: int | None, number: int) -> LoadResult:
        metrics = {"request_throughput": Metric(unit="req/s", values=(10.0,))}
        metrics |= {"mean_e2el_ms": Metric(unit="ms", values=(1000.0,))}
        common = {"asked": number, "completed": number, "failed": 0, "metrics": metrics}
        return LoadResult(name=name, num_prompts=number, request_rate=rate, max_concurrency=slots, **common)

    made = bench(*LADDER, CLIMB, "bench.repeats=1")
    loads = [
        stored("concurrency 1", "inf", 1, 31),
        stored("concurrency 4", "inf", 4, 53),
        stored("rate 5/s", 5.0, None, 77),
    ]
    reference: Any = SimpleNamespace(
        loads=loads, load=lambda name: next((load for load in loads if load.name == name), None)
    )
    made.job.reference = SimpleNamespace(settings=SimpleNamespace(is_baseline=True))
    one = protocol.Protocol(made.job, made.draft.folder, made.job.settings.bench, None, Path(), reference)
    one.run()
    assert {load.name: load.num_prompts for load in one.loads} == {
        "concurrency 1": 31,
        "concurrency 4": 53,
        "rate 5/s": 77,
        # The level that reaches 9 requests a second takes three times its mean of 1 s, at either end of 20 s.
        "rate 9/s": 9 * 26,
    }


def test_what_the_budget_does_not_allow_is_left_out_and_told(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level takes 10 s of the clock: the first is always measured, and the next only if as much is left."""
    now = [0.0]
    monkeypatch.setattr(protocol.time, "monotonic", lambda: now[0])
    for budget, measured in ((19.0, 1), (20.0, 2)):
        steps = "concurrency: [1, 2, 4], rates: [0.5], min_prompts: 8, level_s: 1"
        climb = f"+bench.ladder={{{steps}, budget_s: {budget:g}}}"
        made = bench(*LADDER, climb, "bench.repeats=1")

        def wait(load: Load, requests: Requests) -> None:
            now[0] += 10.0 * load.name.startswith("concurrency")

        made.damage = wait
        result = made.run()
        assert [load.name for load in result.loads] == ["concurrency 1", "concurrency 2"][:measured]
        assert len(result.left_out) == 4 - measured and result.left_out[-1].startswith("rate ")
        (guard,) = [guard for guard in result.guards if guard.name == "budget"]
        assert guard.passed is None and guard.load is None
        assert guard.text == f"left out for bench.ladder.budget_s={budget:g}: {', '.join(result.left_out)}"


def test_an_open_load_takes_at_least_its_requests_over_its_rate() -> None:
    assert protocol._least_s(Load(name="x", num_prompts=30)) == 0
    assert protocol._least_s(Load(name="x", num_prompts=30, request_rate=4.0)) == 7.5


SEARCH = ("bench.slo.ttft_ms=1000", "bench.slo.percentile=90", "bench.slo.prompts=20", "bench.slo.probe_s=2")


def test_the_highest_good_rate_is_searched_from_half_of_the_saturation(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, *SEARCH, "bench.warmup_rounds=1", "bench.repeats=1", "bench.slo.probes=3")
    result = made.run()
    goodput, throughput = result.goodput, result.loads[0].metrics["request_throughput"].values[0]
    assert goodput.slo == {"ttft_ms": 1000} and len(goodput.probes) == 3
    assert goodput.probes[0].rate == pytest.approx(throughput / 2, rel=0.01)
    probes = [load for load in result.loads if load.name.startswith("probe")]
    assert [load.name for load in probes] == [probe.load for probe in goodput.probes]
    assert [load.seeds for load in probes] == [(5000,), (5100,), (5200,)]
    assert all(probe.percentile == 90 and probe.seconds >= 2 and probe.met for probe in goodput.probes)
    assert all(probe.seen["ttft_ms"] < 1000 and probe.completed > 0.9 for probe in goodput.probes)
    assert [probe.requests for probe in goodput.probes] == [load.analysed[0] for load in probes]
    assert all(
        probe.in_flight == pytest.approx(load.in_flight[0], abs=1e-3)
        for probe, load in zip(goodput.probes, probes, strict=True)
    )
    assert goodput.met == max(probe.rate for probe in goodput.probes if probe.counts)
    assert result.headline == "rate inf" and result.asked == 40, "no probe is a headline"
    assert "request_goodput" in result.metrics


def test_a_percentile_among_failed_requests_is_null(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, *SEARCH, "bench.warmup_rounds=1", "bench.repeats=1", "bench.slo.probes=1")

    def fail(load: Load, requests: Requests) -> Run | None:
        if not load.name.startswith("probe"):
            return None
        broken = replace(requests, good=np.zeros(len(requests.good), np.bool_))
        return Run(summed(requests) | {"completed": 0}, broken)

    made.damage = fail
    (probe,) = made.run().goodput.probes
    assert probe.seen == {"ttft_ms": None} and probe.met is False and probe.counts is True


@pytest.mark.parametrize("given", [(), ("bench.slo.ttft_ms=1000", "bench.slo.probes=0")])
def test_without_limits_or_probes_nothing_is_searched(bench: Callable[..., Bench], given: tuple[str, ...]) -> None:
    result = bench(*RANDOM, *given, "bench.warmup_rounds=1", "bench.repeats=1").run()
    assert result.goodput is None and len(result.loads) == 1


def dying(made: Bench, *times: int) -> None:
    """Lets the server die at these requests of all."""

    def die(load: Load, requests: Requests) -> None:
        if len(made.sent) in times:
            raise ServerError(f"[red] died at {len(made.sent)}.\nIts last line.", "Look.")

    made.damage = die


def test_a_server_that_dies_is_tried_once_more_from_the_beginning(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1")
    dying(made, 3)
    result = made.run()
    assert made.names == ["warm-up", "rate inf", "rate inf", "warm-up", *["rate inf"] * 3]
    assert (len(result.loads), result.asked, made.stopped) == (1, 120, 1)
    (failure,) = result.failures
    assert failure.startswith("[red] died at 3.")
    assert made.said == [r"  bench awq: \[red] died at 3. Trying a fresh server."]
    assert result.memory_bandwidth == 3e12


def test_a_second_death_is_a_failure_with_what_was_measured(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM, "bench.warmup_rounds=1")
    dying(made, 3, 6)
    with pytest.raises(ServerError, match="died at 6"):
        made.run()
    result = made.draft.results
    assert made.stopped == 2 and len(made.said) == 1
    assert [text[:16] for text in result.failures] == ["[red] died at 3.", "[red] died at 6."]
    assert (result.headline, result.asked, result.completed, result.failed) == (None, 0, 0, 0)
    assert (result.metrics, result.output_tokens, len(result.warm_up)) == ({}, (), 1)


def test_a_server_of_the_users_is_neither_restarted_nor_its_machine_measured(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "told", lambda serve: SimpleNamespace(context=8192))
    made = bench(*RANDOM, "bench.warmup_rounds=1", "stage=bench", "quant=bf16", "serve.url=http://127.0.0.1:9")
    result = made.run()
    assert (result.memory_bandwidth, result.device) == (None, "")
    assert result.memory.kv_cache_tokens is None
    dying(made, len(made.sent) + 1)
    with pytest.raises(ServerError):
        made.run()
    assert made.stopped == 1 and made.said == []
    assert protocol._context(made.job) == 8192


def test_the_context_is_the_settings_or_the_models(bench: Callable[..., Bench]) -> None:
    made = bench(*RANDOM)
    assert protocol._context(made.job) == 4096
    made.job.settings = made.job.settings.model_copy(
        update={"serve": made.job.settings.serve.model_copy(update={"max_model_len": 1151})}
    )
    assert protocol._context(made.job) == 1151
    with pytest.raises(InputError, match="do not fit into a context of 1151"):
        made.run()
    assert made.sent == []


def test_conversations_are_checked_with_the_models_tokenizer(bench: Callable[..., Bench], tmp_path: Path) -> None:
    made = bench("bench.num_prompts=3", "bench.warmup_prompts=1")
    made.job.tokenizer = CHECKPOINT
    assert protocol._prompts(made.job, tmp_path) == BENCHMARK
    assert protocol._prompts(bench(*RANDOM).job, tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 5}'])
def test_a_tokenizers_file_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="tokenizer.json is no tokenizer"):
        protocol.CheckpointTokenizer(tmp_path)
