"""A protocol is a list of loads; the study's is its own command."""

import pytest
from support.settings import CONF

from pipeline.errors import ConfigError
from pipeline.stages.bench import plan


def test_the_studys_protocol_is_one_load_of_a_thousand_prompts_at_an_infinite_rate(settings) -> None:
    load = plan.single(settings("model=qwen3_8b").bench)
    assert (load.name, load.num_prompts, load.request_rate, load.max_concurrency) == ("rate inf", 1000, "inf", None)


def test_a_ladder_climbs_to_saturation_and_then_sends_shares_of_it(settings) -> None:
    bench = settings("bench=ladder").bench
    levels = list(plan.levels(bench))
    assert [load.max_concurrency for load in levels] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert all(load.request_rate == "inf" and load.is_cut for load in levels)
    assert [load.num_prompts for load in levels] == [32, 32, 32, 48, 96, 192, 384, 768, 1536]
    rates = list(plan.rates(bench, 8.0, own=False))
    assert [load.request_rate for load in rates] == [2.0, 4.0, 6.0, 7.2]
    assert [load.name for load in rates] == ["rate 2/s", "rate 4/s", "rate 6/s", "rate 7.2/s"]
    names = [load.name for load in [*levels, *rates]]
    assert len(set(names)) == len({load.slug for load in [*levels, *rates]}) == len(names)


def test_a_rate_of_the_variants_own_saturation_says_so(settings) -> None:
    own = list(plan.rates(settings("bench=ladder").bench, 8.0, own=True))
    assert [load.name for load in own][:2] == ["rate 2/s, 0.25 of own saturation", "rate 4/s, 0.5 of own saturation"]


def test_a_level_lasts_as_long_as_asked_for(settings) -> None:
    level = list(plan.levels(settings("bench=ladder").bench))[4]
    assert plan.pilot(level).num_prompts == 16
    # 16 in flight that take 2 s are 8 a second: 240 in 30 s, and 3 for each slot's ramp and drain.
    assert plan.lasting(level, 30, 2.0).num_prompts == 240 + 48
    assert plan.lasting(level, 30, 1000.0).num_prompts == level.num_prompts


def test_an_open_load_has_its_ramp_and_drain_on_top(settings) -> None:
    (load, *_) = plan.rates(settings("bench=ladder").bench, 8.0, own=False)
    sized = plan.open_for(load, 30 + 2 * 10, 10)
    assert (sized.num_prompts, sized.cut_s, sized.kind) == (100, 10, "open")


def test_every_set_of_prompts_has_a_seed_of_its_own(settings) -> None:
    bench = settings("bench=ladder", "bench.repeats=5").bench
    loads = [
        *plan.levels(bench),
        *plan.rates(bench, 1.0, own=False),
        *(plan.probe(bench, 1.0, 60.0, i) for i in range(20)),
    ]
    seeds = [load.seed(bench, repeat) for load in loads for repeat in range(5)]
    seeds += [bench.seed + plan.WARMUP_SEED + i for i in range(bench.warmup_rounds)]
    seeds += [level.seed(bench, 0) + plan.PILOT_SEED for level in plan.levels(bench)]
    assert len(set(seeds)) == len(seeds)


def test_the_study_starts_with_the_seed_asked_for(settings) -> None:
    bench = settings("bench=study", "bench.seed=7").bench
    assert [plan.single(bench).seed(bench, repeat) for repeat in range(3)] == [7, 8, 9]


def test_the_study_and_what_derives_from_it_run_in_two_blocks(settings) -> None:
    blocks = {path.stem: settings(f"bench={path.stem}").bench.blocks for path in (CONF / "bench").glob("*.yaml")}
    assert blocks.pop("quick") == blocks.pop("laptop") == 1
    assert set(blocks.values()) == {2}


@pytest.mark.parametrize("protocol", ["study", "ladder", "latency", "throughput", "quick"])
def test_every_protocol_composes_for_every_model(settings, protocol: str) -> None:
    for model in ("demo", "qwen3_8b"):
        bench = settings(f"model={model}", f"bench={protocol}").bench
        assert bench.name == protocol
        assert bench.repeats >= 3 and bench.warmup_prompts != 0 and bench.temperature == 0


def test_throughput_fixes_both_lengths_and_latency_sends_one_at_a_time(settings) -> None:
    throughput = settings("bench=throughput").bench
    assert (throughput.prompts, throughput.input_len, throughput.output_len) == ("random", 1024, 128)
    assert plan.single(settings("bench=latency").bench).max_concurrency == 1


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("bench.request_rate=0", "0 is not a request rate: requests per second above zero, or inf"),
        ("bench.blocks=0", "bench.blocks=0"),
        ("bench.request_rate=-1", "-1 is not a request rate"),
        ("bench.request_rate=fast", "'fast' is not a request rate"),
        ("bench.prompts=random", "prompts=random needs input_len and output_len"),
        ("bench.input_len=5", "input_len=5 goes with prompts=random"),
        ("+bench.slo.ttft=200", "ttft: an SLO is in milliseconds, of ttft_ms, tpot_ms, e2el_ms"),
        ("+bench.slo.throughput_ms=200", "throughput_ms: an SLO is in milliseconds"),
        ("bench.slo.ttft_ms=200ms", "bench.slo.ttft_ms='200ms'"),
        ("bench.slo.ttft_ms=-1", "bench.slo.ttft_ms=-1"),
        ("bench.slo.prompts=99", "prompts=99: P99 needs at least 100 requests"),
        ("+bench.ladder={concurrency: [4, 2]}", "concurrency=[4, 2]: levels must rise"),
        ("+bench.ladder={concurrency: [0]}", "bench.ladder.concurrency=0"),
        ("+bench.ladder={concurrency: [1], rates: [1.5]}", "shares of the saturated rate lie above 0 and up to 1"),
        ("serve.url=ftp://x", "serve.url: ftp://x"),
        ("serve.url=http://127.0.0.1:8000", "goes with stage=bench"),
    ],
)
def test_an_impossible_load_is_refused_by_name(settings, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(override)
    assert said in str(refused.value)


LADDER = "+bench.ladder={concurrency: [1, 2, 20], rates: [0.5], min_prompts: 10, level_s: 5}"


def test_a_load_is_the_first_of_its_protocol_and_whole_unless_told_otherwise() -> None:
    load = plan.Load(name="Rate 7.5/s, own", num_prompts=3)
    assert (load.index, load.is_cut, load.cut_s, load.request_rate, load.max_concurrency) == (0, False, 0, "inf", None)
    assert load.slug == "rate-7.5-s-own" and load.kind == "at once"
    assert plan.Load(name="(x) ", num_prompts=3).slug == "x"


@pytest.mark.parametrize(
    ("given", "name", "kind"),
    [
        ((), "rate inf", "at once"),
        (("bench.request_rate=2.5",), "rate 2.5/s", "open"),
        (("bench.max_concurrency=4",), "concurrency 4", "closed"),
        (("bench.max_concurrency=4", "bench.request_rate=2.5"), "concurrency 4, rate 2.5/s", "open"),
    ],
)
def test_a_single_load_is_named_by_its_limits(settings, given: tuple[str, ...], name: str, kind: str) -> None:
    load = plan.single(settings("bench=study", *given).bench)
    assert (load.name, load.kind, load.index, load.is_cut) == (name, kind, 0, False)


def test_levels_have_six_requests_a_slot_and_at_least_those_asked_for(settings) -> None:
    bench = settings("bench=study", LADDER).bench
    assert [(load.num_prompts, load.index) for load in plan.levels(bench)] == [(10, 0), (12, 1), (120, 2)]
    pilots = [plan.pilot(load) for load in plan.levels(bench)]
    assert [(load.name, load.num_prompts, load.max_concurrency, load.index) for load in pilots] == [
        *(("pilot concurrency 1", 4, 1, 0), ("pilot concurrency 2", 4, 2, 1), ("pilot concurrency 20", 20, 20, 2)),
    ]
    assert not any(load.is_cut for load in pilots)
    (rate,) = plan.rates(bench, 3.14159, own=False)
    assert (rate.name, rate.request_rate, rate.num_prompts, rate.index) == ("rate 1.57/s", 1.57, 10, 3)
    assert rate.is_cut and rate.kind == "open"


def test_a_level_lasts_at_least_its_time_by_littles_law() -> None:
    level = plan.Load(name="x", num_prompts=10, max_concurrency=4, is_cut=True, index=2)
    # 4 in flight for 3 s each are 4/3 a second: 13.3 in 10 s, and 12 of ramp and drain.
    sized = plan.lasting(level, 10, 3.0)
    assert sized.num_prompts == 14 + 12
    assert (sized.index, sized.is_cut, sized.max_concurrency) == (2, True, 4)
    # One without a limit counts as one slot.
    alone = level.model_copy(update={"max_concurrency": None})
    assert plan.lasting(alone, 10, 3.0).num_prompts == max(10, 4 + 3)
    assert plan.lasting(alone, 30, 3.0).num_prompts == 10 + 3
    assert (plan.pilot(alone).max_concurrency, plan.pilot(alone).num_prompts) == (1, 4)


def test_an_open_load_has_at_least_the_requests_of_its_time() -> None:
    load = plan.Load(name="x", num_prompts=10, request_rate=2.5, is_cut=True)
    assert (plan.open_for(load, 5, 1.0).num_prompts, plan.open_for(load, 5, 1.0).cut_s) == (13, 1.0)
    assert plan.open_for(load, 2, 1.0).num_prompts == 10


def test_a_probe_is_named_by_its_number_and_cut_by_a_tenth(settings) -> None:
    bench = settings("bench=study", "bench.seed=3").bench
    load = plan.probe(bench, 4.0, 30.0, 2)
    assert (load.index, load.is_cut, load.cut_s, load.name) == (52, True, 3.0, "probe 3, rate 4/s")
    assert load.seed(bench, 1) == 3 + 5200 + 1
    assert load.request_rate == float(f"{load.num_prompts / 30:.5g}")
    assert plan.probe(bench, 1e-9, 1.0, 0).num_prompts == 1, "at least one"
    assert {plan.probe(bench, 100.0, 30.0, place).num_prompts for place in range(5)} != {3000}


def test_warm_up_is_the_load_itself_or_the_highest_level(settings) -> None:
    single = plan.warmup(settings("bench=study", "bench.max_concurrency=3").bench)
    assert (single.name, single.num_prompts, single.max_concurrency, single.index) == ("warm-up", 1000, 3, 0)
    assert plan.warmup(settings("bench=study", "bench.warmup_prompts=7").bench).num_prompts == 7
    assert plan.warmup(settings("bench=study", "bench.warmup_prompts=0").bench).num_prompts == 0
    climbing = plan.warmup(settings("bench=study", LADDER).bench)
    assert (climbing.num_prompts, climbing.max_concurrency, climbing.index) == (120, 20, 0)


@pytest.mark.parametrize(("rate", "rounded"), [(1234.5, 1230.0), (0.123456, 0.123), (9.999, 10.0), (5.0, 5.0)])
def test_rates_have_three_significant_digits(rate: float, rounded: float) -> None:
    assert plan.significant(rate) == rounded
