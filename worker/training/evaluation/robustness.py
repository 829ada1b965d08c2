"""The same pictures made worse, a little and a lot: what happens to overlap and percentage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from worker.preprocess import window_bounds
from worker.training.cases import Case
from worker.training.evaluation.estimates import Estimate, Indices, Sampling, ratio
from worker.training.evaluation.measured import Measured, Segment, compare, reading_of
from worker.types import LungMasks, Mask

Pixels = NDArray[np.uint16]
Change = Callable[[Pixels, float, np.random.Generator], Pixels]
_TOP: Final = 65535.0


@dataclass(frozen=True)
class Perturbation:
    """One way to make a picture worse, weakest first. What `turns` moves the reading as well."""

    name: str
    label: str
    unit: str
    strengths: tuple[float, ...]
    change: Change
    turns: bool = False


@dataclass(frozen=True)
class RobustnessRow:
    """All pictures at one strength, beside the same pictures untouched.

    `percent_shift` is the mean of measured minus measured untouched, in points, `percent_change`
    that of its absolute value.
    """

    perturbation: str
    strength: float
    dice_pooled: Estimate
    dice_change: Estimate
    lung_dice: float | None
    percent_shift: float
    percent_change: float
    without_lungs: int


def _noise(pixels: Pixels, strength: float, random: np.random.Generator) -> Pixels:
    low, high = window_bounds(pixels)
    deviation = strength / 100.0 * max(high - low, 1.0)
    return _rounded(pixels + random.normal(0.0, deviation, pixels.shape))


def _blur(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    sigma = strength / 100.0 * max(pixels.shape)
    return _rounded(ndimage.gaussian_filter(pixels.astype(np.float32), sigma))


def _gamma(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    return _rounded(_TOP * (pixels / _TOP) ** strength)


def _rotate(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    return _rounded(ndimage.rotate(pixels.astype(np.float32), strength, reshape=False, order=1))


def _window(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    low, high = window_bounds(pixels)
    cut = strength / 100.0 * (high - low)
    span = max(high - low - 2 * cut, 1.0)
    return _rounded(np.clip((pixels - low - cut) / span, 0.0, 1.0) * _TOP)


def _jpeg(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    buffer = BytesIO()
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(buffer, "JPEG", quality=int(strength))
    with Image.open(buffer) as picture:
        return np.asarray(picture, dtype=np.uint16) * np.uint16(257)


def _coarse(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    """Resample to a long side of `strength` pixels and back: the grid stays, the detail goes."""
    rows, columns = pixels.shape
    scale = strength / max(rows, columns)
    small = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    picture = Image.fromarray(pixels.astype(np.float32))
    coarse = picture.resize(small, Image.Resampling.BOX).resize(
        (columns, rows), Image.Resampling.BILINEAR
    )
    return _rounded(np.asarray(coarse))


def _rounded(values: NDArray[Any]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, _TOP).astype(np.uint16)
    return rounded


PERTURBATIONS: Final = (
    Perturbation("noise", "Noise", "SD, % of the grey range", (2, 5, 10, 20), _noise),
    Perturbation("blur", "Blur", "sigma, % of the long side", (0.25, 0.5, 1, 2), _blur),
    Perturbation("contrast", "Contrast", "gamma", (0.5, 0.7, 1.4, 2), _gamma),
    Perturbation("window", "Narrow window", "% cut off at each end", (5, 10, 20, 30), _window),
    Perturbation("rotation", "Rotation", "degrees", (-15, -10, -5, 5, 10, 15), _rotate, turns=True),
    Perturbation("jpeg", "JPEG", "quality", (50, 30, 10, 5), _jpeg),
    Perturbation("resolution", "Resolution", "long side, pixels", (384, 256, 128, 64), _coarse),
)


def robustness_rows(
    segment: Segment,
    cases: Sequence[Case],
    sampling: Sampling,
    perturbations: Sequence[Perturbation] = PERTURBATIONS,
    advance: Callable[[], None] = lambda: None,
) -> list[RobustnessRow]:
    """Measure every case untouched and at every strength; `advance` is called after each case."""
    untouched: list[Measured] = []
    found: dict[tuple[str, float], list[Measured]] = {}
    for number, case in enumerate(cases):
        pixels = case.pixels()
        reading = reading_of(case, pixels.shape)
        untouched.append(compare(case, segment(pixels), reading))
        for kind in perturbations:
            for step, strength in enumerate(kind.strengths):
                random = np.random.default_rng([sampling.seed, number, step])
                worse = kind.change(pixels, strength, random)
                moved = _turned(reading, strength) if kind.turns else reading
                row = compare(case, segment(worse), moved)
                found.setdefault((kind.name, strength), []).append(row)
        advance()
    return [
        _row(name, strength, rows, untouched, sampling) for (name, strength), rows in found.items()
    ]


def _turned(reading: LungMasks, degrees: float) -> LungMasks:
    def turn(mask: Mask) -> Mask:
        turned: Mask = ndimage.rotate(mask.astype(np.uint8), degrees, reshape=False, order=0) > 0
        return turned

    return LungMasks(turn(reading.left), turn(reading.right), turn(reading.opacity))


def _row(
    name: str,
    strength: float,
    rows: Sequence[Measured],
    untouched: Sequence[Measured],
    sampling: Sampling,
) -> RobustnessRow:
    part, whole = _areas(rows)
    part_before, whole_before = _areas(untouched)
    now, before = ratio(part, whole), ratio(part_before, whole_before)

    def change(drawn: Indices) -> float:
        return now(drawn) - before(drawn)

    shifts = np.array(
        [row.percent - first.percent for row, first in zip(rows, untouched, strict=True)]
    )
    lungs = [row.lung_dice for row in rows if row.lung_dice is not None]
    bootstrap = sampling.over([row.patient for row in rows])
    return RobustnessRow(
        perturbation=name,
        strength=strength,
        dice_pooled=bootstrap.estimate(now),
        dice_change=bootstrap.estimate(change),
        lung_dice=float(np.mean(lungs)) if lungs else None,
        percent_shift=float(shifts.mean()),
        percent_change=float(np.abs(shifts).mean()),
        without_lungs=sum(not row.lungs_found for row in rows),
    )


def _areas(rows: Sequence[Measured]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    both = np.array([2.0 * row.opacity.both for row in rows])
    return both, np.array([float(row.opacity.measured + row.opacity.true) for row in rows])
