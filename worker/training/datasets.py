"""Labelled radiographs of a data folder, decoded once into square arrays.

The folder holds a manifest or the tables of `cxr` (worker.training.cases). The split is by patient,
as they give it. Images under a no-derivatives licence never train.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worker.preprocess import fit, fit_box, prepare
from worker.training.cases import MANIFEST, Case, cases_sha256, load_manifest
from worker.training.phantom import make_phantom
from worker.types import Mask, Orientation

DATA_VARIABLE: Final = "DICOM_NODE_TEST_DATA"
DEFAULT_DATA: Final = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
_UPRIGHT: Final = Orientation()


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
    if not any((folder / name).is_file() for name in (MANIFEST, "cxr/cases.csv")):
        msg = f"no {MANIFEST} and no cxr/cases.csv in {folder}: give the data folder or set "
        raise FileNotFoundError(msg + DATA_VARIABLE)
    return folder


def manifest_sha256(folder: Path) -> str:
    """SHA-256 of the manifest of a data folder: says which cases a model could have seen."""
    return cases_sha256(load_manifest(folder), folder)


def licence_counts(cases: Iterable[Case]) -> dict[str, int]:
    """Count the pictures under each licence, most frequent first."""
    return dict(Counter(case.licence for case in cases).most_common())


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
    if case.labels is None and case.normal:
        nothing = np.zeros(pixels.shape, dtype=np.bool_)
        judged = np.array([False, False, True])
        return _square(pixels, (nothing, nothing, nothing), judged, size)
    judged = np.array([case.has_lung, case.has_lung, True])
    image, target, supervised, inside = _square(pixels, case.masks(), judged, size)
    if not (case.has_opacity or case.normal):
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
