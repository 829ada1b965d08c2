"""Labelled radiographs of a data folder, decoded once into square arrays.

The folder holds `cxr/cases.csv` with `images/` and `masks/` (bits: 1 left lung, 2 right lung,
4 ground glass, 8 consolidation) and `cxr/normals.csv` with `normals/`. The split is by patient, as
the table gives it. Images under a no-derivatives licence never train.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from worker.preprocess import fit, fit_box, prepare
from worker.training.phantom import make_phantom
from worker.types import Mask, Orientation

DATA_VARIABLE: Final = "DICOM_NODE_TEST_DATA"
DEFAULT_DATA: Final = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
HELD_OUT_NORMALS: Final = 2
_LEFT, _RIGHT, _OPACITY = 1, 2, 4 | 8
_UPRIGHT: Final = Orientation()


@dataclass(frozen=True)
class Case:
    """One row of a table: where its picture is and what of it was read."""

    name: str
    image: Path
    mask: Path | None
    split: str
    source: str
    has_lung: bool
    has_opacity: bool
    licence: str

    def pixels(self) -> NDArray[np.uint16]:
        """Decode to uint16 (rows, columns) on 0..65535, bright = dense."""
        with Image.open(self.image) as picture:
            grey = np.asarray(picture.convert("L"), dtype=np.uint16)
        return grey * np.uint16(257)

    def masks(self) -> tuple[Mask, Mask, Mask]:
        """Return the reader's (left, right, opacity) on the grid of the picture.

        Raises ValueError for a case without a mask.
        """
        if self.mask is None:
            msg = f"case {self.name} has no mask"
            raise ValueError(msg)
        with Image.open(self.mask) as picture:
            bits = np.asarray(picture, dtype=np.uint8)
        return (bits & _LEFT) > 0, (bits & _RIGHT) > 0, (bits & _OPACITY) > 0


@dataclass(frozen=True)
class Samples:
    """Cases of one kind in memory: uint8 (cases, channels, size, size), 0..255 for 0..1.

    `images` has 1 channel, `targets` 3 (left, right, opacity), `supervised` 3 (where the target was
    judged), `inside` 1 (picture, not padding).
    """

    images: torch.Tensor
    targets: torch.Tensor
    supervised: torch.Tensor
    inside: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


def data_folder(given: Path | None = None) -> Path:
    """Return the folder given, else that of the environment, else the default beside the repo.

    Raises FileNotFoundError when it has no labelled radiographs.
    """
    folder = given or Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
    if not (folder / "cxr" / "cases.csv").is_file():
        msg = f"no cxr/cases.csv in {folder}: give the data folder or set {DATA_VARIABLE}"
        raise FileNotFoundError(msg)
    return folder


def labelled_cases(folder: Path, split: str) -> list[Case]:
    """Read the labelled cases of one split, in table order; no-derivatives pictures left out."""
    root = folder / "cxr"
    with (root / "cases.csv").open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split]
    return [
        Case(
            name=row["case"],
            image=root / "images" / f"{row['case']}.jpg",
            mask=root / "masks" / f"{row['case']}.png",
            split=split,
            source=row["lung_source"] or "gb",
            has_lung=row["has_lung"] == "1",
            has_opacity=row["has_opacity"] == "1",
            licence=row["license"].strip() or "none stated",
        )
        for row in rows
        if split == "test" or "ND" not in row["license"]
    ]


def normal_cases(folder: Path) -> tuple[list[Case], list[Case]]:
    """Return the full-quality normals as (training, held out), held out by table order."""
    root = folder / "cxr"
    with (root / "normals.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    cases = [
        Case(
            name=row["case"],
            image=root / "normals" / f"{row['case']}.jpg",
            mask=None,
            split="train" if number < len(rows) - HELD_OUT_NORMALS else "test",
            source="normals",
            has_lung=False,
            has_opacity=True,
            licence=row["licence"],
        )
        for number, row in enumerate(rows)
    ]
    return [c for c in cases if c.split == "train"], [c for c in cases if c.split == "test"]


def manifest_sha256(folder: Path) -> str:
    """SHA-256 over the two tables: says which rows a model could have seen."""
    digest = hashlib.sha256()
    for name in ("cases.csv", "normals.csv"):
        digest.update((folder / "cxr" / name).read_bytes())
    return digest.hexdigest()


def licence_counts(folder: Path) -> dict[str, int]:
    """Count the labelled training pictures under each licence, most frequent first."""
    return dict(Counter(case.licence for case in labelled_cases(folder, "train")).most_common())


def load_cases(cases: Iterable[Case], size: int) -> Samples:
    """Decode, fit and stack cases. Lung-only cases judge opacity outside the lungs only."""
    return _stack([_load_case(case, size) for case in cases])


def load_phantoms(seeds: Iterable[int], size: int) -> Samples:
    """Draw frontal phantoms; every third has no opacity. They are judged everywhere."""
    drawn = []
    for seed in seeds:
        percent = 0.0 if seed % 3 == 0 else None
        phantom = make_phantom(seed, round(size * 1.5), percent)
        masks = (phantom.left, phantom.right, phantom.opacity)
        drawn.append(_square(phantom.pixels, masks, np.ones(3, dtype=bool), size))
    return _stack(drawn)


def _load_case(case: Case, size: int) -> tuple[torch.Tensor, ...]:
    pixels = case.pixels()
    if case.mask is None:
        nothing = np.zeros(pixels.shape, dtype=np.bool_)
        judged = np.array([False, False, True])
        return _square(pixels, (nothing, nothing, nothing), judged, size)
    judged = np.array([case.has_lung, case.has_lung, True])
    image, target, supervised, inside = _square(pixels, case.masks(), judged, size)
    if not case.has_opacity:
        lungs = target[:2].amax(dim=0)
        supervised[2] *= (lungs == 0).byte()
    return image, target, supervised, inside


def _square(
    pixels: NDArray[np.uint16], masks: tuple[Mask, ...], judged: NDArray[np.bool_], size: int
) -> tuple[torch.Tensor, ...]:
    prepared = prepare(pixels, _UPRIGHT, 1.0, size)
    top, left, height, width = fit_box(pixels.shape, _UPRIGHT, 1.0, size)
    rows, columns = slice(top, top + height), slice(left, left + width)
    target = torch.zeros((3, size, size), dtype=torch.uint8)
    for channel, mask in enumerate(masks):
        target[channel, rows, columns] = (fit(mask, _UPRIGHT, 1.0, size)[0, 0] * 255).round().byte()
    inside = torch.zeros((1, size, size), dtype=torch.uint8)
    inside[:, rows, columns] = 255
    supervised = torch.from_numpy(judged.astype(np.uint8))[:, None, None] * inside
    image = (prepared.windowed[0] * 255).round().byte()
    return image, target, supervised, inside


def _stack(loaded: list[tuple[torch.Tensor, ...]]) -> Samples:
    images, targets, supervised, inside = (
        torch.stack(parts) for parts in zip(*loaded, strict=True)
    )
    return Samples(images=images, targets=targets, supervised=supervised, inside=inside)
