"""How far the drawn boundaries lie apart: the 95th percentile of the distances (HD95).

Public pictures have no pixel spacing, so distances are pixels of the picture and percent of its
diagonal; only the latter can be compared between pictures.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance

from worker.training.evaluation.estimates import Figures, Sampling, mean, percentile
from worker.types import LungMasks, Mask

STRUCTURES: Final = ("left", "right", "opacity")


@dataclass(frozen=True)
class Boundary:
    """One structure of one picture; `pixels` is None when one of both drew nothing."""

    patient: str
    structure: str
    pixels: float | None
    diagonal: float

    @property
    def percent(self) -> float | None:
        """The distance in percent of the picture's diagonal."""
        return None if self.pixels is None else 100.0 * self.pixels / self.diagonal


def boundaries(
    patient: str, masks: LungMasks, reading: LungMasks, structures: Sequence[str] = STRUCTURES
) -> list[Boundary]:
    """Measure each structure of one picture."""
    diagonal = float(np.hypot(*masks.left.shape))
    return [
        Boundary(patient, name, hd95(getattr(masks, name), getattr(reading, name)), diagonal)
        for name in structures
    ]


def hd95(measured: Mask, true: Mask) -> float | None:
    """Return the 95th percentile of boundary distances in pixels, the larger direction of both.

    None when one mask is empty: there is no boundary to measure from.
    """
    if not (measured.any() and true.any()):
        return None
    first, second = (torch.from_numpy(mask[None, None]).float() for mask in (measured, true))
    with warnings.catch_warnings():
        # MONAI passes an argument to itself that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        distance = compute_hausdorff_distance(first, second, include_background=True, percentile=95)
    return float(distance[0, 0])


def boundary_figures(rows: Sequence[Boundary], sampling: Sampling) -> dict[str, Figures]:
    """Return median and mean per structure, over the pictures where both drew something."""
    sections: dict[str, Figures] = {}
    for name in sorted({row.structure for row in rows}):
        drawn = [row for row in rows if row.structure == name and row.pixels is not None]
        bootstrap = sampling.over([row.patient for row in drawn])
        pixels = np.array([row.pixels for row in drawn], dtype=np.float64)
        percent = np.array([row.percent for row in drawn], dtype=np.float64)
        sections[name] = {
            "pixels_median": bootstrap.estimate(percentile(pixels, 50)),
            "pixels_mean": bootstrap.estimate(mean(pixels)),
            "percent_median": bootstrap.estimate(percentile(percent, 50)),
            "percent_mean": bootstrap.estimate(mean(percent)),
        }
    return sections
