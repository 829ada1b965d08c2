"""Random changes of a batch: what another machine, patient position or reader might have given."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from worker.preprocess import standardise
from worker.training.datasets import Samples

_ROTATION = math.radians(12.0)
_SCALE = (0.85, 1.25)
_ASPECT = 0.08
_SHIFT = 0.08
_LOG_GAMMA = 0.45
_NOISE = 0.05


@dataclass(frozen=True)
class Batch:
    """What one step trains on: float32 (batch, channels, size, size)."""

    images: torch.Tensor
    targets: torch.Tensor
    supervised: torch.Tensor


def pick(samples: Samples, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw `count` cases and return image, inside, targets and supervision as 8 float channels."""
    index = torch.randint(len(samples), (count,), generator=generator)
    parts = (samples.images, samples.inside, samples.targets, samples.supervised)
    return torch.cat([part[index] for part in parts], dim=1).float() / 255.0


def augment(stacked: torch.Tensor, generator: torch.Generator) -> Batch:
    """Move, mirror, and change the grey values of (batch, 8, size, size); standardise last."""
    moved = _mirror(_move(stacked, generator), generator)
    inside = moved[:, 1:2]
    windowed = _grey_values(moved[:, :1], generator) * (inside > 0.5)  # noqa: PLR2004  half covered
    images = standardise(_cut_out(windowed, generator), (inside > 0.5).float())  # noqa: PLR2004  half covered
    supervised = (moved[:, 5:] > 0.99).float()  # noqa: PLR2004  fully judged
    return Batch(images=images, targets=moved[:, 2:5], supervised=supervised)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _move(stacked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale, stretch and shift every case by its own affine map."""
    count = len(stacked)
    angle = _uniform(count, -_ROTATION, _ROTATION, generator)
    scale = 1.0 / _uniform(count, *_SCALE, generator)
    stretch = 1.0 + _uniform(count, -_ASPECT, _ASPECT, generator)
    shift = _uniform(2 * count, -2 * _SHIFT, 2 * _SHIFT, generator).view(count, 2)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = [
        torch.stack([cosine * stretch, -sine, shift[:, 0]], dim=1),
        torch.stack([sine, cosine / stretch, shift[:, 1]], dim=1),
    ]
    shape = list(stacked.shape)
    grid = functional.affine_grid(torch.stack(rows, dim=1), shape, align_corners=False)
    return functional.grid_sample(stacked, grid, mode="bilinear", align_corners=False)


def _mirror(stacked: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip half of the cases left-right; the lungs change their names with their places."""
    swapped = stacked.flip(-1)[:, [0, 1, 3, 2, 4, 6, 5, 7]]
    chosen = torch.rand(len(stacked), 1, 1, 1, generator=generator) < 0.5  # noqa: PLR2004  half
    return torch.where(chosen, swapped, stacked)


def _grey_values(windowed: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gamma, window, blur and noise."""
    count = len(windowed)
    gamma = _uniform(count, -_LOG_GAMMA, _LOG_GAMMA, generator).exp().view(-1, 1, 1, 1)
    low = _uniform(count, -0.08, 0.08, generator).view(-1, 1, 1, 1)
    high = _uniform(count, 0.88, 1.08, generator).view(-1, 1, 1, 1)
    changed = ((windowed.clamp(min=0.0).pow(gamma) - low) / (high - low)).clamp(0.0, 1.0)
    blurred = functional.avg_pool2d(changed, 3, stride=1, padding=1, count_include_pad=False)
    weight = (_uniform(count, -1.0, 1.0, generator).clamp(min=0.0)).view(-1, 1, 1, 1)
    strength = (_uniform(count, -_NOISE, _NOISE, generator).clamp(min=0.0)).view(-1, 1, 1, 1)
    noise = torch.randn(windowed.shape, generator=generator) * strength
    return (changed + weight * (blurred - changed) + noise).clamp(0.0, 1.0)


def _cut_out(windowed: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cover up to two small rectangles per case with one grey value: markers, devices, leads."""
    size = windowed.shape[-1]
    places = torch.arange(size).float() / size
    for _ in range(2):
        numbers = torch.rand(len(windowed), 5, 1, generator=generator)
        half = 0.02 + 0.08 * numbers[:, 2:4]
        rows = (places - numbers[:, 0]).abs() < half[:, 0] * (numbers[:, 4] < 0.6)  # noqa: PLR2004  half covered
        columns = (places - numbers[:, 1]).abs() < half[:, 1]
        box = (rows[:, :, None] & columns[:, None, :])[:, None]
        windowed = torch.where(box, numbers[:, 4:5, :, None], windowed)
    return windowed
