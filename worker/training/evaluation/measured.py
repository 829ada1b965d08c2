"""What a model found on one picture, beside what was read of it.

Overlaps count pixels on the picture's grid; percentages are opacity over lung pixels, 0..100.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from worker.inference import Segmenter
from worker.training.cases import Case
from worker.training.curves import THRESHOLDS, CaseCurve, Kind
from worker.types import ChestImage, LungMasks, Mask, Orientation

Segment = Callable[[NDArray[np.uint16]], LungMasks]
NOT_STATED: Final = "not stated"


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
    def iou(self) -> float:
        """The overlap over the area of either; 1 when both are empty."""
        either = self.measured + self.true - self.both
        return self.both / either if either else 1.0

    @property
    def precision(self) -> float:
        """Share of the measured area that is true; 1 when nothing was measured."""
        return self.both / self.measured if self.measured else 1.0

    @property
    def recall(self) -> float:
        """Share of the true area that was measured; 1 when there is none."""
        return self.both / self.true if self.true else 1.0


@dataclass(frozen=True)
class Measured:
    """One picture at one threshold. None stands for what was not read."""

    case: str
    patient: str
    source: str
    view: str
    kind: Kind
    opacity: Overlap
    percent: float
    true_percent: float | None = None
    lung_dice: float | None = None
    left_dice: float | None = None
    right_dice: float | None = None
    lungs_found: bool = True

    @property
    def error(self) -> float | None:
        """Measured minus the reader's percentage, in points."""
        return None if self.true_percent is None else self.percent - self.true_percent


def chest_image(pixels: NDArray[np.uint16]) -> ChestImage:
    """Return upright pixels with square spacing as a model takes them."""
    return ChestImage(pixels=pixels, header=Dataset(), spacing=None, orientation=Orientation())


def segment_with(segmenter: Segmenter, threshold: float | None = None) -> Segment:
    """Return a function from upright pixels with square spacing to masks."""
    return lambda pixels: segmenter.segment(chest_image(pixels), threshold)


def percent(masks: LungMasks) -> float:
    """Opacity over lung pixels of both sides, 0..100; 0 without lungs."""
    lungs = masks.left | masks.right
    pixels = int(lungs.sum())
    return 100.0 * int((masks.opacity & lungs).sum()) / pixels if pixels else 0.0


def reading_of(case: Case, shape: tuple[int, ...]) -> LungMasks:
    """Return what was read of a case; what was not read is empty, a normal has no opacity."""
    nothing = np.zeros(shape, dtype=np.bool_)
    if case.labels is None:
        return LungMasks(left=nothing, right=nothing, opacity=nothing)
    left, right, opacity = case.masks()
    judged = case.has_opacity and not case.normal
    return LungMasks(left=left, right=right, opacity=opacity if judged else nothing)


def kind_of(case: Case) -> Kind:
    """Return what the picture can be measured for."""
    return "normal" if case.normal else "opacity" if case.has_opacity else "lungs"


def compare(case: Case, masks: LungMasks, reading: LungMasks) -> Measured:
    """Count the masks of one picture against its reading.

    The reader's opacity counts wherever it lies; his percentage is of what lies in his lungs.
    """
    kind = kind_of(case)
    lungs, true_lungs = masks.left | masks.right, reading.left | reading.right
    true_percent = 0.0 if kind == "normal" else None
    if kind == "opacity" and case.has_lung and true_lungs.any():
        true_percent = percent(reading)
    pairs = ((lungs, true_lungs), (masks.left, reading.left), (masks.right, reading.right))
    dice = [Overlap.of(*pair).dice if case.has_lung else None for pair in pairs]
    return Measured(
        case=case.name,
        patient=case.person,
        source=case.source or NOT_STATED,
        view=view_of(case.view),
        kind=kind,
        opacity=Overlap.of(masks.opacity, reading.opacity),
        percent=percent(masks),
        true_percent=true_percent,
        lung_dice=dice[0],
        left_dice=dice[1],
        right_dice=dice[2],
        lungs_found=bool(lungs.any()),
    )


def view_of(text: str) -> str:
    """Return PA or AP (supine or not), else the text as it stands."""
    first = text.strip().upper().split(" ")[0]
    return first if first in {"PA", "AP"} else text.strip() or NOT_STATED


def from_curves(
    curves: Sequence[CaseCurve], threshold: float, known: Mapping[str, Case]
) -> list[Measured]:
    """Return the pictures of curves at the step nearest to a threshold.

    `known` tells patient and view by the name of the case; another name is a patient of its own.
    """
    number = int(np.argmin(np.abs(np.array(THRESHOLDS) - threshold)))
    rows = []
    for curve in curves:
        case = known.get(curve.case)
        rows.append(
            Measured(
                case=curve.case,
                patient=case.person if case else f"case {curve.case}",
                source=curve.source,
                view=view_of(case.view) if case else NOT_STATED,
                kind=curve.kind,
                opacity=Overlap(
                    curve.both[number], curve.measured[number], curve.true_opacity_pixels
                ),
                percent=curve.percent[number],
                true_percent=curve.true_percent,
                lung_dice=curve.lung_dice,
            )
        )
    return rows
