"""Agreement of the weights that several engines make of one format from the same conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.results.base import Frozen

# Largest ratio of an engine's mean weight error to the smallest one of the same algorithm that counts as agreement.
AGREEMENT = 1.10


class EngineWeights(Frozen):
    """The weights that one engine made.

    Attributes:
        label: the variant's label.
        engine: the quantization engine.
        algorithm: the rounding algorithm of the weights.
        scheme: display name of the number format.
        shown: key of the engine's calibration data; engines with different data are not compared.
        errors: |W - V| / |W| of each quantized weight by its module name in the BF16 model.
        distance: distance of served log-probabilities of fixed texts from BF16's, in their standard deviations.
    """

    label: str
    engine: str
    algorithm: str
    scheme: str
    shown: str
    errors: dict[str, float]
    distance: float | None = None


class EngineRow(Frozen):
    """One engine's weights; ratios are to the best of the same algorithm, None if there is no other."""

    label: str
    engine: str
    algorithm: str
    mean: float
    worst: float
    worst_module: str
    distance: float | None
    ratio: float | None
    agrees: bool | None


class Engines(Frozen):
    """All engines of one format, sorted by algorithm and then by error."""

    scheme: str
    rows: tuple[EngineRow, ...]


def agreement(weights: Sequence[EngineWeights]) -> tuple[Engines, ...]:
    """Return a table for each format that several engines made from the same data, over their common modules.

    Algorithms trade weight error for output error differently: GPTQ has a larger weight error than rounding to
    nearest. So engines are compared within an algorithm.
    """
    groups: dict[tuple[str, str], list[EngineWeights]] = {}
    for each in weights:
        if each.errors:
            groups.setdefault((each.scheme, each.shown), []).append(each)
    return tuple(_table(scheme, group) for (scheme, _), group in groups.items() if len({m.engine for m in group}) > 1)


def _table(scheme: str, group: Sequence[EngineWeights]) -> Engines:
    common = set.intersection(*(set(each.errors) for each in group))
    means = {each.label: _mean(each.errors, common) for each in group}
    rows = []
    for each in group:
        peers = [other for other in group if other.algorithm == each.algorithm]
        ratio = means[each.label] / min(means[other.label] for other in peers) if len(peers) > 1 else None
        worst = max(sorted(common), key=each.errors.__getitem__)
        rows.append(
            EngineRow(
                label=each.label,
                engine=each.engine,
                algorithm=each.algorithm,
                mean=means[each.label],
                worst=each.errors[worst],
                worst_module=worst,
                distance=each.distance,
                ratio=ratio,
                agrees=None if ratio is None else ratio <= AGREEMENT,
            )
        )
    return Engines(scheme=scheme, rows=tuple(sorted(rows, key=lambda row: (row.algorithm, row.mean))))


def _mean(errors: Mapping[str, float], modules: set[str]) -> float:
    return sum(errors[module] for module in modules) / len(modules)
