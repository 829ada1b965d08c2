"""Random changes of a picture: what another machine, position, patient or reader might have given.

One dictionary per picture goes through MONAI's transforms; channels of `masks` are inside, left,
right, opacity, and the supervision of the three. Every draw is a function of (seed, step, slot), so
batches do not depend on workers, and a resumed run sees what an uninterrupted one would have.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCoarseDropoutd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from torch.utils.data import Dataset

from worker.preprocess import standardise
from worker.training.datasets import Samples

_HALF: Final = 0.5
_FULLY_JUDGED: Final = 0.99
_MIRRORED: Final = [0, 2, 1, 3, 5, 4, 6]  # inside, left, right, opacity, supervision of the three


@dataclass(frozen=True)
class Batch:
    """What one step trains on: float32 (batch, channels, size, size)."""

    images: torch.Tensor
    targets: torch.Tensor
    supervised: torch.Tensor


def changes(size: int) -> Compose:
    """Return the random changes of one picture of `size` x `size` on 0..1."""
    image, both = ["image"], ["image", "masks"]
    return Compose(
        [
            RandAffined(
                both,
                prob=1.0,
                rotate_range=math.radians(12.0),
                shear_range=0.06,
                scale_range=((-0.2, 0.18), (-0.2, 0.18)),
                translate_range=0.08 * size,
                mode="bilinear",
                padding_mode="zeros",
            ),
            RandHistogramShiftd(image, prob=0.3, num_control_points=(5, 9)),
            RandAdjustContrastd(image, prob=0.7, gamma=(0.64, 1.57)),
            RandScaleIntensityd(image, prob=0.5, factors=0.12),
            RandShiftIntensityd(image, prob=0.5, offsets=0.08),
            RandGaussianSmoothd(image, prob=0.3, sigma_x=(0.3, 1.6), sigma_y=(0.3, 1.6)),
            RandGaussianNoised(image, prob=0.4, std=0.05),
            RandCoarseDropoutd(
                image,
                prob=0.6,
                holes=1,
                max_holes=2,
                spatial_size=round(0.04 * size),
                max_spatial_size=round(0.18 * size),
                fill_value=(0.0, 1.0),
            ),
        ]
    )


class Draws(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """The pictures of every step; item `step * batch + slot` is the same whoever asks when.

    `shares` says how many pictures of each pool stand in a batch, in that order. `missed` is the
    cost of a missed opacity pixel in pictures of each pool.
    """

    def __init__(
        self,
        pools: Mapping[str, Samples],
        shares: Mapping[str, int],
        steps: int,
        seed: int,
        missed: Mapping[str, float] | None = None,
    ) -> None:
        self._slots = [pool for pool, count in shares.items() for _ in range(count)]
        self._pools = pools
        self._steps = steps
        self._seed = seed
        self._missed = missed or {}
        size = next(iter(pools.values())).images.shape[-1]
        self._changes = changes(size)

    @property
    def batch(self) -> int:
        """Pictures per step."""
        return len(self._slots)

    def __len__(self) -> int:
        return self._steps * self.batch

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return image, targets and supervision, each (channels, size, size)."""
        step, slot = divmod(item, self.batch)
        random = np.random.default_rng([self._seed, step, slot])
        pool = self._slots[slot]
        samples = self._pools[pool]
        chosen = int(random.integers(len(samples)))
        self._changes.set_random_state(seed=int(random.integers(2**31)))
        image, masks = self._changed(samples, chosen)
        if random.random() < _HALF:
            image, masks = image.flip(-1), masks.flip(-1)[_MIRRORED]
        inside = (masks[:1] > _HALF).float()
        targets = masks[1:4].clamp(0.0, 1.0)
        supervised = torch.where(masks[4:] > _FULLY_JUDGED, 1.0, 0.0)
        supervised[2] *= 1.0 + (self._missed.get(pool, 1.0) - 1.0) * targets[2]
        windowed = (image.clamp(0.0, 1.0) * inside)[None]
        return standardise(windowed, inside[None])[0], targets, supervised

    def _changed(self, samples: Samples, chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = (samples.inside, samples.targets, samples.supervised)
        masks = torch.cat([part[chosen] for part in parts]).float() / 255.0
        tracked = get_track_meta()
        set_track_meta(False)  # plain tensors: twice as fast, and no metadata is wanted
        try:
            changed = self._changes(
                {"image": samples.images[chosen].float() / 255.0, "masks": masks}
            )
        finally:
            set_track_meta(tracked)
        return changed["image"].as_subclass(torch.Tensor), changed["masks"].as_subclass(
            torch.Tensor
        )
