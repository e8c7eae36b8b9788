"""One format by several engines from the same conversations: do their weights agree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.results.base import Frozen

# An engine agrees whose mean weight error is at most this many times the best one's of the same algorithm.
AGREEMENT = 1.10


class Made(Frozen):
    """What one engine wrote.

    Attributes:
        label: of the variant.
        engine: who made it.
        algorithm: how weights were rounded.
        scheme: the number format, as it is to be called.
        shown: what the engine was shown; those that saw other conversations are not compared.
        errors: |W - V| / |W| of each quantized weight by its module, in the terms of the BF16 model.
        distance: how far served log-probabilities of fixed texts are from BF16's, in their standard deviations.
    """

    label: str
    engine: str
    algorithm: str
    scheme: str
    shown: str
    errors: dict[str, float]
    distance: float | None = None


class EngineRow(Frozen):
    """One engine's weights; ratios are to the best of the same algorithm, None where there is no other."""

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
    """All engines of one format, by algorithm and then by error."""

    scheme: str
    rows: tuple[EngineRow, ...]


def agreement(made: Sequence[Made]) -> tuple[Engines, ...]:
    """A table for each format that several engines made from the same data, over the modules that all of them have.

    Algorithms trade errors of weights for errors of outputs, each its own way: GPTQ makes those of weights larger than
    rounding to nearest, so engines are held against each other within an algorithm.
    """
    groups: dict[tuple[str, str], list[Made]] = {}
    for each in made:
        if each.errors:
            groups.setdefault((each.scheme, each.shown), []).append(each)
    return tuple(_table(scheme, group) for (scheme, _), group in groups.items() if len({m.engine for m in group}) > 1)


def _table(scheme: str, group: Sequence[Made]) -> Engines:
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
