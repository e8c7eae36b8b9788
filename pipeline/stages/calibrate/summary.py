"""The summary of a calibration: ranges, outliers, convergence and the card, from the observers' statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.config import CalibrationSettings
from pipeline.formats.schemes import CALIBRATED
from pipeline.results.calibration import Channel, ExpertLayer, Histogram, SetCard, Site, Summary
from pipeline.stages.calibrate import observers
from pipeline.stages.calibrate.artifact import contents, observed
from pipeline.stages.calibrate.clipping import TECHNIQUES, Observed, clip_point, moving_average
from pipeline.stages.calibrate.convergence import judge, stable_after
from pipeline.stages.calibrate.histograms import BINS, magnitudes

# Convergence is reported for one format; min-max, moving average and percentile do not depend on it.
SHOWN_FORMAT = "fp8_e4m3"
WORST, OUTLIERS, DRAWN_BINS = 10, 5, 64


def summary_of(
    sites: Iterable[observers.ObservedSite],
    settings: CalibrationSettings,
    card: SetCard,
    dtype: str,
    experts: tuple[ExpertLayer, ...] = (),
) -> Summary:
    """Return the summary of a calibration; `experts` of a mixture."""
    sites = list(sites)
    samples = max(site.sketch.samples for site in sites)
    points = observers.checkpoints(samples)
    described = [_describe(site, settings, points) for site in sites]
    curves = {technique: {each.name: each.convergence[technique] for each in described} for technique in TECHNIQUES}
    worst = sorted((each for each in described if each.modules), key=lambda each: -each.outlier_ratio)[:WORST]
    by_name = {site.name: site for site in sites}
    return Summary(
        conversations=samples,
        tokens=card.tokens,
        dtype=dtype,
        tolerance=settings.tolerance,
        techniques=tuple(TECHNIQUES),
        samples_at=tuple(points),
        sites=tuple(described),
        worst=tuple(_drawn(by_name[each.name]) for each in worst),
        verdict={name: judge(curves[name], points, settings.tolerance) for name in TECHNIQUES},
        card=card,
        **({"experts": experts} if experts else {}),
    )


def _describe(site: observers.ObservedSite, settings: CalibrationSettings, points: Sequence[int]) -> Site:
    kept = contents(site)
    whole = observed(kept, settings)
    largest = kept["channel_range"].abs().amax(1)
    top = largest.topk(min(OUTLIERS, largest.numel()))
    middle = float(largest.median())
    curve = _curve(site, settings, points)
    return Site(
        name=site.name,
        modules=tuple(site.modules),
        layer=site.layer,
        kind=site.kind,
        minimum=whole.minimum,
        maximum=whole.maximum,
        clip={
            name: {technique: clip_point(whole, technique, number, settings.percentile) for technique in TECHNIQUES}
            for name, number in CALIBRATED.items()
        },
        outlier_ratio=float(top.values[0]) / middle if middle > 0 else 0.0,
        outlier_channels=tuple(
            Channel(channel=channel, absmax=value)
            for channel, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ),
        convergence={name: tuple(clips) for name, clips in curve.items()},
        stable_after={name: stable_after(clips, points, settings.tolerance) for name, clips in curve.items()},
    )


def _curve(
    site: observers.ObservedSite, settings: CalibrationSettings, points: Sequence[int]
) -> dict[str, list[float]]:
    """Return the clip point of each technique after each number of samples."""
    extremes = site.sketch.extremes.cpu().double()
    low, high = extremes[..., 0].amin(1).tolist(), extremes[..., 1].amax(1).tolist()
    curves: dict[str, list[float]] = {technique: [] for technique in TECHNIQUES}
    for number in points:
        count = min(number, len(low))
        pairs = list(zip(low[:count], high[:count], strict=True))
        counts = site.sketch.snapshots.get(count)
        if counts is None:
            counts = site.sketch.snapshots[max(site.sketch.snapshots)]
        seen = Observed(
            min(low[:count]),
            max(high[:count]),
            moving_average(pairs, settings.averaging_constant),
            counts.cpu().numpy(),
        )
        for technique in TECHNIQUES:
            curves[technique].append(clip_point(seen, technique, CALIBRATED[SHOWN_FORMAT], settings.percentile))
    return curves


def _drawn(site: observers.ObservedSite) -> Histogram:
    """Return the magnitudes of a site in few bins, equal on a logarithmic scale."""
    assert site.sketch.histogram is not None
    counts = site.sketch.histogram.sum(0).cpu().numpy()
    values = magnitudes().numpy()
    used = np.flatnonzero(counts[1:]) + 1
    if not len(used):
        return Histogram(site=site.name, edges=(1.0, 2.0), counts=(0,), zeros=int(counts[0]))
    low, high = values[used[0]], values[min(used[-1] + 1, BINS - 1)]
    # Rare tiny values would leave the drawing empty on the left: it starts where one value in a million lies.
    share = np.cumsum(counts[used]) / counts[used].sum()
    low = values[used[int(np.searchsorted(share, 1e-6))]]
    edges = np.geomspace(low, max(high, low * 2), DRAWN_BINS + 1)
    drawn, _ = np.histogram(values[used], bins=edges, weights=counts[used])
    below = int(counts[used][values[used] < low].sum())
    return Histogram(
        site=site.name,
        edges=tuple(edges.tolist()),
        counts=tuple(drawn.astype(int).tolist()),
        zeros=int(counts[0]) + below,
    )
