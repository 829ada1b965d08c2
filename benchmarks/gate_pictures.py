"""What the gate says of one picture or file, for `gate_table.py`, in the steps of the worker."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker import gate, header, pixels
from worker.errors import NotAnalysable
from worker.image_gate import LungShape, check_lungs, doubt_caveats, lung_caveats
from worker.inference import Segmenter
from worker.pipeline import admit, seen_square
from worker.types import Caveat, ChestImage, Orientation
from worker.view import Look

_FRONTAL: Final = "frontal chest"
_NOT_TRIED: Final = frozenset({Reason.NOT_DICOM, Reason.UNREADABLE, Reason.NO_PIXEL_DATA})


@dataclass(frozen=True)
class Outcome:
    """What became of one picture; `reason` None: it gets a number."""

    name: str
    reason: Reason | None
    caveats: tuple[Caveat, ...] = ()
    look: Look | None = None
    shape: LungShape | None = None
    doubt: float | None = None


@dataclass(frozen=True)
class FileOutcome:
    """One DICOM file: as received, and by its picture alone (None: nothing to look at)."""

    folder: str
    name: str
    is_frontal: bool
    received: Outcome
    picture: Outcome | None


def upright(grey: NDArray[np.uint16]) -> ChestImage:
    """Return a picture without a header."""
    return ChestImage(pixels=grey, header=Dataset(), spacing=None, orientation=Orientation())


def judge(name: str, image: ChestImage, model: Segmenter, settings: AnalysisSettings) -> Outcome:
    """Send a decoded picture through the gate."""
    look = model.look(seen_square(image))
    try:
        admitted = admit(image, model, settings)
        reading = model.read(admitted.prepared)
        shape = LungShape.of(reading.upright)
        check_lungs(shape, settings)
    except NotAnalysable as outcome:
        return Outcome(name, outcome.reason, look=look)
    caveats = (
        *admitted.caveats,
        *lung_caveats(shape, settings),
        *doubt_caveats(reading.doubt, settings),
    )
    return Outcome(name, None, caveats, look, shape, reading.doubt)


def judge_files(data: Path, model: Segmenter, settings: AnalysisSettings) -> Iterator[FileOutcome]:
    """Judge every DICOM file of the inventory, Secondary Captures as the settings say."""
    limits = gate.Limits(
        min_age_years=settings.min_age_years, secondary_capture=settings.secondary_capture
    )
    with (data / "dicom" / "INVENTORY.csv").open(newline="", encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["file"])
    for row in rows:
        folder, name = row["file"].split("/", 1)
        is_frontal = _FRONTAL in row["notes"].lower() and folder != "odd"
        try:
            ds = header.read_data_set(data / "dicom" / folder / name)
        except NotAnalysable as outcome:
            refused = Outcome(name, outcome.reason)
            yield FileOutcome(folder, name, is_frontal, refused, None)
            continue
        picture = _picture(name, ds, model, settings)
        received = _received(name, ds, limits, picture)
        seen = None if picture.reason in _NOT_TRIED or picture.look is None else picture
        yield FileOutcome(folder, name, is_frontal, received, seen)


def _picture(name: str, ds: Dataset, model: Segmenter, settings: AnalysisSettings) -> Outcome:
    """Judge the picture alone: every check of the header is left out."""
    try:
        image = pixels.chest_image(ds, pixels.decode_pixels(ds))
    except NotAnalysable as outcome:
        return Outcome(name, outcome.reason)
    return judge(name, image, model, settings)


def _received(name: str, ds: Dataset, limits: gate.Limits, picture: Outcome) -> Outcome:
    try:
        gate.check_header(ds, limits)
        gate.check_contrast(pixels.decode_pixels(ds))
    except NotAnalysable as outcome:
        return Outcome(name, outcome.reason)
    return picture
