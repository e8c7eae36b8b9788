"""The speeds of all variants, fitted together: a measurement model for each metric under each load.

Figures are compared if they are of one machine, one protocol and one load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from pipeline.compare.stats.measurement_model import MeasurementModel, Observation
from pipeline.compare.stats.repeats import Change
from pipeline.results.base import Missing
from pipeline.results.bench import LoadResult, Metric
from pipeline.results.metrics import METRICS
from pipeline.results.records import Record, Speed

# As `report.tolerance_percent`.
TOLERANCE_PERCENT = 2.0
Each = TypeVar("Each")


class Group(NamedTuple):
    """Figures that can be compared; a result of an early release has no load."""

    machine: str
    protocol: str
    load: str


class SpeedModels:
    """The models of these records.

    Args:
        records: all variants, the baseline among them.
        tolerance_percent: widening of changes that one start of each server supports.
    """

    def __init__(self, records: Sequence[Record] = (), tolerance_percent: float = TOLERANCE_PERCENT) -> None:
        self.tolerance_percent = tolerance_percent
        self.baseline = next((record.name for record in records if record.is_baseline), None)
        self._headlines = {
            record.name: group_of(record.speed, record.speed.headline)
            for record in records
            if isinstance(record.speed, Speed)
        }
        self._groups: dict[Group, dict[str, tuple[Speed, LoadResult | None]]] = {}
        for record in records:
            for speed in record.benchmarks:
                loads = {load.name: load for load in speed.loads}
                for name in dict.fromkeys([*loads, speed.headline or ""]):
                    self._groups.setdefault(group_of(speed, name), {})[record.name] = speed, loads.get(name)
        self._models: dict[tuple[Group, str], MeasurementModel] = {}
        self._changes: dict[tuple[Group, str, str], Change | Missing] = {}

    def __eq__(self, other: object) -> bool:
        """Return True for any other: models hold no result that the comparison does not."""
        return isinstance(other, SpeedModels)

    __hash__ = None  # type: ignore[assignment]

    def model(self, group: Group, metric: str) -> MeasurementModel:
        """Return the model of a metric, over all variants with the unit of the baseline's, else of the first."""
        key = group, metric
        if key not in self._models:
            found = list(self._figures(group, metric))
            units = [figures.unit for name, figures, _ in found if name == self.baseline]
            unit = (units or [figures.unit for _, figures, _ in found] or [""])[0]
            observed = [each for _, figures, each in found if figures.unit == unit]
            self._models[key] = MeasurementModel([one for each in observed for one in each], self.tolerance_percent)
        return self._models[key]

    def headline(self, name: str) -> Group:
        """Return the group of the figures of a variant that the tables show."""
        return self._headlines[name]

    def shared(self, ours: str, theirs: str, load: str | None) -> Group | None:
        """Return the group under a load that has figures of both; without a load, the one that the tables show."""
        if load is None:
            groups = {self._headlines.get(name) for name in (ours, theirs)}
            return groups.pop() if len(groups) == 1 else None
        return next((g for g, names in self._groups.items() if g.load == load and {ours, theirs} <= set(names)), None)

    def family(self, group: Group) -> list[str]:
        """Return the variants of a group, the baseline among them."""
        return list(self._groups.get(group, {}))

    def against_baseline(self, group: Group, metric: str, name: str) -> Change | Missing:
        """Return the change of a variant from the baseline, simultaneous over all variants of the group."""
        assert self.baseline is not None
        key = group, metric, name
        if key not in self._changes:
            self._changes[key] = self.model(group, metric).against(self.baseline, name, self.family(group))
        return self._changes[key]

    def incomparable(self, group: Group, metric: str, ours: str, theirs: str) -> str:
        """Return why two variants' figures of a metric are not compared under a load; empty if they are."""
        one, other = (self._groups.get(group, {}).get(name, (None, None))[1] for name in (ours, theirs))
        return (one.incomparable(metric, other) or "") if one is not None and other is not None else ""

    def smallest_gain(self, group: Group, metric: str) -> float | None:
        """Return the true gain over the baseline, in percent, that would have been shown with 80 % power.

        Of a latency it is a fall, which is less than 100 %. None if nothing is compared, or the noise is unknown.
        """
        if self.baseline is None or self.incomparable(group, metric, self.baseline, self.baseline):
            return None
        compared = [name for name in self.family(group) if name != self.baseline]
        rise = self.model(group, metric).smallest_change(self.baseline, compared)
        if rise is None or metric not in METRICS or METRICS[metric].better == "higher":
            return rise
        # As far from no change, on the scale of logarithms.
        return rise / (1 + rise / 100)

    def _figures(self, group: Group, metric: str) -> Iterator[tuple[str, Metric, list[Observation]]]:
        for name, (speed, load) in self._groups.get(group, {}).items():
            figures = load.metrics.get(metric) if load else None
            if figures is None and (load is None or load.name == speed.headline):
                figures = speed.metrics.get(metric)
            if figures is not None:
                yield name, figures, list(_observations(name, figures, speed, load))


def group_of(speed: Speed, load: str | None) -> Group:
    """Return the group of a load of a benchmark."""
    return Group(speed.machine, speed.protocol, load or "")


def _observations(name: str, metric: Metric, speed: Speed, load: LoadResult | None) -> Iterator[Observation]:
    count = len(metric.values)
    seeds = _by_repeat(load.seeds if load else (), count, None)
    blocks = _by_repeat(load.blocks if load else (), count, speed.block)
    devices = _by_repeat(load.devices if load else (), count, speed.device)
    errors = _by_repeat(metric.errors, count, None)
    for value, error, seed, block, device in zip(metric.values, errors, seeds, blocks, devices, strict=True):
        yield Observation(name, value, error, seed, block, device)


def _by_repeat(found: Sequence[Each], count: int, default: Each) -> Sequence[Each]:
    """Return one entry per repeat; the default for each where they do not belong to the repeats one by one."""
    return found if len(found) == count else [default] * count
