"""Guards over several variants: the clock against BF16's, and the first repeat against those after it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.compare.benchmarks import guards
from pipeline.compare.comparison import compare
from pipeline.compare.load_guards import clocks, first_repeats
from pipeline.results.base import Missing
from pipeline.results.bench import Conditions, LoadResult, Metric
from pipeline.results.records import Record, Speed

NAME = "total_token_throughput"


def conditions(mhz: float | None, capped: float = 0.9) -> Conditions:
    """Conditions of an H200 whose highest clock is 1,980 MHz in each repeat, whatever it is under load."""
    return Conditions.model_validate(
        {
            "gpu": {"sm_mhz": {"min": 1245, "max": 1980}, "power_w": {"min": 122, "max": 699}},
            "gpu_load": {"samples": 15, "sm_mhz": mhz, "slowed": {"software power cap": capped}},
        }
    )


def load(
    values: tuple[float, ...] = (100.0, 101.0, 99.0),
    name: str = "rate inf",
    *,
    of: tuple[Conditions, ...] = (),
    tokens: tuple[int, ...] = (),
    blocks: tuple[int, ...] = (),
    devices: tuple[str, ...] = (),
) -> LoadResult:
    return LoadResult(
        name=name,
        request_rate="inf",
        max_concurrency=None,
        num_prompts=1000,
        blocks=blocks,
        devices=devices,
        metrics={NAME: Metric(unit="tok/s", values=values)},
        asked=3000,
        completed=3000,
        failed=0,
        output_tokens=tokens or (370_000,) * len(values),
        conditions=of,
    )


def record(name: str, *loads: LoadResult, protocol: str = "study") -> Record:
    speed = Speed(
        machine="here",
        metrics=loads[-1].metrics,
        asked=3000,
        completed=3000,
        failed=0,
        protocol=protocol,
        headline=loads[-1].name,
        loads=loads,
    )
    return Record(
        name=name,
        label=name,
        family="baseline" if name == "bf16" else "weights only",
        is_baseline=name == "bf16",
        emulated=(),
        size=Missing(reason="not weighed"),
        speed=speed,
        protocols={protocol: speed},
        tasks=Missing(reason="not scored"),
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "passed"),
    [
        # Lowest clocks of the stored runs at 691 to 707 W of 700: FP8, AWQ and BF16.
        ((1245, 1425, 1440), (1560, 1590, 1635), False),
        ((1560, 1590, 1635), (1440, 1485, 1500), False),
        ((1440, 1485, 1500), (1440, 1500, 1515), True),
        ((1426,), (1500,), True),
        ((1424,), (1500,), False),
        ((1576,), (1500,), False),
    ],
)
def test_a_clock_held_back_by_power_is_seen_between_variants(
    ours: tuple[float, ...], theirs: tuple[float, ...], passed: bool
) -> None:
    guard = clocks(load(of=tuple(map(conditions, ours))), load(of=tuple(map(conditions, theirs))))
    assert guard.passed is passed
    assert guard.load == "rate inf"


@pytest.mark.parametrize(
    ("devices", "capped", "passed"),
    [
        ((("one",), ("one",)), (0.9, 0.9), True),
        ((("one",), ("other",)), (0.9, 0.9), False),
        (((), ()), (0.9, 0.9), False),
        # Two blocks on two GPUs, in either order, and one server on both.
        ((("one", "other"), ("other", "one")), (0.9, 0.9), True),
        ((("one,other",), ("one", "other")), (0.9, 0.9), True),
        ((("one",), ("one", "other")), (0.9, 0.9), False),
        # The power of the faster clock does not matter: it is what the slower one is held back from.
        ((("one",), ("one",)), (0.4, 0.9), True),
        ((("one",), ("one",)), (0.9, 0.4), False),
    ],
)
def test_at_the_power_limit_of_the_same_gpus_the_clock_is_the_formats(
    devices: tuple[tuple[str, ...], tuple[str, ...]], capped: tuple[float, float], passed: bool
) -> None:
    ours, theirs = (
        load(of=tuple(conditions(mhz, share) for _ in its or ("",)), devices=its)
        for mhz, share, its in zip((1838, 1635), capped, devices, strict=True)
    )
    for guard in (clocks(ours, theirs), clocks(theirs, ours)):
        assert guard.passed is passed
        assert guard.text.endswith("on the same GPU, so the clock is what each format's power leaves") is passed


def test_the_text_has_both_clocks_and_what_held_them_back() -> None:
    reference = load(of=(conditions(1500, 0.6), conditions(1500, 0.8)))
    guard = clocks(load(of=(conditions(1275),)), reference)
    assert guard.text == (
        "1275 MHz under load, BF16 1500 MHz (−15.0 %); held back by the power limit in 90 % and 70 % of the samples"
    )
    untold = Conditions.model_validate({"gpu": {}, "gpu_load": {"samples": 3, "sm_mhz": 1500}})
    assert "90 % and unknown of the samples" in clocks(load(of=(conditions(1500),)), load(of=(untold,))).text


def test_what_an_earlier_release_recorded_is_not_judged() -> None:
    old = Conditions.model_validate({"gpu": {"sm_mhz": {"min": 1440, "max": 1980}}})
    guard = clocks(load(of=(old,)), load(of=(conditions(1500),)))
    assert guard.passed is None
    assert guard.text == "the clock under load is unknown (lowest 1440 MHz, BF16's 1245 MHz)"
    idle = clocks(load(of=(conditions(None),)), load(of=(conditions(1500),)))
    assert idle.passed is None


def test_there_is_no_clock_without_a_gpu_or_a_reference() -> None:
    assert clocks(load(of=(Conditions(),)), load(of=(Conditions(),))) is None
    assert clocks(load(of=(conditions(1500),)), None) is None


def test_the_clock_marks_the_variant_and_not_the_baseline() -> None:
    bf16 = record("bf16", load(of=(conditions(1500),) * 3))
    other = record("fp8", load(of=(conditions(1275),) * 3))
    table = compare([bf16, other], [])
    assert table.rows[0].marks == ()
    assert any("GPU clock against BF16" in mark for mark in table.rows[1].marks)
    assert [guard.name for guard in guards(other.speed, bf16.speed)] == ["generated tokens", "GPU clock against BF16"]


def study(variants: int, first: float, seed: int, repeats: int = 3, cv: float = 0.06) -> list[Record]:
    noise = np.exp(np.random.default_rng(seed).normal(0, cv, (variants, repeats)))
    noise[:, 0] *= first
    names = ["bf16", *(f"v{index}" for index in range(variants - 1))]
    return [record(name, load(tuple((15_000 * row).tolist()))) for name, row in zip(names, noise, strict=True)]


def test_all_variants_together_show_a_first_repeat_that_is_slow() -> None:
    failed = [first_repeats(study(7, 0.9, seed))[0].passed is False for seed in range(200)]
    assert np.mean(failed) > 0.8
    false = [first_repeats(study(7, 1.0, seed))[0].passed is False for seed in range(400)]
    assert np.mean(false) == pytest.approx(0.05, abs=0.035)


def test_other_work_in_the_first_repeat_may_be_why_it_is_slow() -> None:
    slow = (90.0, 100.0, 101.0)
    for tokens, passed in (((370_000, 371_000, 369_500), False), ((330_000, 371_000, 369_500), None)):
        records = [record(name, load(slow, tokens=tokens)) for name in ("bf16", "a", "b")]
        records[1] = record("a", load((91.0, 100.0, 102.0), tokens=tokens))
        (guard,) = first_repeats(records)
        assert guard.passed is passed
        assert "slower in 3 of 3 series of study" in guard.text
        assert ("its prompts are other work" in guard.text) is (passed is None)


def test_over_many_loads_the_prompts_are_chance() -> None:
    tokens = (1000, 2000, 3000)
    loads = [
        load(values, f"concurrency {i}", tokens=tokens)
        for i, values in enumerate([(90.0, 100, 101), (9.1, 10, 10), (0.9, 1.01, 1)])
    ]
    (guard,) = first_repeats([record("bf16", *loads), record("a", *loads)])
    assert guard.passed is False
    assert "slower in 6 of 6 series of study" in guard.text and "over loads" in guard.text
    # The same shortfall in two variants of one load is one observation, since they share its prompts.
    mixed = [
        load(values, f"concurrency {i}", tokens=tokens)
        for i, values in enumerate([(90.0, 100, 101), (10.6, 10, 10), (0.98, 1.01, 1)])
    ]
    assert first_repeats([record("bf16", *mixed), record("a", *mixed)])[0].passed is True


def test_each_start_of_a_server_has_a_first_repeat() -> None:
    blocks = (0, 0, 0, 1, 1, 1)
    (guard,) = first_repeats(
        [
            record("bf16", load((90.0, 100, 101, 91, 102, 100), blocks=blocks)),
            record("a", load((89.0, 100, 101, 90, 102, 100), blocks=blocks)),
        ]
    )
    assert guard.passed is False and "slower in 4 of 4 series" in guard.text


def test_a_difference_too_small_to_matter_or_a_single_series_is_not_judged() -> None:
    small = [
        record(name, load(values))
        for name, values in (("bf16", (99.0, 100.0, 100.0)), ("a", (99.1, 100.1, 100.0)), ("b", (98.9, 99.9, 100)))
    ]
    assert first_repeats(small)[0].passed is True
    assert first_repeats(small[:1]) == ()
    assert first_repeats([record("bf16", load((1.0,))), record("a", load((2.0,)))]) == ()
    assert first_repeats([]) == ()


def test_protocols_are_judged_apart() -> None:
    slow = [record(name, load((90.0 + index, 100.0, 101.0))) for index, name in enumerate(("bf16", "a", "b"))]
    fast = [
        record(name, load((100.0 + index, 100.0, 101.0)), protocol="quick") for index, name in enumerate(("c", "d"))
    ]
    assert [guard.passed for guard in first_repeats([*slow, *fast])] == [False, True]
    assert compare(slow, []).guards == first_repeats(slow)
