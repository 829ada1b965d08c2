"""What is drawn, under which names, and polygons to masks."""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.types import Mask

Point = tuple[float, float]
_FARTHEST: Final = 1e6


class Region(StrEnum):
    """What a model learns; lungs are the patient's left and right."""

    LEFT = "left_lung"
    RIGHT = "right_lung"
    OPACITY = "opacity"


_NAMES: Final = {
    "left_lung": Region.LEFT,
    "lung_left": Region.LEFT,
    "right_lung": Region.RIGHT,
    "lung_right": Region.RIGHT,
    "opacity": Region.OPACITY,
    "lung_opacity": Region.OPACITY,
    "ground_glass": Region.OPACITY,
    "ground_glass_opacity": Region.OPACITY,
    "consolidation": Region.OPACITY,
}


class Drawing:
    """The regions drawn on one image so far; what is drawn twice stays drawn."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._masks = {region: np.zeros(shape, dtype=np.bool_) for region in Region}

    def add(self, region: Region, mask: Mask) -> None:
        """Add a mask to a region."""
        self._masks[region] |= mask

    def masks(self) -> tuple[Mask, Mask, Mask]:
        """Return (left, right, opacity)."""
        return self._masks[Region.LEFT], self._masks[Region.RIGHT], self._masks[Region.OPACITY]


def simple_name(name: str) -> str:
    """Return a name in lower case with underscores for spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def region_of(name: str) -> Region:
    """Return the region of that name.

    Raises ValueError for any other: whether it is opacity under a name of its own, nobody knows.
    """
    region = _NAMES.get(simple_name(name))
    if region is None:
        msg = f"{name!r} is drawn, which is none of {', '.join(_NAMES)}"
        raise ValueError(msg)
    return region


def check_size(said: tuple[int, int], shape: tuple[int, int]) -> None:
    """Refuse labels of another size (rows, columns) than the image's; raises ValueError."""
    if said != shape:
        msg = f"it is for {said[0]} x {said[1]} pixels, the image has {shape[0]} x {shape[1]}"
        raise ValueError(msg)


def fill(paths: Iterable[Sequence[Point]], shape: tuple[int, int]) -> Mask:
    """Fill closed paths of (x, y) by the even-odd rule: a path inside another one is a hole.

    A pixel belongs to the polygon when its centre does; the first pixel's is at (0.5, 0.5). What
    lies outside the image is cut off. Raises ValueError for what encloses no area.
    """
    rows, columns = shape
    flips = np.zeros((rows, columns + 1), dtype=np.bool_)
    for path in paths:
        row, x = _crossings(_closed(path), rows)
        column = np.clip(np.ceil(x - 0.5), 0, columns).astype(np.int64)
        np.logical_xor.at(flips, (row, column), True)
    inside: Mask = np.logical_xor.accumulate(flips[:, :-1], axis=1)
    return inside


def disc(centre: Point, edge: Point, shape: tuple[int, int]) -> Mask:
    """Fill the circle round a centre through a point of its edge, by the same rule."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    radius = (edge[0] - centre[0]) ** 2 + (edge[1] - centre[1]) ** 2
    inside: Mask = (x + 0.5 - centre[0]) ** 2 + (y + 0.5 - centre[1]) ** 2 <= radius
    return inside


def _closed(path: Sequence[Point]) -> NDArray[np.float64]:
    points = np.asarray(path, dtype=np.float64).reshape(-1, 2)
    if len(points) < 3:  # noqa: PLR2004  a triangle
        msg = "a polygon has fewer than three points"
        raise ValueError(msg)
    if not (np.abs(points) < _FARTHEST).all():
        msg = "a polygon has a point far from any image"
        raise ValueError(msg)
    return np.concatenate([points, points[:1]])


def _crossings(points: NDArray[np.float64], rows: int) -> tuple[NDArray[np.int64], ...]:
    """Return (row, x) wherever an edge crosses the line through the centres of a row."""
    x, y = points.T
    upper, lower = np.minimum(y[:-1], y[1:]), np.maximum(y[:-1], y[1:])
    first = np.clip(np.ceil(upper - 0.5), 0, rows).astype(np.int64)
    count = np.clip(np.ceil(lower - 0.5), 0, rows).astype(np.int64) - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - (np.cumsum(count) - count)[edge] + first[edge]
    slope = (x[edge + 1] - x[edge]) / (y[edge + 1] - y[edge])
    return row, x[edge] + (row + 0.5 - y[edge]) * slope
