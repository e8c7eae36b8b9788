"""Which figures are fitted together: by machine, protocol and load, with the seeds, blocks and devices of repeats."""

from __future__ import annotations

import math

import pytest
from support.compare_records import record

from pipeline.compare import load_guards
from pipeline.compare.speed_models import TOLERANCE_PERCENT, Group, SpeedModels, group_of
from pipeline.compare.stats.repeats import Change
from pipeline.config.report import ReportSettings
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult, Metric
from pipeline.results.metrics import HEADLINE
from pipeline.results.records import Record, Speed

THROUGHPUT, TTFT, TPOT = (metric.name for metric in HEADLINE)
ODD = (0.9, 1.0, 1.13)


def load(name: str, *values: float, metric: str = THROUGHPUT, unit: str = "tok/s", **more: object) -> LoadResult:
    fields = {"num_prompts": 9, "request_rate": "inf", "max_concurrency": 1, "asked": 9, "completed": 9, "failed": 0}
    return LoadResult(name=name, metrics={metric: Metric(unit=unit, values=values)}, **{**fields, **more})


def measured(name: str, *loads: LoadResult, headline: str | None = None, **more: object) -> Record:
    made = record(name)
    update = {"loads": loads, "headline": headline or loads[-1].name, "protocol": "p", **more}
    return made.model_copy(update={"speed": made.speed.model_copy(update=update)})


def change(models: SpeedModels, group: Group, name: str = "a", metric: str = THROUGHPUT) -> Change:
    found = models.against_baseline(group, metric, name)
    assert isinstance(found, Change)
    return found


def test_the_tolerance_is_that_of_the_settings() -> None:
    assert TOLERANCE_PERCENT == ReportSettings.model_fields["tolerance_percent"].default == 2.0
    assert pytest.approx(TOLERANCE_PERCENT / 100) == load_guards.SMALL
    plain = Group("box", "", "")
    assert change(SpeedModels([record("bf16"), record("a", 1100)]), plain).widened_percent == 2.0
    assert change(SpeedModels([record("bf16"), record("a", 1100)], 5.0), plain).widened_percent == 5.0


def test_each_load_has_its_own_model() -> None:
    models = SpeedModels(
        [
            measured("bf16", load("one", 100, 101), load("many", 1000, 1010)),
            measured("a", load("one", 110, 111), load("many", 1500, 1510)),
        ]
    )
    for name, percent in (("one", 10), ("many", 50)):
        assert change(models, Group("box", "p", name)).percent == pytest.approx(percent, abs=0.6)
        assert models.model(Group("box", "p", name), THROUGHPUT).variants == ("bf16", "a")
    assert (
        models.headline("a") == Group("box", "p", "many") == group_of(measured("a", load("many", 1, 2)).speed, "many")
    )
    assert models.model(Group("box", "p", "other"), THROUGHPUT).variants == ()
    assert models.smallest_gain(Group("box", "p", "other"), THROUGHPUT) is None


def test_figures_of_the_table_stand_in_for_those_of_its_load_only() -> None:
    """The loads have throughput alone; the benchmark has TTFT of its headline load."""
    models = SpeedModels(
        [measured(name, load("one", 100, 101), load("many", 1000, 1010)) for name in ("bf16", "a")],
    )
    assert models.model(Group("box", "p", "many"), TTFT).variants == ("bf16", "a")
    assert models.model(Group("box", "p", "one"), TTFT).variants == ()
    # An early release has no loads.
    early = SpeedModels([record("bf16"), record("a", 1100)])
    assert early.model(Group("box", "", ""), TTFT).variants == ("bf16", "a")
    # What the load has is not replaced.
    assert change(models, Group("box", "p", "many")).percent == pytest.approx(0)


def test_figures_of_further_protocols_are_fitted_too() -> None:
    def both(name: str, factor: float) -> Record:
        made = measured(name, load("one", 100 * factor, 102 * factor))
        other = made.speed.model_copy(update={"protocol": "q", "loads": (load("one", 50, 51),), "headline": "one"})
        return made.model_copy(update={"protocols": {"q": other, "p": made.speed}})

    models = SpeedModels([both("bf16", 1.0), both("a", 1.5)])
    assert change(models, Group("box", "p", "one")).percent == pytest.approx(50)
    assert change(models, Group("box", "q", "one")).percent == pytest.approx(0)
    assert models.shared("a", "bf16", "one") == Group("box", "p", "one")


def test_shared_groups_have_both_variants() -> None:
    models = SpeedModels(
        [
            measured("bf16", load("one", 100, 101), load("many", 1000, 1010)),
            measured("a", load("one", 110, 111), load("many", 1500, 1510), headline="one"),
            measured("far", load("many", 1500, 1510), machine="elsewhere"),
            record("gone", speed=Missing(reason="gone")),
        ]
    )
    assert models.shared("a", "bf16", "one") == Group("box", "p", "one")
    assert models.shared("a", "far", "many") is None is models.shared("far", "bf16", "one")
    assert models.shared("a", "bf16", None) is None and models.shared("bf16", "bf16", None) == Group("box", "p", "many")
    assert models.shared("a", "gone", None) is None and models.shared("gone", "gone", None) is None


def test_the_family_of_a_group_is_what_was_timed_in_it() -> None:
    records = [record("bf16"), record("a"), record("fp8", emulated=("fp8",)), record("far", machine="elsewhere")]
    assert SpeedModels(records).family(Group("box", "", "")) == ["bf16", "a"]
    assert SpeedModels(records).family(Group("elsewhere", "", "")) == ["far"]
    assert SpeedModels(records).family(Group("nowhere", "", "")) == []


def test_the_unit_is_that_of_bf16() -> None:
    odd = measured("odd", load("one", 0.1, 0.2, unit="req/s"))
    bf16, a = measured("bf16", load("one", 100, 101)), measured("a", load("one", 110, 111))
    assert SpeedModels([odd, bf16, a]).model(Group("box", "p", "one"), THROUGHPUT).variants == ("bf16", "a")
    # Without BF16, that of the first.
    assert SpeedModels([odd, a]).model(Group("box", "p", "one"), THROUGHPUT).variants == ("odd",)


def test_without_bf16_there_is_no_smallest_gain() -> None:
    models = SpeedModels([record("a", noise=ODD), record("b", 1100)])
    assert models.baseline is None and models.smallest_gain(Group("box", "", ""), THROUGHPUT) is None
    known = SpeedModels([record("bf16", noise=ODD), record("a", 1100)])
    assert known.smallest_gain(Group("box", "", ""), THROUGHPUT) > 10


def test_the_smallest_gain_of_a_latency_is_a_fall() -> None:
    """A rise of 622 % was called the smallest gain in TTFT; on the logarithm it is as far as a fall of 86 %."""
    models = SpeedModels([record("bf16", noise=(0.5, 1.0, 2.6)), record("a", noise=(1.0, 2.1, 0.6))])
    group = Group("box", "", "")
    rise = models.model(group, TTFT).smallest_change("bf16", ["a"])
    assert rise is not None and rise > 100
    assert models.smallest_gain(group, TTFT) == pytest.approx(100 * (1 - math.exp(-math.log1p(rise / 100))))
    assert models.smallest_gain(group, THROUGHPUT) == models.model(group, THROUGHPUT).smallest_change("bf16", ["a"])


def test_an_open_load_has_no_gain_in_throughput() -> None:
    """All are sent 12 requests a second; how long they take to answer is still compared."""

    def offered(name: str, rate: float, *values: float) -> Record:
        metrics = {THROUGHPUT: Metric(unit="tok/s", values=values), TTFT: Metric(unit="ms", values=values)}
        one = load("rate", 0, request_rate=rate, max_concurrency=None).model_copy(update={"metrics": metrics})
        return measured(name, one)

    models = SpeedModels([offered("bf16", 12, 100, 102), offered("a", 12, 110, 111), offered("b", 15, 110, 111)])
    group = Group("box", "p", "rate")
    given = "the rate is given, so throughput is not a result"
    assert models.incomparable(group, THROUGHPUT, "a", "bf16") == given
    assert models.incomparable(group, TTFT, "a", "bf16") == "" == models.incomparable(group, TTFT, "a", "nobody")
    assert models.incomparable(group, TTFT, "b", "a").startswith("BF16 was sent requests at another rate")
    assert models.smallest_gain(group, THROUGHPUT) is None and models.smallest_gain(group, TTFT) is not None


@pytest.mark.parametrize("seeds", [(5, 6, 7), (5, 6)])
def test_repeats_of_one_seed_are_paired_where_each_has_a_seed(seeds: tuple[int, ...]) -> None:
    """The seeds differ by 20 %, the pairs by nothing: paired there is no noise."""
    records = [
        measured(name, load("one", *(factor * 1000 * odd for odd in ODD), seeds=seeds))
        for name, factor in (("bf16", 1.0), ("a", 1.1))
    ]
    found = SpeedModels(records).model(Group("box", "p", "one"), THROUGHPUT).contrast("a", "bf16")
    assert found.log_ratio == pytest.approx(math.log(1.1))
    assert (found.error is None or found.error < 1e-9) == (len(seeds) == 3)


def test_blocks_and_devices_are_those_of_the_repeats_or_of_the_benchmark() -> None:
    def blocks(name: str, factor: float, **more: object) -> Record:
        return measured(name, load("one", *(factor * value for value in (100, 102, 90, 91)), **more))

    group = Group("box", "p", "one")
    two = SpeedModels([blocks(name, factor, blocks=(0, 0, 1, 1)) for name, factor in (("bf16", 1), ("a", 1.1))])
    assert two.model(group, THROUGHPUT).has_starts
    assert not SpeedModels([blocks("bf16", 1), blocks("a", 1.1)]).model(group, THROUGHPUT).has_starts
    apart = [blocks("bf16", 1, devices=("x",) * 4), blocks("a", 1.1, devices=("y",) * 4)]
    assert "another device" in SpeedModels(apart).against_baseline(group, THROUGHPUT, "a").reason
    # A benchmark of one block has its number and device.
    later = [measured("bf16", load("one", 100, 101)), measured("a", load("one", 110, 111), block=1)]
    assert SpeedModels(later).against_baseline(group, THROUGHPUT, "a") == Missing(reason="no block has measured both")
    on = [measured(name, load("one", 100, 101), device=device) for name, device in (("bf16", "x"), ("a", "y"))]
    assert "another device" in SpeedModels(on).against_baseline(group, THROUGHPUT, "a").reason


def test_the_errors_of_requests_are_a_floor_of_the_noise() -> None:
    def made(name: str, factor: float) -> Record:
        metric = Metric(unit="ms", values=(factor, factor * 1.0001), errors=(0.1 * factor, 0.1 * factor))
        early = record(name).speed.model_copy(update={"metrics": {TPOT: metric}})
        return record(name, speed=early)

    found = SpeedModels([made("bf16", 10), made("a", 11)]).model(Group("box", "", ""), TPOT).contrast("a", "bf16")
    assert found.floor == pytest.approx(0.1, rel=1e-3)


def test_models_are_equal_to_any_others() -> None:
    assert SpeedModels([record("a")]) == SpeedModels() and SpeedModels() != Speed
