"""Random chests of each view: turned, mirrored, inverted, cut off, whitened by disease."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from worker.training.views.pictures import Squares
from worker.view import SIDE, View

_TILT: Final = 18.0  # degrees that a careful radiographer may still be off
_TURNED: Final = (60.0, 300.0)
_HALF: Final = 0.5


@dataclass(frozen=True)
class Dice:
    """The random numbers of one run, for tensors and for choices."""

    tensors: torch.Generator
    choices: np.random.Generator

    @classmethod
    def seeded(cls, seed: int) -> "Dice":
        """Return dice that fall the same way again."""
        return cls(torch.Generator().manual_seed(seed), np.random.default_rng(seed))

    def uniform(self, count: int, low: float, high: float) -> torch.Tensor:
        """Return (count, 1, 1, 1) numbers."""
        return torch.rand(count, 1, 1, 1, generator=self.tensors) * (high - low) + low

    def often(self, count: int, chance: float) -> torch.Tensor:
        """Return (count, 1, 1, 1) of 1 with that chance, else 0."""
        return (self.uniform(count, 0.0, 1.0) < chance).float()


def draw_chests(pictures: Squares, view: View, dice: Dice) -> Squares:
    """Return thumbnails of the pictures as that view would show them, with usual faults."""
    count = len(pictures)
    angle = dice.uniform(count, -_TILT, _TILT)
    flip = torch.ones(count, 1, 1, 1)
    if view is View.MIRRORED:
        flip = -flip
    elif view is not View.FRONTAL:
        flip = 1.0 - 2.0 * dice.often(count, _HALF)
    if view is View.ROTATED:
        square = dice.often(count, 0.6)
        quarter = torch.randint(1, 4, (count, 1, 1, 1), generator=dice.tensors) * 90.0 + angle
        angle = square * quarter + (1.0 - square) * dice.uniform(count, *_TURNED)
    drawn = _moved(pictures, angle, flip, dice)
    grey = change_grey(_whitened(drawn.windowed, dice), dice)
    negative = {View.INVERTED: 1.0, View.ROTATED: 0.25, View.LATERAL: 0.25}.get(view, 0.0)
    inverted = dice.often(count, negative)
    return add_marks(Squares(grey + inverted * (1.0 - 2.0 * grey), drawn.inside), dice)


def change_grey(grey: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Change gamma, contrast, brightness, noise and sharpness, each picture its own way."""
    count = len(grey)
    grey = grey.clamp(0.0, 1.0) ** dice.uniform(count, -0.6, 0.6).exp()
    grey = (grey - _HALF) * dice.uniform(count, 0.7, 1.4) + _HALF
    grey = (grey + dice.uniform(count, -0.15, 0.15)).clamp(0.0, 1.0)
    noise = torch.randn(grey.shape, generator=dice.tensors)
    grey = grey + noise * dice.uniform(count, 0.0, 0.06) * dice.often(count, _HALF)
    soft = dice.often(count, 0.25)
    return grey + soft * (functional.avg_pool2d(grey, 3, 1, 1) - grey)


def add_marks(pictures: Squares, dice: Dice) -> Squares:
    """Add what stands on films: side letters, shutters, a frame; zero the padding."""
    grey, inside = pictures.windowed.clone(), pictures.inside.clone()
    random = dice.choices
    for square, covered in zip(grey[:, 0], inside[:, 0], strict=True):
        for _ in range(random.integers(0, 3)):
            height, width = random.integers(2, 7, 2)
            top, left = random.integers(0, SIDE - height), random.integers(0, SIDE - width)
            square[top : top + height, left : left + width] = float(random.choice((0, 1, 1)))
        if random.random() < 0.15:  # noqa: PLR2004  shutters
            _outside(square, random.integers(0, 9, 4), float(random.choice((0, 0, 1))))
        if random.random() < 0.15:  # noqa: PLR2004  another format of film
            _outside(covered, random.integers(0, 9, 4), 0.0)
    return Squares(grey * inside, inside)


def _outside(square: torch.Tensor, widths: np.ndarray, value: float) -> None:
    top, bottom, left, right = (int(width) for width in widths)
    square[:top] = value
    square[SIDE - bottom :] = value
    square[:, :left] = value
    square[:, SIDE - right :] = value


def _moved(pictures: Squares, angle: torch.Tensor, flip: torch.Tensor, dice: Dice) -> Squares:
    """Turn by degrees, scale, shift, shear; then halve the size."""
    count = len(pictures)
    scale = dice.uniform(count, -0.28, 0.28).exp()
    ratio = dice.uniform(count, -0.12, 0.12).exp()
    across, along = (scale * ratio * flip).flatten(), (scale / ratio).flatten()
    turn = angle.flatten() * (math.pi / 180.0)
    shear, x, y = (dice.uniform(count, -it, it).flatten() for it in (0.1, 0.17, 0.17))
    first = torch.stack([turn.cos() * across, (shear - turn.sin()) * along, x], dim=1)
    second = torch.stack([turn.sin() * across, turn.cos() * along, y], dim=1)
    grid = functional.affine_grid(
        torch.stack([first, second], dim=1), list(pictures.windowed.shape), align_corners=False
    )
    both = torch.cat([pictures.windowed, pictures.inside], dim=1)
    moved = functional.avg_pool2d(functional.grid_sample(both, grid, align_corners=False), 2)
    return Squares(moved[:, :1], (moved[:, 1:] > _HALF).float())


def _whitened(grey: torch.Tensor, dice: Dice) -> torch.Tensor:
    """Lay soft white shapes over some pictures, up to white lungs; darken a spot of some."""
    for _ in range(3):
        shape = _soft_shape(len(grey), dice, 0.45)
        strength = dice.often(len(grey), 0.15) * dice.uniform(len(grey), 0.3, 1.0)
        level = dice.uniform(len(grey), 0.6, 1.0)
        grey = grey + strength * shape * (level - grey).clamp(min=0.0)
    return grey * (1.0 - dice.often(len(grey), 0.1) * _soft_shape(len(grey), dice, 0.3))


def _soft_shape(count: int, dice: Dice, largest: float) -> torch.Tensor:
    steps = torch.linspace(-1.0, 1.0, SIDE)
    x = (steps[None, :] - dice.uniform(count, -0.7, 0.7)) / dice.uniform(count, 0.1, largest)
    y = (steps[:, None] - dice.uniform(count, -0.6, 0.7)) / dice.uniform(count, 0.1, 1.3 * largest)
    shape: torch.Tensor = (-((x.square() + y.square()) ** dice.uniform(count, 1.0, 3.0))).exp()
    return shape
