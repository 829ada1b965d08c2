"""Pictures that the view network learns from and is measured on, as squares in memory.

Nobody gave us pictures of what is no chest, so none of the DICOM files is learnt from: they stay
what the gate is measured on. Patients of the measured part never train.
"""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from worker.preprocess import prepare
from worker.training.phantom import View as PhantomView
from worker.training.phantom import make_phantom
from worker.types import Orientation

Part = Literal["train", "measured"]
SQUARE: Final = 128
_FOLDERS: Final = {
    "cases": "images",
    "unlabelled": "unlabelled",
    "normals": "normals",
    "nih": "nih",
}
_GREY: Final = 257
_MEASURED_NORMALS: Final = 2
_MEASURED_NIH: Final = 52  # of 256: a fifth of the patients
_UPSIDE_DOWN: Final = frozenset({"hb8ee7ac3"})  # stored so at its source; it teaches nonsense


@dataclass(frozen=True)
class Picture:
    """One row of a table of frontal radiographs."""

    table: str
    name: str
    path: Path
    part: Part
    row: dict[str, str]

    def pixels(self) -> NDArray[np.uint16]:
        """Decode to uint16 (rows, columns) on 0..65535, bright = dense."""
        with Image.open(self.path) as picture:
            grey = np.asarray(picture.convert("L"), dtype=np.uint16)
        return grey * np.uint16(_GREY)


@dataclass(frozen=True)
class Squares:
    """Float (pictures, 1, 128, 128) on 0..1 with zero padding, and 1 where the picture is."""

    windowed: torch.Tensor
    inside: torch.Tensor

    def __len__(self) -> int:
        return len(self.windowed)

    def __getitem__(self, chosen: torch.Tensor) -> "Squares":
        return Squares(self.windowed[chosen], self.inside[chosen])


def frontal_pictures(data: Path) -> list[Picture]:
    """List every frontal radiograph of the data folder, in table order."""
    pictures = []
    for table, folder in _FOLDERS.items():
        with (data / "cxr" / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for number, row in enumerate(rows):
            path = data / "cxr" / folder / f"{row['case']}.jpg"
            part = _part(table, row, len(rows) - number)
            pictures.append(Picture(table, row["case"], path, part, row))
    return pictures


def training_pictures(data: Path) -> list[Picture]:
    """Return the pictures that may train: their patient, their licence, their quality."""
    pictures = frontal_pictures(data)
    return [it for it in pictures if it.part == "train" and it.name not in _UPSIDE_DOWN]


def load_squares(pictures: Iterable[NDArray[np.uint16]]) -> Squares:
    """Shrink upright pictures into squares."""
    windowed, inside = [], []
    for pixels in pictures:
        prepared = prepare(pixels, Orientation(), 1.0, SQUARE)
        top, left, height, width = prepared.box
        covered = torch.zeros_like(prepared.windowed)
        covered[..., top : top + height, left : left + width] = 1.0
        windowed.append(prepared.windowed)
        inside.append(covered)
    return Squares(torch.cat(windowed), torch.cat(inside))


def phantom_squares(seeds: Iterable[int], views: tuple[PhantomView, ...]) -> Squares:
    """Draw phantoms, the views in turn."""
    drawn = (
        make_phantom(seed, 2 * SQUARE, None, views[number % len(views)]).pixels
        for number, seed in enumerate(seeds)
    )
    return load_squares(drawn)


def _part(table: str, row: dict[str, str], left: int) -> Part:
    """Say which part a row belongs to; a no-derivatives licence does not train either."""
    if table == "nih":
        drawn = hashlib.sha256(row["patientid"].encode()).digest()[0]
        measured = drawn < _MEASURED_NIH
    elif table == "normals":
        measured = left <= _MEASURED_NORMALS
    else:
        measured = row["split"] != "train" or "ND" in row["license"]
    return "measured" if measured else "train"
