"""Convergence of the clip points with the number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.results.calibration import TechniqueVerdict

# A range that still moved in the last quarter of the samples would move on with more of them.
SETTLED = 0.75


def stable_after(clips: Sequence[float], samples_at: Sequence[int], tolerance: float) -> int | None:
    """Return the first number of samples from which on the clip point stays within `tolerance` of its last value.

    None if that is later than three quarters of all samples: the range still moves.
    """
    final = clips[-1]
    first = samples_at[-1]
    for number, clip in zip(reversed(samples_at), reversed(clips), strict=True):
        if abs(clip - final) > tolerance * abs(final):
            break
        first = number
    return first if first <= SETTLED * samples_at[-1] else None


def last_move(clips: Sequence[float], samples_at: Sequence[int]) -> float:
    """Return the largest relative distance from the final clip point in the last quarter of the samples."""
    final = clips[-1]
    late = [clip for clip, number in zip(clips, samples_at, strict=True) if number >= SETTLED * samples_at[-1]]
    return max(abs(clip - final) for clip in late) / abs(final) if final else 0.0


def judge(curves: Mapping[str, Sequence[float]], samples_at: Sequence[int], tolerance: float) -> TechniqueVerdict:
    """Return the verdict over all sites of a technique; `curves` has each site's clip point at each of `samples_at`."""
    samples, percent = samples_at[-1], f"{100 * tolerance:g} %"
    if samples < 4:
        text = f"{samples} sample{'s' if samples > 1 else ''}: too few to say whether ranges are stable"
        return TechniqueVerdict(stable_after=None, moving=(), text=text)
    found = {name: stable_after(clips, samples_at, tolerance) for name, clips in curves.items()}
    moves = {name: last_move(curves[name], samples_at) for name, number in found.items() if number is None}
    moving = tuple(sorted(moves, key=lambda name: -moves[name]))
    if not moving:
        first = max(number for number in found.values() if number is not None)
        text = f"stable to {percent} after {first} of {samples} samples"
        return TechniqueVerdict(stable_after=first, moving=(), text=text)
    worst = moving[0]
    text = (
        f"{len(found) - len(moving)} of {len(found)} ranges are stable to {percent}; {worst} still moves "
        f"({100 * moves[worst]:.1f} % in the last quarter of {samples} samples): use more"
    )
    return TechniqueVerdict(stable_after=None, moving=moving, text=text)
