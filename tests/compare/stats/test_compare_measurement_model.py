"""The model of a measurement against formulas of textbooks, with missing repeats, starts and devices."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.compare.stats.least_squares import AdditiveFit, Unit, of_unequal_noise
from pipeline.compare.stats.measurement_model import (
    NO_COMMON_BLOCK,
    OTHER_DEVICE,
    MeasurementModel,
    Observation,
)
from pipeline.compare.stats.repeats import IDENTICAL, NOT_POSITIVE, SINGLE, Change, Contrast
from pipeline.compare.stats.simultaneous import Dunnett, Student
from pipeline.results.base import Missing


def variant(name, values, seeds=None, block=0, device="", errors=None):
    seeds = list(range(len(values))) if seeds is None else seeds
    errors = errors or [None] * len(values)
    return [
        Observation(name, value, error, seed, block, device)
        for value, seed, error in zip(values, seeds, errors, strict=True)
    ]


def model(*found, tolerance=0.0):
    return MeasurementModel([each for one in found for each in one], tolerance)


def test_the_vascular_graft_experiment():
    """D. Montgomery, Design and Analysis of Experiments, example 4.1: four pressures, six batches of resin."""
    table = {
        8500: (90.3, 89.2, 98.2, 93.9, 87.4, 97.9),
        8700: (92.5, 89.5, 90.6, 94.7, 87.0, 95.8),
        8900: (85.5, 90.8, 89.6, 86.2, 88.0, 93.4),
        9100: (82.5, 89.5, 85.6, 87.4, 78.9, 90.7),
    }
    fit = AdditiveFit([Unit(str(p), batch, y) for p, row in table.items() for batch, y in enumerate(row)])
    assert (fit.freedom, fit.variance) == (15, pytest.approx(7.33, abs=0.005))
    assert fit.difference("8500", "9100") == pytest.approx(92.82 - 85.77, abs=0.01)
    assert fit.factor("8500", "9100") == pytest.approx(2 / 6)
    assert fit.correlation(["8700", "8900", "9100"], "8500") == pytest.approx(0.5)


def test_a_missing_unit_is_left_to_least_squares():
    """One unit less: the estimates of an explicit regression with dummies."""
    dice = np.random.default_rng(3)
    units = [Unit(v, s, dice.normal()) for v in "abcd" for s in range(3) if (v, s) != ("b", 1)]
    design = np.array([[*(u.variant == v for v in "abcd"), *(u.cell == s for s in (1, 2))] for u in units], float)
    values = np.array([u.value for u in units])
    solution, residual, *_ = np.linalg.lstsq(design, values, rcond=None)
    fit = AdditiveFit(units)
    assert fit.difference("b", "a") == pytest.approx(solution[1] - solution[0])
    assert fit.freedom == 11 - 6 and fit.residual_square == pytest.approx(residual[0])
    inverse = np.linalg.inv(design.T @ design)
    assert fit.factor("b", "a") == pytest.approx(inverse[0, 0] + inverse[1, 1] - 2 * inverse[0, 1])


def test_units_without_a_common_cell_are_not_compared():
    fit = AdditiveFit([Unit("a", 0, 1.0), Unit("b", 0, 2.0), Unit("c", 1, 3.0), Unit("d", 1, 5.0)])
    assert fit.connected("a", "b") and fit.connected("c", "d") and not fit.connected("a", "c")
    assert not fit.connected("a", "nobody") and fit.freedom == 0


def test_one_block_is_a_randomised_complete_block_analysis_with_dunnetts_interval():
    dice = np.random.default_rng(1)
    logs = {f"v{i}": dice.normal(0, 0.05, 3) + np.array([0.2, -0.1, 0.0]) for i in range(7)}
    fitted = model(*(variant(name, np.exp(found)) for name, found in logs.items()))
    table = np.array(list(logs.values()))
    residuals = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    error = math.sqrt((residuals**2).sum() / 12 * 2 / 3)
    others = [f"v{i}" for i in range(1, 7)]
    change = fitted.against("v0", "v3", ["v0", *others])
    difference = table[3].mean() - table[0].mean()
    assert change.percent == pytest.approx(100 * math.expm1(difference))
    half = Dunnett(6).critical(12) * error
    assert math.log1p(change.interval.low / 100) == pytest.approx(difference - half)
    assert math.log1p(change.interval.high / 100) == pytest.approx(difference + half)
    assert change.p_value == pytest.approx(Dunnett(6).p_value(difference / error, 12))
    alone = fitted.pair("v3", "v0")
    assert math.log1p(alone.interval.high / 100) == pytest.approx(difference + Student().critical(12) * error)
    everything = fitted.pair("v3", "v0", list(logs))
    assert everything.interval.high > change.interval.high > alone.interval.high


def test_two_variants_alone_are_paired_by_seed():
    ours, theirs = [110.0, 121.0, 130.0], [100.0, 111.0, 118.0]
    change = model(variant("a", ours), variant("bf16", theirs)).pair("a", "bf16")
    assert change.p_value == pytest.approx(stats.ttest_rel(np.log(ours), np.log(theirs)).pvalue)


def test_without_common_seeds_repeats_are_independent():
    ours, theirs = [110.0, 121.0, 130.0], [100.0, 111.0, 118.0]
    for seeds in ([7, 8, 9], [None, None, None]):
        change = model(variant("a", ours, seeds), variant("bf16", theirs)).pair("a", "bf16")
        assert change.p_value == pytest.approx(stats.ttest_ind(np.log(ours), np.log(theirs)).pvalue)


def test_a_failed_repeat_leaves_the_others():
    """The repeat of seed 1 is missing: its seed's 20 % do not count as a difference of the variants."""
    bf16 = variant("bf16", [100.0, 120.0, 101.0])
    one, other = variant("a", [110.0, 111.3], [0, 2]), variant("b", [105.1, 126.0, 106.0])
    change = model(bf16, one, other).pair("a", "bf16")
    assert change.percent == pytest.approx(10.0, abs=0.3) and change.is_clear


def test_a_variant_with_much_noise_is_compared_by_its_own():
    dice = np.random.default_rng(2)
    quiet = [variant(f"v{i}", np.exp(dice.normal(0, 0.01, 4))) for i in range(5)]
    noisy = [variant(f"w{i}", np.exp(dice.normal(0, 0.8, 4))) for i in range(2)]
    fitted = model(*quiet, *noisy)
    assert set(fitted.noisy) == {"w0", "w1"}
    family = [*(f"v{i}" for i in range(5)), "w0", "w1"]
    narrow, wide = (fitted.against("v0", name, family).interval for name in ("v1", "w0"))
    assert math.log1p(narrow.high / 100) - math.log1p(narrow.low / 100) < 0.08
    assert wide.high > 100


def test_equal_noise_is_rarely_called_unequal():
    dice = np.random.default_rng(4)
    found = sum(
        bool(of_unequal_noise(AdditiveFit([Unit(v, s, dice.normal()) for v in "abcdefg" for s in range(3)])))
        for _ in range(300)
    )
    assert found <= 24


def test_what_cannot_be_compared_says_why():
    bf16 = variant("bf16", [100.0, 101.0, 102.0])
    assert model(bf16).pair("a", "bf16") == Missing(reason="no repeat finished")
    zero = model(bf16, variant("a", [1.0, 0.0, 2.0])).pair("a", "bf16")
    assert zero == Missing(reason=NOT_POSITIVE)
    single = model(bf16, variant("a", [110.0])).pair("a", "bf16")
    assert isinstance(single, Change) and single.interval is None and single.reason == SINGLE
    same = model(variant("bf16", [1.0, 1.0]), variant("a", [2.0, 2.0])).pair("a", "bf16")
    assert same.interval is None and same.reason == IDENTICAL and same.percent == pytest.approx(100)
    later = model(bf16, variant("a", [110.0, 111.0], block=1)).pair("a", "bf16")
    assert later == Missing(reason=NO_COMMON_BLOCK)


def test_agreeing_repeats_are_no_surer_than_their_requests():
    errors = [5.0] * 3
    bf16, other = (variant(n, [v, v * 1.0001, v], errors=errors) for n, v in (("bf16", 100.0), ("a", 103.0)))
    change = model(bf16, other).pair("a", "bf16")
    half = 1.96 * 0.05 * math.sqrt(1 / 3)
    error = math.log1p(change.interval.high / 100) - math.log1p(change.percent / 100)
    assert error == pytest.approx(half * math.sqrt(1 + 1 / 1.03**2 * 1), rel=0.05) and not change.is_clear


def test_the_start_is_the_unit_where_there_are_several():
    """Four variants in two blocks: the interaction of variant and block of the means of the starts."""
    dice = np.random.default_rng(5)
    means = dice.normal(0, 0.02, (4, 2)) + np.array([0.0, 0.3])
    found = [
        variant(f"v{i}", np.exp(means[i, b] + np.array([0.1, -0.1, 0.0]) * (b + 1)), block=b)
        for i in range(4)
        for b in range(2)
    ]
    fitted = model(*found, tolerance=2.0)
    residuals = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    error = math.sqrt((residuals**2).sum() / 3 * 2 / 2)
    contrast = fitted.contrast("v1", "v0")
    assert (contrast.error, contrast.freedom) == (pytest.approx(error), 3)
    assert fitted.tolerance_percent == 0 and fitted.pair("v1", "v0").widened_percent == 0
    starts = fitted.start_variation("v0")
    assert starts.control_percent == pytest.approx(100 * math.expm1(abs(means[0, 1] - means[0, 0])))
    assert starts.start_percent == pytest.approx(100 * math.expm1(math.sqrt((residuals**2).sum() / 3)), rel=1e-3)


def test_two_variants_in_two_blocks_leave_one_degree_of_freedom():
    """The means' logarithms 0 and 0.1, 0.2 and 0.4: an interaction of 0.1, so that a residual is 0.025 in each."""
    logs = {("bf16", 0): 0.0, ("bf16", 1): 0.1, ("a", 0): 0.2, ("a", 1): 0.4}
    spread = np.array([0.01, -0.01])
    fitted = model(*(variant(n, np.exp(m + spread), block=b) for (n, b), m in logs.items()), tolerance=2.0)
    assert fitted.has_starts and fitted.tolerance_percent == 0
    contrast = fitted.contrast("a", "bf16")
    assert (contrast.log_ratio, contrast.freedom) == (pytest.approx(0.25), 1)
    assert contrast.error == pytest.approx(math.sqrt(4 * 0.025**2))
    noise = fitted.mean_noise("a")
    assert (noise.log_ratio, noise.freedom) == (0.0, 1) and noise.error == pytest.approx(0.05 / math.sqrt(2))
    assert fitted.start_variation("bf16").starts == 2 and fitted.start_variation("nobody") is None
    # One start of each in one block: nothing is known of starts.
    single = model(*(variant(n, np.exp(logs[n, 0] + spread)) for n in ("bf16", "a")), tolerance=2.0)
    assert not single.has_starts and single.tolerance_percent == 2.0
    assert single.mean_noise("a") is None and single.start_variation("bf16") is None


def test_a_variant_of_one_block_is_compared_with_the_noise_between_starts():
    dice = np.random.default_rng(6)
    found = [
        variant(f"v{i}", np.exp(dice.normal(dice.normal(0, 0.03), 0.001, 3)), block=b)
        for i in range(5)
        for b in range(2)
        if (i, b) != (4, 1)
    ]
    contrast = model(*found).contrast("v4", "v0")
    assert isinstance(contrast, Contrast) and contrast.freedom == 3 and contrast.error > 0.01


def test_devices():
    def on(name, value, device, block=0):
        return variant(name, [value, value * 1.01, value * 0.99], block=block, device=device)

    apart = model(on("bf16", 100.0, "GPU-1"), on("a", 110.0, "GPU-2"))
    assert apart.pair("a", "bf16") == Missing(reason=OTHER_DEVICE)
    # BF16 on both: each is compared with it, and they are not compared with each other.
    shared = model(
        on("bf16", 100.0, "GPU-1"), on("a", 110.0, "GPU-1"), on("bf16", 103.0, "GPU-2"), on("b", 113.3, "GPU-2")
    )
    for name in ("a", "b"):
        assert shared.pair(name, "bf16").percent == pytest.approx(10, abs=0.01)
    assert shared.pair("a", "b") == Missing(reason=OTHER_DEVICE)
    unknown = model(on("bf16", 100.0, ""), on("a", 110.0, "GPU-2"))
    assert unknown.pair("a", "bf16").percent == pytest.approx(10)


def test_a_variant_on_several_devices_is_placed_with_those_on_one_of_them():
    def on(name, value, device, block=0):
        return variant(name, [value, value * 1.01, value * 0.99], block=block, device=device)

    # The second device is 10 % faster; BF16 takes both.
    found = model(
        *(on("bf16", 100.0, "A,B", block) for block in (0, 1)),
        *(on(name, value * factor, device, block) for name, value in (("a", 120.0), ("b", 90.0))
          for block, device, factor in ((0, "A", 1.0), (1, "B", 1.1))),
    )  # fmt: skip
    assert found.pair("a", "b").percent == pytest.approx(100 * (120 / 90 - 1), abs=0.01)
    change = found.pair("a", "bf16")
    assert change.percent == pytest.approx(100 * (1.2 * math.sqrt(1.1) - 1), abs=0.01)
    # How far the devices differ widens the comparison with what takes both.
    assert change.interval.high - change.interval.low > 2 * 10
    # Of two that are in one block on different devices, neither has a place with both.
    apart = model(on("bf16", 100.0, "A,B"), on("a", 120.0, "A"), on("b", 90.0, "B"))
    assert apart.pair("a", "bf16") == apart.pair("a", "b") == Missing(reason=OTHER_DEVICE)


def test_repeats_needed_are_a_range_and_none_where_there_may_be_no_difference():
    values = np.array([0.97, 1.0, 1.03])
    bf16, other = variant("bf16", 100 * values), variant("b", 100 * values[::-1])
    near, far = (variant("a", gain * 100 * values[[1, 2, 0]]) for gain in (1.03, 1.12))
    assert model(bf16, other, near).repeats_needed("a", "bf16", "bf16", ["bf16", "a", "b"]) is None
    found = model(bf16, other, far, tolerance=2.0).repeats_needed("a", "bf16", "bf16", ["bf16", "a", "b"])
    assert found.unit == "repeats" and found.low <= found.likely < found.high
    assert found.text == f"about {found.likely} repeats ({found.low} to {found.high})"
    assert model(variant("bf16", [1.0]), variant("a", [2.0])).repeats_needed("a", "bf16", "bf16", []) is None


def test_so_many_repeats_show_a_difference_and_one_less_does_not():
    """The noncentral t, with an error that shrinks by the root of the repeats, and two degrees of freedom of three."""
    values = np.array([0.99, 1.0, 1.01])
    ours, theirs = 1.05 * values[[1, 2, 0]], values
    found = model(variant("a", ours), variant("b", theirs)).repeats_needed("a", "b", None, ["a", "b"])
    error, gain = stats.sem(np.log(ours / theirs)), np.log(ours / theirs).mean()

    def power(repeats):
        critical = stats.t.ppf(0.975, repeats - 1)
        return stats.nct.sf(critical, repeats - 1, gain / (error * math.sqrt(3 / repeats)))

    assert found.likely > 3 and power(found.likely) >= 0.8 > power(found.likely - 1)


@pytest.mark.parametrize(("ours", "theirs", "typical"), [(3, 5, 5), (2, 2, 2), (4, 3, 4)])
def test_no_fewer_repeats_are_proposed_than_were_typical(ours, theirs, typical):
    """Ten times as much among repeats that agree within 2 % is shown by those that were made."""
    noise = np.array([1.0, 1.01, 0.99, 1.005, 0.995])
    fitted = model(variant("a", 1000 * noise[:ours]), variant("b", 100 * noise[::-1][:theirs]))
    found = fitted.repeats_needed("a", "b", None, ["a", "b"])
    assert (found.unit, found.low, found.likely, found.high) == ("repeats", typical, typical, typical)


def test_the_smallest_gain_is_that_of_the_test_widened_by_the_tolerance():
    """Two variants of three repeats: 2 degrees of freedom, and the noncentral t at four of five."""
    ours, theirs = [100.0, 103.0, 99.0], [101.0, 100.0, 102.0]
    error = stats.sem(np.log(ours) - np.log(theirs))
    found = model(variant("a", ours), variant("bf16", theirs), tolerance=2.0).smallest_change("bf16", ["bf16", "a"])
    gain = error * optimize.brentq(lambda d: stats.nct.sf(stats.t.ppf(0.975, 2), 2, d) - 0.8, 0.1, 20)
    assert found == pytest.approx(100 * math.expm1(gain + math.log(1.02)), rel=1e-4)
    assert model(variant("a", [1.0]), variant("bf16", theirs)).smallest_change("bf16", ["a"]) is None


def test_blocks_on_other_devices_are_other_blocks():
    """Two variants share the second device alone; seeds and starts of the first do not count."""
    one = variant("a", [100.0, 101.0], device="GPU-1") + variant("a", [120.0, 121.0], device="GPU-2")
    fitted = model(one, variant("b", [110.0, 112.0], device="GPU-2"))
    assert fitted.pair("b", "a").percent == pytest.approx(100 * (math.sqrt(110 * 112 / 120 / 121) - 1))
    # The same device in another block is a common device, without a common block.
    later = model(variant("a", [100.0, 101.0], device="GPU-1"), variant("b", [110.0, 112.0], block=1, device="GPU-1"))
    assert later.pair("b", "a") == Missing(reason=NO_COMMON_BLOCK)


def test_as_many_repeats_show_the_difference_in_four_of_five_runs():
    """The number for a true gain, as if the pilot had been right, and the runs that it promises."""
    dice, family = np.random.default_rng(8), [f"v{i}" for i in range(5)]

    def run(repeats, gain, scale=0.04):
        noise = dice.normal(0, scale, (5, repeats))
        if repeats == 3:
            # A pilot with exactly this noise and this gain.
            noise -= noise.mean(1, keepdims=True)
            noise -= noise.mean(0)
            noise *= scale * math.sqrt(8 / (noise**2).sum())
        noise[1] += math.log1p(gain)
        return model(*(variant(name, np.exp(row)) for name, row in zip(family, noise, strict=True)), tolerance=2.0)

    needed = run(3, 0.10).repeats_needed("v1", "v0", "v0", family)
    shown = sum(run(needed.likely, 0.10).against("v0", "v1", family).is_clear for _ in range(200)) / 200
    assert 0.7 < shown < 0.92


def test_the_smallest_gain_is_shown_in_four_of_five_runs():
    dice, family = np.random.default_rng(9), [f"v{i}" for i in range(5)]
    gains, shown = [], 0
    for _ in range(200):
        noise = dice.normal(0, 0.03, (5, 4))
        fitted = model(*(variant(n, np.exp(row)) for n, row in zip(family, noise, strict=True)), tolerance=2.0)
        gains.append(fitted.smallest_change("v0", family[1:]))
    gain = float(np.median(gains))
    for _ in range(200):
        noise = dice.normal(0, 0.03, (5, 4))
        noise[1] += math.log1p(gain / 100)
        fitted = model(*(variant(n, np.exp(row)) for n, row in zip(family, noise, strict=True)), tolerance=2.0)
        shown += fitted.against("v0", "v1", family).is_clear
    assert 0.7 < shown / 200 < 0.9
