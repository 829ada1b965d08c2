"""The frozen values that the steps of the pipeline hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from models.reasons import Reason
from worker.grey_scale import AS_STORED, GreyScale

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset

Mask = NDArray[np.bool_]
Side = Literal["total", "left", "right"]
SIDES: tuple[Side, ...] = ("total", "left", "right")


class SpacingBasis(StrEnum):
    """What a pixel spacing means (PS3.3 10.7.1)."""

    CALIBRATED = "calibrated"
    DETECTOR_PLANE = "detector_plane"
    MAGNIFICATION_CORRECTED = "magnification_corrected"
    FILM_SCAN = "film_scan"


class Severity(StrEnum):
    """Bands of the total opacity percentage; the bounds are a setting."""

    NONE = "none"
    MILD = "mild"
    MODERATE = "moderate"
    SEVERE = "severe"


class Zone(StrEnum):
    """A third of one lung's height, named from the patient's side."""

    RIGHT_UPPER = "right_upper"
    RIGHT_MIDDLE = "right_middle"
    RIGHT_LOWER = "right_lower"
    LEFT_UPPER = "left_upper"
    LEFT_MIDDLE = "left_middle"
    LEFT_LOWER = "left_lower"

    @property
    def side(self) -> Side:
        """The lung that the zone is a part of."""
        return "left" if self.value.startswith("left") else "right"


class Caveat(StrEnum):
    """Why an analysed image's figure deserves a second look; SR, database and listings carry it."""

    UNCERTAIN = "uncertain"
    INVERTED = "inverted"
    MIRRORED = "mirrored"
    ONE_LUNG = "one_lung"


CAVEAT_SENTENCES: dict[Caveat, str] = {
    Caveat.UNCERTAIN: "Much of the lungs' outline is in doubt, and the percentage with it.",
    Caveat.INVERTED: "The grey scale of the image was inverted and was corrected before analysis.",
    Caveat.MIRRORED: "The heart lies on the other side: left and right may be swapped, "
    "or the patient has dextrocardia.",
    Caveat.ONE_LUNG: "One lung field is missing or small: the total leaves most of that side out.",
}


@dataclass(frozen=True)
class Spacing:
    """Size of one source pixel in mm, and where that size is true."""

    row_mm: float
    column_mm: float
    basis: SpacingBasis


@dataclass(frozen=True)
class Orientation:
    """How to turn the source grid upright: the patient's left at the image's right, feet down.

    Applied in this order: transpose, then flip_rows (up-down), then flip_columns (left-right).
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    assumed: bool = False

    def to_upright(self, grid: NDArray[np.generic]) -> NDArray[np.generic]:
        """Turn the last two axes (rows, columns) of a source grid upright."""
        if self.transpose:
            grid = np.swapaxes(grid, -1, -2)
        if self.flip_rows:
            grid = grid[..., ::-1, :]
        return grid[..., ::-1] if self.flip_columns else grid

    def to_source(self, grid: NDArray[np.generic]) -> NDArray[np.generic]:
        """Undo `to_upright` exactly."""
        if self.flip_columns:
            grid = grid[..., ::-1]
        if self.flip_rows:
            grid = grid[..., ::-1, :]
        return np.swapaxes(grid, -1, -2) if self.transpose else grid


@dataclass(frozen=True)
class ChestImage:
    """One radiograph on the display scale, on the grid of the source.

    `pixels` is uint16 (rows, columns), 0..65535, bright = dense tissue, whatever the photometric
    interpretation was. `header` is a normalised copy of the source's attributes without pixels:
    UTF-8, legal dates, only the attributes that derived objects need.
    `row_height_over_width` is the height of a source pixel over its width (1.0 when square).
    """

    pixels: NDArray[np.uint16]
    header: "Dataset"
    spacing: Spacing | None
    orientation: Orientation
    row_height_over_width: float = 1.0
    notes: tuple[str, ...] = ()
    grey_scale: GreyScale = AS_STORED  # how `pixels` came from the stored values


@dataclass(frozen=True)
class LungMasks:
    """Boolean masks (rows, columns) on the source grid; opacity lies inside the lungs."""

    left: Mask
    right: Mask
    opacity: Mask


@dataclass(frozen=True)
class SideMeasurement:
    """Areas of one side. `percent` and its band are None when that side has no lung pixels."""

    lung_pixels: int
    opacity_pixels: int
    percent: float | None
    lung_area_mm2: float | None
    opacity_area_mm2: float | None
    severity: Severity | None = None


@dataclass(frozen=True)
class ZoneMeasurement:
    """Opaque share of one zone and its grade 0..3; None when the zone has no lung pixels."""

    percent: float | None
    grade: int | None


@dataclass(frozen=True)
class ZoneScore:
    """The six zones of one image; all six are always there."""

    zones: dict[Zone, ZoneMeasurement]

    def score(self, side: Side) -> int | None:
        """Return the sum of the grades: 0..9 of one lung, 0..18 of both.

        None when a zone of them has no grade: a sum over fewer zones would look like less disease.
        """
        grades = [it.grade for zone, it in self.zones.items() if side in {zone.side, "total"}]
        known = [grade for grade in grades if grade is not None]
        return sum(known) if len(known) == len(grades) else None


@dataclass(frozen=True)
class Measurements:
    """What the report says of one image."""

    total: SideMeasurement
    left: SideMeasurement
    right: SideMeasurement
    severity: Severity
    zones: ZoneScore | None = None  # None: the setting is off

    def side(self, side: Side) -> SideMeasurement:
        """Return the measurement of `side`."""
        return {"total": self.total, "left": self.left, "right": self.right}[side]


@dataclass(frozen=True)
class ModelIdentity:
    """Name, version and weights hash: together they say which network made a result."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Classification:
    """What the experimental classifier says of one image: a probability for each label."""

    model: ModelIdentity
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def text(self) -> str:
        """The statement as people read it, its standing first."""
        parts = zip(self.labels, self.probabilities, strict=True)
        stated = ", ".join(f"{label} {probability:.2f}" for label, probability in parts)
        return f"experimental, not validated: {stated}"

    def as_row(self) -> dict[str, object]:
        """Return plain values for a column."""
        return {
            "model": vars(self.model),
            "labels": list(self.labels),
            "probabilities": list(self.probabilities),
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """Return what `as_row` was made of."""
        return cls(ModelIdentity(**row["model"]), tuple(row["labels"]), tuple(row["probabilities"]))


@dataclass(frozen=True)
class AnalysedImage:
    """One image with everything measured on it; what SEG, SR and pictures are made from."""

    image: ChestImage
    masks: LungMasks
    measurements: Measurements
    model: ModelIdentity
    configuration_hash: str
    data_set_sha256: str
    seconds: float
    device: str
    caveats: tuple[Caveat, ...] = ()
    classification: Classification | None = None  # None: the setting is off
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds: decode, gate, ...


@dataclass(frozen=True, order=True)
class UnanalysedImage:
    """An object of the study that was received and got no figures, and why."""

    sop_instance_uid: str
    sop_class_uid: str
    reason: Reason

    @property
    def is_listed(self) -> bool:
        """Whether the study's report names it.

        Our own results and documents (SR, PDF, presentation states) are no images of the study. An
        unknown SOP Class may be one: nothing is left out on suspicion.
        """
        uid = UID(self.sop_class_uid)
        is_unknown = uid.name == self.sop_class_uid
        return self.reason is not Reason.OWN_RESULT and (is_unknown or "Image Storage" in uid.name)


@dataclass(frozen=True)
class FileOutcome:
    """The status of one file of `dicom-worker analyse`."""

    path: "Path"
    status: Literal["analysed", "not_analysed", "failed"]
    reason: str | None = None
    detail: str | None = None
    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    analysed: AnalysedImage | None = field(default=None, repr=False)
