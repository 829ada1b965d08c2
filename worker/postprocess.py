"""Pure: probability maps on the source grid -> two lungs without holes and the opacity in them."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.types import LungMasks, Mask

_KEEP_FRACTION = 0.2  # a part this large beside the largest is lung too: dense bands may cut a lung
_MIN_FRACTION = 0.0005  # of the image; what is smaller is no lung


def masks_from_probabilities(
    probabilities: NDArray[np.float32], lung_threshold: float, opacity_threshold: float
) -> LungMasks:
    """Turn float (3, rows, columns) of left, right and opacity into disjoint masks.

    A pixel that both lungs claim goes to the likelier one. Each lung keeps its largest part and
    parts at least a fifth as large, with holes filled. Opacity outside the lungs is dropped. An
    empty lung stays empty: the caller decides what that means.
    """
    left, right, opacity = probabilities
    is_left = left >= right
    left_mask = _lung((left >= lung_threshold) & is_left)
    right_mask = _lung((right >= lung_threshold) & ~is_left)
    right_mask &= ~left_mask  # a filled hole may hold pixels of the other side
    inside = (opacity >= opacity_threshold) & (left_mask | right_mask)
    return LungMasks(left=left_mask, right=right_mask, opacity=inside)


def _lung(candidate: Mask) -> Mask:
    """Keep the large parts of one side and fill their holes; works inside the bounding box."""
    result = np.zeros_like(candidate)
    rows = np.flatnonzero(candidate.any(axis=1))
    if not rows.size:
        return result
    columns = np.flatnonzero(candidate.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    result[box] = _without_holes(_large_parts(candidate[box], candidate.size))
    return result


def _large_parts(candidate: Mask, image_pixels: int) -> Mask:
    labels, count = ndimage.label(candidate)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    wanted = sizes >= max(sizes.max() * _KEEP_FRACTION, image_pixels * _MIN_FRACTION, 1)
    kept: Mask = wanted[labels]
    return kept


def _without_holes(mask: Mask) -> Mask:
    """Fill background that does not touch the border of a one-pixel frame around the mask."""
    labels, count = ndimage.label(~np.pad(mask, 1))
    filled: Mask = np.ones(count + 1, dtype=np.bool_)
    filled[labels[0, 0]] = False
    filled[0] = True
    grown: Mask = filled[labels]
    return grown[1:-1, 1:-1]
