"""The model of a measurement: one metric of all variants under one load, log(figure) ~ variant + seed + block.

Repeats of a seed send the same prompts to every variant: a seed is a block of a randomised complete block design
(D. Montgomery, Design and Analysis of Experiments, 8th ed., 2013, chapter 4), and the residual variance is that of all
variants together. Variants whose repeats vary more than those of the others are left out of it (`least_squares`) and
compared from the two variants of a pair alone. Where seeds are unknown, or no seed joins the variants, the model has
none, and their variation is part of the noise.

Servers differ from start to start by more than repeats show, so that the start is the unit (T. Kalibera, R. Jones,
Rigorous Benchmarking in Reasonable Time, ISMM 2013): with two or more blocks, each with one start of every variant,
the noise is the interaction of variant and block of the means of the starts, as in a split plot (Montgomery, chapter
14). With one block that cannot be estimated: each change is widened by a tolerance, and says so.

Repeats on two devices are two blocks (of one start of a variant each), since two GPUs of one model differ. A variant on
several GPUs at once is placed with those of its block on one of them: how far the others differ from that one is then
part of the noise between starts.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.compare.stats.intervals import LEVEL
from pipeline.compare.stats.least_squares import AdditiveFit, Unit, of_unequal_noise
from pipeline.compare.stats.repeats import NO_VARIANCE, NOT_POSITIVE, SINGLE, Change, Contrast, floor
from pipeline.compare.stats.simultaneous import Dunnett, Student, Test, Tukey, detectable
from pipeline.results.base import Frozen, Missing

# Repeats or blocks beyond these are not proposed.
MAX_REPEATS, MAX_BLOCKS = 100, 20
# The range of the repeats needed is that of the change's interval at this level.
RANGE_LEVEL = 0.8
OTHER_DEVICE = "measured on another device: no block has both on one device"
NO_COMMON_BLOCK = "no block has measured both"
TOO_FEW = "the starts are too few to estimate the noise"


class Observation(NamedTuple):
    """One repeat of a variant; an unknown seed is None, an unknown device is empty, several are joined by commas."""

    variant: str
    value: float
    error: float | None = None
    seed: int | None = None
    block: int = 0
    device: str = ""


class StartVariation(Frozen):
    """The variation between starts of servers, in percent.

    Attributes:
        control_percent: the largest difference between two starts of the baseline.
        start_percent: standard deviation of a start beyond its block and its repeats.
        starts: starts of the baseline.
    """

    control_percent: float
    start_percent: float
    starts: int


class RepeatsNeeded(NamedTuple):
    """Repeats or blocks of each variant that would show a difference in four of five runs, if the figures hold.

    `low` and `high` are for the ends of the difference's 80 % interval; `high` is None if no tried number is enough.
    """

    unit: str
    low: int
    likely: int
    high: int | None

    @property
    def text(self) -> str:
        """The range in words."""
        most = MAX_REPEATS if self.unit == "repeats" else MAX_BLOCKS
        high = f"more than {most}" if self.high is None else f"{self.high}"
        return f"about {self.likely} {self.unit} ({self.low} to {high})"


class MeasurementModel:
    """The fitted model of one metric under one load.

    Args:
        observations: repeats of all variants on one machine.
        tolerance_percent: by which changes are widened if there is one start of each server.
    """

    def __init__(self, observations: Sequence[Observation], tolerance_percent: float) -> None:
        self._tolerance = tolerance_percent
        self._dunnett: dict[tuple[str, tuple[str, ...]], Dunnett] = {}
        self._all: dict[str, list[Observation]] = {}
        for each in _placed(observations):
            self._all.setdefault(each.variant, []).append(each)
        self._usable = [name for name, found in self._all.items() if not _reason(found)]
        used = [each for name in self._usable for each in self._all[name]]
        self._devices_known = all(each.device for each in used)
        self._floors = {
            name: floor([each.value for each in self._all[name]], [each.error for each in self._all[name]])
            for name in self._usable
        }
        # The variance of a repeat inside a start.
        self._within = 0.0
        self._repeats, self._starts = self._fits(used)
        # The noise between starts can be estimated if any degree of freedom is left for it.
        self.has_starts = self._starts.freedom > 0
        self._full = self._starts if self.has_starts else self._repeats
        self._noisy = of_unequal_noise(self._full)
        self._pooled = self._full.without(self._noisy) if self._noisy else self._full

    @property
    def tolerance_percent(self) -> float:
        """The percentage by which changes are widened; 0 if the variation between starts was estimated."""
        return 0.0 if self.has_starts else self._tolerance

    @property
    def noisy(self) -> tuple[str, ...]:
        """The variants whose noise is not pooled with that of the others."""
        return self._noisy

    @property
    def variants(self) -> tuple[str, ...]:
        """All variants with two repeats or more."""
        return tuple(self._usable)

    def contrast(self, ours: str, theirs: str) -> Contrast | Missing:
        """Return the estimated difference of two variants with its noise."""
        for name in (ours, theirs):
            if name not in self._all:
                return Missing(reason="no repeat finished")
            if (reason := _reason(self._all[name])) and reason != SINGLE:
                return Missing(reason=reason)
        if (separate := self._separate(ours, theirs)) is not None:
            return separate
        if SINGLE in (_reason(self._all[ours]), _reason(self._all[theirs])):
            return Contrast(self._mean(ours) - self._mean(theirs), None, reason=SINGLE)
        within = math.sqrt(self._floors[ours] + self._floors[theirs])
        fit = self._pooled
        if not fit.connected(ours, theirs):
            fit = self._full.only(ours, theirs)
            if not fit.connected(ours, theirs):
                return self._full_difference(ours, theirs, within)
        if fit.freedom < 1:
            return Contrast(fit.difference(ours, theirs), None, reason=TOO_FEW)
        variance = fit.variance * fit.factor(ours, theirs)
        error = math.sqrt(variance) if variance >= NO_VARIANCE else None
        return Contrast(fit.difference(ours, theirs), error, fit.freedom, within)

    def against(self, control: str, name: str, family: Sequence[str]) -> Change | Missing:
        """Return a change from the control, simultaneous over the family: Dunnett's interval and p-value."""
        return self._change(name, control, self._test(control, name, family))

    def pair(
        self, ours: str, theirs: str, family: Sequence[str] | None = None, level: float = LEVEL
    ) -> Change | Missing:
        """Return the change of one pair; with a family, simultaneous over all pairs of it: Tukey's interval."""
        test: Test = Student()
        if family is not None and len(family) > 1:
            pooled = self._pooled.connected(ours, theirs)
            test = Tukey(len(family)) if pooled else Student(len(family) * (len(family) - 1) // 2)
        return self._change(ours, theirs, test, level)

    def smallest_change(self, control: str, family: Sequence[str]) -> float | None:
        """Return the true gain in percent that this run would show in four of five cases; None if noise is unknown.

        It is that of the variant of the family whose comparison is the median one in precision.
        """
        found = []
        for name in family:
            contrast = self.contrast(name, control)
            if isinstance(contrast, Contrast) and (contrast.error or contrast.floor):
                test = self._test(control, name, family)
                found.append(_detectable(contrast, test) + math.log1p(self.tolerance_percent / 100))
        return 100 * math.expm1(sorted(found)[len(found) // 2]) if found else None

    def repeats_needed(
        self, ours: str, theirs: str, control: str | None, family: Sequence[str]
    ) -> RepeatsNeeded | None:
        """Return the repeats, or with several blocks the blocks, for the test of this pair to show its difference.

        The test is that of `against` if `theirs` is the control, else that of `pair`, with the noise per unit as
        estimated and the degrees of freedom of so many units; found in four of five runs by the noncentral t.

        Returns:
            None if there may be no difference (its own interval at 95 %, neither corrected nor widened, holds zero), if
            the noise is unknown, or if the likely number is beyond what is proposed.
        """
        contrast = self.contrast(ours, theirs)
        if isinstance(contrast, Missing) or not contrast.error:
            return None
        if contrast.half_width(Student()) >= abs(contrast.log_ratio):
            return None
        test = self._test(theirs, ours, family) if theirs == control else Student()
        half = contrast.half_width(Student(), RANGE_LEVEL)
        low, likely, high = (
            self._needed(contrast, max(abs(contrast.log_ratio) + sign * half, 0.0), test) for sign in (1, 0, -1)
        )
        if low is None or likely is None:
            return None
        return RepeatsNeeded("blocks" if self.has_starts else "repeats", low, likely, high)

    def start_variation(self, control: str) -> StartVariation | None:
        """Return the variation between starts; None if it cannot be estimated, or the control has one start."""
        means = [unit.value for unit in self._starts.units if unit.variant == control]
        if not self.has_starts or len(means) < 2:
            return None
        repeats = len(self._repeats.units) / len(self._starts.units)
        within = self._within / repeats
        beyond = max(0.0, self._pooled.variance - within) if self._pooled.freedom else 0.0
        return StartVariation(
            control_percent=100 * math.expm1(max(means) - min(means)),
            start_percent=100 * math.expm1(math.sqrt(beyond)),
            starts=len(means),
        )

    def mean_noise(self, name: str) -> Contrast | None:
        """Return the noise of a variant's mean between starts, block effects aside; None if it is not known."""
        starts = sum(unit.variant == name for unit in self._starts.units)
        if not self.has_starts or name not in self._pooled.variants or not self._pooled.freedom:
            return None
        return Contrast(0.0, math.sqrt(self._pooled.variance / starts), self._pooled.freedom)

    def _change(self, ours: str, theirs: str, test: Test, level: float = LEVEL) -> Change | Missing:
        contrast = self.contrast(ours, theirs)
        if isinstance(contrast, Missing):
            return contrast
        return contrast.change(test, self.tolerance_percent, level)

    def _test(self, control: str, name: str, family: Sequence[str]) -> Test:
        """Return the test of a comparison with the control, one of as many as the family has."""
        if not self._pooled.connected(name, control):
            return Student(max(1, len(self._compared(control, family))))
        key = control, tuple(family)
        if key not in self._dunnett:
            compared = self._compared(control, family)
            joined = [each for each in compared if self._pooled.connected(each, control)]
            self._dunnett[key] = Dunnett(max(1, len(compared)), self._pooled.correlation(joined, control))
        return self._dunnett[key]

    def _compared(self, control: str, family: Sequence[str]) -> list[str]:
        return [each for each in family if each != control and each in self._usable]

    def _needed(self, contrast: Contrast, distance: float, test: Test) -> int | None:
        """Return the units of each variant that show a difference of this size."""
        assert contrast.error is not None
        error, most = contrast.error, MAX_BLOCKS if self.has_starts else MAX_REPEATS
        now = len({unit.cell for unit in self._starts.units}) if self.has_starts else _typical(self._all, self._usable)
        beyond = distance - math.log1p(self.tolerance_percent / 100)
        per_unit = contrast.freedom / max(1, now - 1)

        def shows(units: int) -> bool:
            shrink = math.sqrt(now / units)
            scaled = contrast._replace(
                error=error * shrink, floor=contrast.floor * shrink, freedom=per_unit * max(1, units - 1)
            )
            return _detectable(scaled, test) <= beyond

        tried = range(now, most + 1)
        return next(iter(tried[bisect_left(tried, True, key=shows) :]), None)

    def _separate(self, ours: str, theirs: str) -> Missing | None:
        """Return why two variants cannot be compared by where they ran; None if they can."""
        places = [{(each.block, each.device) for each in self._all[name]} for name in (ours, theirs)]
        if all(device for place in places for _, device in place):
            devices = [{device for _, device in place} for place in places]
            if not places[0] & places[1] and (len(devices[0] | devices[1]) > 1):
                return Missing(reason=OTHER_DEVICE)
        return None

    def _full_difference(self, ours: str, theirs: str, within: float) -> Contrast | Missing:
        """Return the difference of two variants that only others connect, with the noise unknown."""
        if not self._full.connected(ours, theirs):
            return Missing(reason=NO_COMMON_BLOCK)
        return Contrast(self._full.difference(ours, theirs), None, floor=within, reason=TOO_FEW)

    def _mean(self, name: str) -> float:
        values = [math.log(each.value) for each in self._all[name]]
        return math.fsum(values) / len(values)

    def _fits(self, used: Sequence[Observation]) -> tuple[AdditiveFit, AdditiveFit]:
        """Return the fit of the repeats, and that of the means of the starts with the effects of seeds removed."""
        strata: dict[tuple[int, str], list[Observation]] = {}
        for each in used:
            strata.setdefault((each.block, each.device if self._devices_known else ""), []).append(each)
        fits = {place: _within(place, inside) for place, inside in strata.items()}
        freedom = sum(fit.freedom for fit in fits.values())
        self._within = math.fsum(fit.residual_square for fit in fits.values()) / freedom if freedom else 0.0
        starts = [Unit(name, place, value) for place, fit in fits.items() for name, value in fit.means().items()]
        if len(fits) == 1:
            return next(iter(fits.values())), AdditiveFit(starts)
        return AdditiveFit([unit for fit in fits.values() for unit in fit.units]), AdditiveFit(starts)


def _placed(observations: Sequence[Observation]) -> list[Observation]:
    """Return the observations with each group of devices replaced by the one device of its block that it includes."""
    found = {(each.block, each.device) for each in observations}

    def place(block: int, device: str) -> str:
        own = set(device.split(","))
        inside = [other for at, other in found if at == block and set(other.split(",")) < own]
        least = [each for each in inside if not any(set(o.split(",")) < set(each.split(",")) for o in inside)]
        return least[0] if len(least) == 1 else device

    places = {at: place(*at) for at in found}
    return [each._replace(device=places[each.block, each.device]) for each in observations]


def _within(place: tuple[int, str], observations: Sequence[Observation]) -> AdditiveFit:
    """Return the fit inside one block, by seed if all seeds are known and join the variants."""
    fit = AdditiveFit([Unit(each.variant, (place, each.seed), math.log(each.value)) for each in observations])
    if all(each.seed is not None for each in observations) and fit.connected(*fit.variants):
        return fit
    return AdditiveFit([Unit(unit.variant, (place, None), unit.value) for unit in fit.units])


def _reason(observations: Sequence[Observation]) -> str:
    """Return why a variant has no interval; empty if it has one."""
    if not observations:
        return "no repeat finished"
    if any(each.value <= 0 or not math.isfinite(each.value) for each in observations):
        return NOT_POSITIVE
    return SINGLE if len(observations) < 2 else ""


def _typical(found: dict[str, list[Observation]], usable: Sequence[str]) -> int:
    """Return the median number of repeats."""
    numbers = sorted(len(found[name]) for name in usable)
    return numbers[len(numbers) // 2]


def _detectable(contrast: Contrast, test: Test) -> float:
    """Return the true difference of logarithms that is shown in four of five cases."""
    found = 0.0
    if contrast.error:
        found = contrast.error * detectable(test.critical(contrast.freedom), contrast.freedom)
    if contrast.floor:
        found = max(found, contrast.floor * detectable(test.critical(math.inf), math.inf))
    return found
