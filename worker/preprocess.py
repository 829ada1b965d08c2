"""From a radiograph of any size and orientation to the square the network sees, and back.

Training and serving both call `prepare`, so both see the same window. Lengths are pixels; the
square holds the whole image upright, with square pixels, centred on neutral padding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from worker.types import Orientation

WINDOW_PERCENTILES = (1.0, 99.0)
_BINS = 65536
_DEVIATION_FLOOR = 1e-3


@dataclass(frozen=True)
class Prepared:
    """The network's input and what is needed to map its output back.

    `tensor` is float32 (1, 1, size, size), zero mean and unit variance over the image; the padding
    is zero. `windowed` is the same square on 0..1, before standardisation, with zero padding.
    `box` is (top, left, height, width) of the upright image inside the square.
    """

    tensor: torch.Tensor
    windowed: torch.Tensor
    box: tuple[int, int, int, int]
    source_shape: tuple[int, int]
    orientation: Orientation

    def to_source(self, probabilities: torch.Tensor) -> NDArray[np.float32]:
        """Map (channels, size, size) back to float32 (channels, rows, columns) of the source."""
        top, left, height, width = self.box
        inside = probabilities[None, :, top : top + height, left : left + width].float()
        rows, columns = self.source_shape
        upright = (columns, rows) if self.orientation.transpose else (rows, columns)
        grown = functional.interpolate(inside, size=upright, mode="bilinear", align_corners=False)
        grid = self.orientation.to_source(grown[0].numpy(force=True))
        return np.ascontiguousarray(grid, dtype=np.float32)


def prepare(
    pixels: NDArray[np.uint16],
    orientation: Orientation,
    row_height_over_width: float,
    size: int,
) -> Prepared:
    """Turn upright, make pixels square, fit into size x size, window, standardise.

    `pixels` is (rows, columns), bright = dense; `row_height_over_width` is that of a source pixel.
    Raises ValueError when an argument cannot describe an image.
    """
    if pixels.ndim != 2 or 0 in pixels.shape:  # noqa: PLR2004  rows and columns
        msg = f"pixels must be a non-empty (rows, columns) grid, not {pixels.shape}"
        raise ValueError(msg)
    if not row_height_over_width > 0:
        msg = f"row_height_over_width must be positive, not {row_height_over_width}"
        raise ValueError(msg)
    upright = fit(pixels, orientation, row_height_over_width, size)
    box = fit_box(pixels.shape, orientation, row_height_over_width, size)
    low, high = window_bounds(pixels)
    inside = ((upright - low) / max(high - low, 1.0)).clamp(0.0, 1.0)
    windowed = _pad(inside, box, size)
    return Prepared(
        tensor=standardise(windowed, _pad(torch.ones_like(inside), box, size)),
        windowed=windowed,
        box=box,
        source_shape=(pixels.shape[0], pixels.shape[1]),
        orientation=orientation,
    )


def fit_box(
    shape: tuple[int, ...], orientation: Orientation, row_height_over_width: float, size: int
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) that a (rows, columns) grid takes in the square, upright.

    Every pixel keeps its share: height and width are never below 1.
    """
    tall, wide = shape[0] * row_height_over_width, float(shape[1])
    if orientation.transpose:
        tall, wide = wide, tall
    scale = size / max(tall, wide)
    height = min(size, max(1, round(tall * scale)))
    width = min(size, max(1, round(wide * scale)))
    return (size - height) // 2, (size - width) // 2, height, width


def fit(
    grid: NDArray[np.generic], orientation: Orientation, row_height_over_width: float, size: int
) -> torch.Tensor:
    """Resize an upright copy of (rows, columns) to its box; float32 (1, 1, height, width).

    The resize is antialiased, so the result does not depend on the sampling of a finer source.
    """
    *_, height, width = fit_box(grid.shape, orientation, row_height_over_width, size)
    upright = np.ascontiguousarray(orientation.to_upright(grid), dtype=np.float32)
    return functional.interpolate(
        torch.from_numpy(upright)[None, None],
        size=(height, width),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )


def window_bounds(pixels: NDArray[np.uint16]) -> tuple[float, float]:
    """Return the 1st and 99th percentile of the grid: they ignore markers and collimator edges."""
    step = max(1, min(pixels.shape) // 512)
    counts = np.bincount(pixels[::step, ::step].ravel(), minlength=_BINS)
    cumulative = np.cumsum(counts)
    low, high = (
        int(np.searchsorted(cumulative, cumulative[-1] * p / 100.0)) for p in WINDOW_PERCENTILES
    )
    return float(low), float(high)


def standardise(windowed: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over `inside` (1 in the image, 0 in the padding); batch-wise.

    Both are float (batch, 1, size, size). The padding becomes 0, the mean of the image.
    """
    axes = (1, 2, 3)
    total = inside.sum(dim=axes, keepdim=True).clamp(min=1.0)
    mean = (windowed * inside).sum(dim=axes, keepdim=True) / total
    centred = (windowed - mean) * inside
    deviation = (centred.square().sum(dim=axes, keepdim=True) / total).sqrt()
    return centred / deviation.clamp(min=_DEVIATION_FLOOR)


def _pad(inside: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    top, left, height, width = box
    sides = (left, size - left - width, top, size - top - height)
    return functional.pad(inside, sides)
