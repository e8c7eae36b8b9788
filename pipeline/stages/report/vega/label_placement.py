"""Label positions of a scatter plot: beside their points, without covering points or other labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Average width of a character in font sizes, for capitals and digits in wide fonts.
CHARACTER = 0.63
# Directions in the order of preference: beside, then above and below, then the corners; nearer first.
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
# Free space around a label.
GAP = 3.0
DISTANCES = (11.0, 22.0, 36.0, 52.0, 70.0)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Return the area of the intersection."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    def outside(self, width: float, height: float) -> float:
        """Return the area outside a plot of that size."""
        area = (self.right - self.left) * (self.bottom - self.top)
        return area - self.overlap(Box(0, 0, width, height))


@dataclass(frozen=True)
class LabelPosition:
    """The centre of a label."""

    x: float
    y: float
    is_far: bool


def place(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    size: tuple[float, float],
    font: float,
    obstacles: Sequence[Box] = (),
) -> list[LabelPosition]:
    """Place each label where it covers least, greedily in the given order."""
    width, height = size
    marks = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    taken: list[Box] = []
    placed = []
    for (x, y), label in zip(points, labels, strict=True):
        wide, tall = len(label) * font * CHARACTER / 2, font * 0.6
        options: list[tuple[float, int, Box, bool]] = []
        for distance in DISTANCES:
            for right, down in DIRECTIONS:
                centre = (x + right * (distance + wide), y + down * (distance + tall * (right == 0)))
                box = Box(centre[0] - wide, centre[1] - tall, centre[0] + wide, centre[1] + tall)
                wider = Box(box.left - GAP, box.top - GAP, box.right + GAP, box.bottom + GAP)
                cost = 4 * box.outside(width, height) + 3 * sum(wider.overlap(other) for other in (*marks, *taken))
                cost += sum(box.overlap(other) for other in obstacles) + 2 * distance
                options.append((cost, len(options), box, distance > DISTANCES[0]))
        _, _, box, is_far = min(options, key=lambda option: option[:2])
        taken.append(box)
        placed.append(LabelPosition((box.left + box.right) / 2, (box.top + box.bottom) / 2, is_far))
    return placed
