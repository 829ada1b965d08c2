"""Lungs cut out of labelled pictures, decoded once, and the random changes that they train with."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from pydicom.dataset import Dataset
from rich.progress import track
from torch.nn import functional

from worker.classifier import LungCrop, lung_crop
from worker.training.cases import Case
from worker.types import ChestImage, LungMasks, Orientation

_ROTATION: Final = math.radians(10.0)
_SCALE: Final = 0.1
_SHIFT: Final = 0.06
_LOG_GAMMA: Final = 0.4
_NOISE: Final = 0.06
_HALF: Final = 0.5


class FindsLungs(Protocol):
    """A loaded segmentation model, as `inference.Segmenter` is one."""

    def segment(self, image: ChestImage) -> LungMasks:
        """Return the masks of `image` on its source grid."""


@dataclass(frozen=True)
class Crops:
    """Cases with their crops: `images` and `inside` uint8 (cases, 1, size, size), `labels` int64.

    `labels` are numbers of classes, in the order of the cases.
    """

    cases: tuple[Case, ...]
    images: torch.Tensor
    inside: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.cases)

    def at(self, numbers: Sequence[int]) -> "Crops":
        """Return some of them, in the order of `numbers`."""
        index = torch.tensor(numbers, dtype=torch.long)
        cases = tuple(self.cases[number] for number in numbers)
        return Crops(cases, self.images[index], self.inside[index], self.labels[index])

    def relabelled(self, classes: Sequence[int]) -> "Crops":
        """Return the cases of some classes, numbered in the order given."""
        kept = [number for number, label in enumerate(self.labels.tolist()) if label in classes]
        chosen = self.at(kept)
        labels = [classes.index(label) for label in chosen.labels.tolist()]
        return Crops(chosen.cases, chosen.images, chosen.inside, torch.tensor(labels))

    def inputs(self) -> torch.Tensor:
        """Return what a network is given of them, unchanged: float32 (cases, 1, size, size)."""
        return LungCrop(self.images.float() / 255.0, (self.inside > 0).float()).tensor


def load_crops(cases: Iterable[tuple[Case, int]], finder: FindsLungs, size: int) -> Crops:
    """Decode, find the lungs and cut them out. Cases in which no lung is found are left out.

    Raises ValueError when nothing is left.
    """
    kept: list[tuple[Case, int, LungCrop]] = []
    for case, label in track(list(cases), "cutting out lungs"):
        crop = _crop(case, finder, size)
        if crop is not None:
            kept.append((case, label, crop))
    if not kept:
        msg = "no lungs were found in any picture"
        raise ValueError(msg)
    return Crops(
        cases=tuple(case for case, _, _ in kept),
        images=torch.cat([(crop.windowed * 255).round().byte() for *_, crop in kept]),
        inside=torch.cat([crop.inside.byte() for *_, crop in kept]),
        labels=torch.tensor([label for _, label, _ in kept]),
    )


def _crop(case: Case, finder: FindsLungs, size: int) -> LungCrop | None:
    upright = Orientation()
    pixels = case.pixels()
    image = ChestImage(pixels=pixels, header=Dataset(), spacing=None, orientation=upright)
    masks = finder.segment(image)
    lungs = masks.left | masks.right
    return lung_crop(pixels, lungs, upright, 1.0, size) if lungs.any() else None


def draw(
    crops: Crops, shares: Sequence[int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw `shares[label]` crops of each class, change them, return network inputs and labels."""
    chosen: list[int] = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(crops.labels.numpy() == label)
        numbers = torch.randint(len(members), (share,), generator=generator).tolist()
        chosen += members[numbers].tolist()
    batch = crops.at(chosen)
    grey = batch.images.float() / 255.0
    moved = _mirror(_move(torch.cat([grey, batch.inside.float()], dim=1), generator), generator)
    inside = (moved[:, 1:] > _HALF).float()
    return LungCrop(_grey_values(moved[:, :1], generator) * inside, inside).tensor, batch.labels


def _move(stacked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale and shift every crop by its own map."""
    count = len(stacked)
    numbers = torch.rand(4, count, generator=generator) * 2.0 - 1.0
    scale = 1.0 + _SCALE * numbers[0]
    cosine, sine = (_ROTATION * numbers[1]).cos() * scale, (_ROTATION * numbers[1]).sin() * scale
    shift = 2.0 * _SHIFT * numbers[2:]
    rows = [
        torch.stack([cosine, -sine, shift[0]], dim=1),
        torch.stack([sine, cosine, shift[1]], dim=1),
    ]
    shape = list(stacked.shape)
    grid = functional.affine_grid(torch.stack(rows, dim=1), shape, align_corners=False)
    return functional.grid_sample(stacked, grid, mode="bilinear", align_corners=False)


def _mirror(stacked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.rand(len(stacked), 1, 1, 1, generator=generator) < _HALF
    return torch.where(chosen, stacked.flip(-1), stacked)


def _grey_values(windowed: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gamma, blur and noise, each of random strength."""
    numbers = torch.rand(3, len(windowed), 1, 1, 1, generator=generator) * 2.0 - 1.0
    changed = windowed.clamp(min=0.0).pow((_LOG_GAMMA * numbers[0]).exp())
    blurred = functional.avg_pool2d(changed, 3, stride=1, padding=1, count_include_pad=False)
    changed = changed + numbers[1].clamp(min=0.0) * (blurred - changed)
    noise = torch.randn(windowed.shape, generator=generator) * _NOISE * numbers[2].clamp(min=0.0)
    return (changed + noise).clamp(0.0, 1.0)
