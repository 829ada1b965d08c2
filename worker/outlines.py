"""Outlines of a mask as closed polylines of few points (PS3.3 C.10.5, units PIXEL)."""

from typing import Final

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from worker.types import Mask

Points = NDArray[np.float64]

_TOLERANCE: Final = 0.5
# Graphic Data has VR FL: its 16-bit length field (PS3.5 7.1.2) ends at 8191 points.
_MOST_POINTS: Final = 1000
_FEWEST_POINTS: Final = 4  # a triangle, closed


def outlines(mask: Mask) -> list[Points]:
    """Return each outer border and each hole of a mask as (n, 2) points: column, row.

    The first point is the last one too. 0, 0 is the top left corner of the top left pixel, and
    columns, rows the bottom right corner of the image. A line is within half a pixel of the
    border; one that would still have more than 1000 points is drawn as coarsely as that takes.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(box.astype(np.float64), 1)  # borders at the image's edge close too
    found = contour_generator(z=padded, name="serial", line_type="Separate").lines(0.5)
    # From the centres of pixels to their corners, and back over the padding and the box.
    shift = np.asarray([columns[0] - 0.5, rows[0] - 0.5])
    return [_simplified(np.asarray(line, np.float64) + shift) for line in found]


def _simplified(ring: Points) -> Points:
    tolerance = _TOLERANCE
    kept = _kept(ring, tolerance)
    while kept.sum() > _MOST_POINTS:
        tolerance *= 1.5
        kept = _kept(ring, tolerance)
    return ring[kept] if kept.sum() >= _FEWEST_POINTS else ring


def _kept(ring: Points, tolerance: float) -> NDArray[np.bool_]:
    """Say which points the Douglas-Peucker algorithm keeps of a closed line."""
    kept = np.zeros(len(ring), dtype=np.bool_)
    farthest = int(np.argmax(np.hypot(*(ring - ring[0]).T)))  # a ring has no ends: split it
    kept[[0, farthest, len(ring) - 1]] = True
    open_parts = [(0, farthest), (farthest, len(ring) - 1)]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:  # noqa: PLR2004  nothing between
            continue
        away = _distances(ring[first + 1 : last], ring[first], ring[last])
        worst = int(np.argmax(away))
        if away[worst] > tolerance:
            middle = first + 1 + worst
            kept[middle] = True
            open_parts += [(first, middle), (middle, last)]
    return kept


def _distances(points: Points, start: Points, end: Points) -> Points:
    """Return how far each point is from the straight line between two others."""
    along = end - start
    length = float(np.hypot(*along))
    offset = points - start
    if length == 0.0:
        return np.asarray(np.hypot(*offset.T))
    return np.asarray(np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0]) / length)
