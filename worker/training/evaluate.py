"""Figures of a model on radiographs it has not seen, through the same path as a real file.

Dice, precision and recall are of pixels on the picture's grid; percentages are opacity over lung
pixels, 0..100; errors are in percentage points.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from worker.inference import Segmenter
from worker.training.cases import Case
from worker.training.datasets import labelled_cases, normal_cases
from worker.training.phantom import make_phantom
from worker.types import ChestImage, LungMasks, Mask, Orientation

Figures = dict[str, float | int]
Segment = Callable[[NDArray[np.uint16]], LungMasks]
TEST_PHANTOM_SEEDS: Final = range(500_000, 500_040)
_PHANTOM_ROWS: Final = 512


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a measured mask against a true one; they add up over images."""

    both: int = 0
    measured: int = 0
    true: int = 0

    @classmethod
    def of(cls, measured: Mask, true: Mask) -> "Overlap":
        """Count one image."""
        return cls(int((measured & true).sum()), int(measured.sum()), int(true.sum()))

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.both + other.both, self.measured + other.measured, self.true + other.true
        )

    @property
    def dice(self) -> float:
        """Twice the overlap over both areas; 1 when both are empty."""
        areas = self.measured + self.true
        return 2 * self.both / areas if areas else 1.0

    @property
    def precision(self) -> float:
        """Share of the measured area that is true; 1 when nothing was measured."""
        return self.both / self.measured if self.measured else 1.0

    @property
    def recall(self) -> float:
        """Share of the true area that was measured; 1 when there is none."""
        return self.both / self.true if self.true else 1.0


def segment_with(segmenter: Segmenter, threshold: float | None = None) -> Segment:
    """Return a function from upright pixels with square spacing to masks."""

    def segment(pixels: NDArray[np.uint16]) -> LungMasks:
        image = ChestImage(pixels=pixels, header=Dataset(), spacing=None, orientation=Orientation())
        return segmenter.segment(image, threshold)

    return segment


def percent(masks: LungMasks) -> float:
    """Opacity over lung pixels of both sides, 0..100; 0 without lungs."""
    lungs = masks.left | masks.right
    pixels = int(lungs.sum())
    return 100.0 * int((masks.opacity & lungs).sum()) / pixels if pixels else 0.0


def measure(segment: Segment, data: Path) -> Figures:
    """Measure on the labelled test part, the normals and unseen phantoms of a data folder."""
    cases = labelled_cases(data, "test")
    figures = opacity_figures(segment, [case for case in cases if case.has_opacity])
    figures |= lung_figures(segment, [case for case in cases if case.has_lung])
    figures |= normal_figures(segment, normal_cases(data))
    return figures | phantom_figures(segment, TEST_PHANTOM_SEEDS)


def opacity_figures(segment: Segment, cases: Iterable[Case]) -> Figures:
    """Opacity against the reader, clipped to the reader's lungs on his side only."""
    overlaps, errors = [], []
    for case in cases:
        left, right, opacity = case.masks()
        measured = segment(case.pixels())
        reader = LungMasks(left=left, right=right, opacity=opacity & (left | right))
        overlaps.append(Overlap.of(measured.opacity, opacity))
        errors.append(percent(measured) - percent(reader))
    pooled = sum(overlaps, Overlap())
    return {
        "opacity_images": len(overlaps),
        "opacity_dice_pooled": pooled.dice,
        "opacity_dice_mean": float(np.mean([overlap.dice for overlap in overlaps])),
        "opacity_precision": pooled.precision,
        "opacity_recall": pooled.recall,
        "percent_mae": float(np.mean(np.abs(errors))),
        "percent_bias": float(np.mean(errors)),
    }


def lung_figures(segment: Segment, cases: Iterable[Case]) -> Figures:
    """Mean Dice of both lungs together and of each side, by the source of the reading."""
    dice: dict[str, list[float]] = {}
    for case in cases:
        left, right, _ = case.masks()
        measured = segment(case.pixels())
        pairs = {
            f"lungs_dice_{case.source}": (measured.left | measured.right, left | right),
            "left_lung_dice": (measured.left, left),
            "right_lung_dice": (measured.right, right),
        }
        for name, pair in pairs.items():
            dice.setdefault(name, []).append(Overlap.of(*pair).dice)
    return {name: float(np.mean(values)) for name, values in dice.items()}


def normal_figures(segment: Segment, normals: tuple[Sequence[Case], Sequence[Case]]) -> Figures:
    """Percentage on pictures read as normal, where every point is a false alarm."""
    trained, held_out = ([percent(segment(case.pixels())) for case in part] for part in normals)
    return {
        "normals_held_out": len(held_out),
        "normals_held_out_percent_max": max(held_out),
        "normals_trained_percent_median": float(np.median(trained)),
        "normals_trained_percent_max": max(trained),
    }


def phantom_figures(segment: Segment, seeds: Sequence[int]) -> Figures:
    """Known against measured percentage of phantoms; every other one has none."""
    errors, alarms = [], []
    for number, seed in enumerate(seeds):
        clear = number % 2 == 0
        phantom = make_phantom(
            seed, _PHANTOM_ROWS, 0.0 if clear else None, "AP" if number % 4 else "PA"
        )
        found = percent(segment(phantom.pixels))
        if clear:
            alarms.append(found)
        else:
            errors.append(found - (phantom.percent or 0.0))
    return {
        "phantoms": len(seeds),
        "phantom_percent_mae": float(np.mean(np.abs(errors))),
        "phantom_percent_max_error": float(np.max(np.abs(errors))),
        "phantom_clear_percent_max": max(alarms),
    }
