"""Opacity of one patient in the lungs of another, and lungs of a normal in the chest of a patient.

A network that sees normals from one hospital and patients from another learns the hospital. Blended
pictures break that: every source has lungs with opacity and lungs without.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from worker.training.datasets import Samples
from worker.types import Mask

Grey = NDArray[np.float32]
Box = tuple[int, int, int, int]
_HALF: Final = 127  # of 255: half covered
_MIN_LUNG: Final = 0.005  # of the square, per side
_CLEAR_SHARE: Final = 0.15  # of the lungs must be clear for their grey level to be read off
_SIDES: Final[tuple[Literal["left", "right"], ...]] = ("left", "right")


@dataclass(frozen=True)
class Chest:
    """One picture on 0..1 with its masks, all (size, size); `read` if a reader drew the lungs."""

    image: Grey
    left: Mask
    right: Mask
    opacity: Mask
    inside: Mask
    read: bool = False

    @property
    def lungs(self) -> Mask:
        """Both lungs."""
        return self.left | self.right

    @property
    def whole(self) -> bool:
        """Whether both lungs are large enough to blend."""
        smallest = _MIN_LUNG * self.image.size
        return min(int(self.left.sum()), int(self.right.sum())) > smallest

    def side(self, name: Literal["left", "right"]) -> Mask:
        """Return one lung."""
        return self.left if name == "left" else self.right


def chests(samples: Samples) -> list[Chest]:
    """Return the pictures of a pool that have two lungs."""
    found = []
    for number in range(len(samples)):
        left, right, opacity = (samples.targets[number] > _HALF).numpy()
        chest = Chest(
            image=samples.images[number, 0].numpy().astype(np.float32) / np.float32(255),
            left=left,
            right=right & ~left,
            opacity=opacity,
            inside=(samples.inside[number, 0] > _HALF).numpy(),
            read=bool(samples.supervised[number, 0].any()),
        )
        if chest.whole:
            found.append(chest)
    return found


def graft(recipient: Chest, donor: Chest, random: np.random.Generator) -> Chest:
    """Blend the donor's opacity into the recipient's lungs, one or both, mirrored or not.

    The donor's lung is laid on the recipient's by its bounding box, its grey levels are matched at
    clear lung and at the body around it, and the recipient shines through a little.
    """
    mirrored = bool(random.random() < 0.5)  # noqa: PLR2004  half
    level = _matching(recipient, donor, random)
    strength = float(random.uniform(0.75, 1.0))
    softness = len(donor.image) * float(random.uniform(0.006, 0.016))
    sides = _SIDES if random.random() > 0.35 else (_SIDES[int(random.integers(2))],)  # noqa: PLR2004  a third one-sided
    image, opacity = recipient.image, recipient.opacity
    for side in sides:
        grey, opaque, _ = _laid(donor, recipient, side, mirrored=mirrored)
        mask = opaque & recipient.side(side)
        soft = ndimage.gaussian_filter(mask.astype(np.float32), softness)
        weight = np.clip(1.15 * soft, 0.0, 1.0) * strength
        image = image * (1.0 - weight) + level(grey) * weight
        opacity = opacity | mask
    return _shown(recipient, image, opacity)


def clear(recipient: Chest, donor: Chest, random: np.random.Generator) -> Chest:
    """Blend both lungs of a normal donor into the recipient's; its opacity goes with its lungs."""
    mirrored = bool(random.random() < 0.5)  # noqa: PLR2004  half
    level = _matching(recipient, donor, random)
    softness = len(donor.image) * float(random.uniform(0.006, 0.016))
    image, opacity = recipient.image, recipient.opacity
    for side in _SIDES:
        grey, _, lung = _laid(donor, recipient, side, mirrored=mirrored)
        mask = recipient.side(side) & lung
        weight = ndimage.gaussian_filter(mask.astype(np.float32), softness)
        image = image * (1.0 - weight) + level(grey) * weight
        opacity = opacity & ~(weight > 0.5)  # noqa: PLR2004  half covered
    return _shown(recipient, image, opacity)


def whiten(recipient: Chest, random: np.random.Generator) -> Chest:
    """Turn one lung, or its lower or upper part, as white as the body around it.

    Dense consolidation takes the lung's border with the heart and the diaphragm away; readings of
    such lungs are few, and a network that has not seen them calls them no lung or no opacity.
    """
    lung = recipient.side(_SIDES[int(random.integers(2))])
    _, high = _levels(recipient)
    mask = lung & _part(_box(lung), lung.shape, random)
    softness = len(lung) * float(random.uniform(0.006, 0.025))
    soft = ndimage.gaussian_filter(mask.astype(np.float32), softness)
    weight = np.clip(1.15 * soft, 0.0, 1.0) * float(random.uniform(0.75, 1.0))
    grain = ndimage.gaussian_filter(random.normal(size=lung.shape), len(lung) / 12)
    level = high * random.uniform(0.75, 1.0) + 0.04 * grain / max(float(grain.std()), 1e-6)
    image = recipient.image * (1.0 - weight) + level.astype(np.float32) * weight
    return _shown(recipient, image, recipient.opacity | mask)


def _part(box: Box, shape: tuple[int, ...], random: np.random.Generator) -> Mask:
    """Return all rows, or those below or above a sloping line through the box."""
    kept = random.random()
    if kept < 0.4:  # noqa: PLR2004  two of five are white throughout
        return np.ones(shape, bool)
    top, bottom, first, last = box
    rows, columns = np.indices(shape)
    height = top + random.uniform(0.25, 0.75) * (bottom - top)
    slope = random.uniform(-0.5, 0.5)
    below: Mask = rows > height + slope * (columns - (first + last) / 2)
    return below if kept < 0.8 else ~below  # noqa: PLR2004  two of five from below, one from above


def stacked(blended: list[Chest]) -> Samples:
    """Return blended pictures as a pool; lungs are judged where a reader drew them."""
    images = np.stack([(chest.image * 255).round().astype(np.uint8) for chest in blended])
    masks = np.stack([np.stack([c.left, c.right, c.opacity]) for c in blended])
    inside = np.stack([chest.inside for chest in blended])[:, None]
    judged = np.array([[chest.read, chest.read, True] for chest in blended])[:, :, None, None]
    return Samples(
        images=torch.from_numpy(images[:, None]),
        targets=torch.from_numpy(masks.astype(np.uint8) * 255),
        supervised=torch.from_numpy((inside & judged).astype(np.uint8) * 255),
        inside=torch.from_numpy(inside.astype(np.uint8) * 255),
    )


def _shown(recipient: Chest, image: Grey, opacity: Mask) -> Chest:
    shown = np.clip(image, 0.0, 1.0) * recipient.inside
    return replace(recipient, image=shown.astype(np.float32), opacity=opacity)


def _matching(
    recipient: Chest, donor: Chest, random: np.random.Generator
) -> Callable[[Grey], Grey]:
    """Return the map of the donor's grey levels that makes clear lung and body agree, roughly."""
    to_low, to_high = _levels(recipient)
    low, high = _levels(donor)
    stretch = np.clip((to_high - to_low) / (high - low), 0.4, 2.5)
    stretch = np.float32(stretch * np.exp(random.normal(0.0, 0.08)))
    shifted = np.float32(to_low + random.normal(0.0, 0.02))
    return lambda grey: shifted + stretch * (grey - np.float32(low))


def _levels(chest: Chest) -> tuple[float, float]:
    """Return the grey of clear lung and of the body between and around the lungs."""
    lungs = chest.lungs
    clear_lung = lungs & ~chest.opacity
    low = (
        float(np.median(chest.image[clear_lung]))
        if clear_lung.sum() > _CLEAR_SHARE * lungs.sum()
        else float(np.percentile(chest.image[lungs], 8))
    )
    top, bottom, first, last = _box(lungs)
    body = np.zeros_like(lungs)
    body[top:bottom, first:last] = True
    body &= ~lungs & chest.inside
    high = float(np.percentile(chest.image[body if body.any() else chest.inside], 75))
    return low, max(high, low + 0.1)


def _laid(
    donor: Chest, recipient: Chest, side: Literal["left", "right"], *, mirrored: bool
) -> tuple[Grey, Mask, Mask]:
    """Return the donor's grey, opacity and lung with its lung's box on the recipient's."""
    other: Literal["left", "right"] = "right" if side == "left" else "left"
    lung = donor.side(other if mirrored else side)
    fields = torch.from_numpy(np.stack([donor.image, donor.opacity, lung]).astype(np.float32))
    grid = _grid(_box(lung), _box(recipient.side(side)), len(donor.image), mirrored=mirrored)
    laid = functional.grid_sample(
        fields[None], grid, align_corners=False, padding_mode="border"
    ).numpy()[0]
    return laid[0], laid[1] > 0.5, laid[2] > 0.5  # noqa: PLR2004  half covered


def _grid(source: Box, target: Box, size: int, *, mirrored: bool) -> torch.Tensor:
    """Return where each pixel of the recipient lies in the donor, as grid_sample wants it."""
    pixels = torch.arange(size, dtype=torch.float32) + 0.5
    down = (pixels - target[0]) / (target[1] - target[0])
    across = (pixels - target[2]) / (target[3] - target[2])
    if mirrored:
        across = 1.0 - across
    y = (source[0] + down * (source[1] - source[0])) / size * 2 - 1
    x = (source[2] + across * (source[3] - source[2])) / size * 2 - 1
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1)[None]


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
