"""Whether a probability of opacity is one: over the pixels inside the measured lungs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.training.evaluation.estimates import Estimate, Indices, Sampling
from worker.types import Mask

BINS: Final = 20
Counts = NDArray[np.float64]


@dataclass(frozen=True)
class PixelBins:
    """Pixels of one picture by their probability: (3, BINS) of count, sum of p, opaque ones.

    `squared` is the sum of squared errors.
    """

    patient: str
    counts: Counts
    squared: float


@dataclass(frozen=True)
class Calibration:
    """Bins of all pictures together and the figures over them."""

    ece: Estimate
    brier: Estimate
    counts: tuple[float, ...]
    probability: tuple[float | None, ...]
    observed: tuple[float | None, ...]


def pixel_bins(
    patient: str, probability: NDArray[np.float32], lungs: Mask, opacity: Mask
) -> PixelBins:
    """Sort the pixels inside the lungs of one picture into bins of equal width."""
    inside = probability[lungs].astype(np.float64)
    true = opacity[lungs].astype(np.float64)
    number = np.minimum((inside * BINS).astype(np.intp), BINS - 1)
    counts = np.stack(
        [
            np.bincount(number, weights=weights, minlength=BINS).astype(np.float64)
            for weights in (np.ones_like(inside), inside, true)
        ]
    )
    return PixelBins(patient, counts, float(np.square(inside - true).sum()))


def calibrate(rows: Sequence[PixelBins], sampling: Sampling) -> Calibration:
    """Return expected calibration error and Brier score, pixels pooled, and the diagram."""
    stacked = np.stack([row.counts for row in rows])
    squared = np.array([row.squared for row in rows])

    def error(drawn: Indices) -> float:
        pixels, probability, opaque = stacked[drawn].sum(axis=0)
        total = float(pixels.sum())
        return float(np.abs(probability - opaque).sum()) / total if total else float("nan")

    def brier(drawn: Indices) -> float:
        total = float(stacked[drawn, 0].sum())
        return float(squared[drawn].sum()) / total if total else float("nan")

    bootstrap = sampling.over([row.patient for row in rows])
    pixels, probability, opaque = stacked.sum(axis=0)
    return Calibration(
        ece=bootstrap.estimate(error),
        brier=bootstrap.estimate(brier),
        counts=tuple(float(count) for count in pixels),
        probability=_shares(probability, pixels),
        observed=_shares(opaque, pixels),
    )


def _shares(part: Counts, whole: Counts) -> tuple[float | None, ...]:
    return tuple(
        float(one / every) if every else None for one, every in zip(part, whole, strict=True)
    )
