"""Random pictures that are no frontal chest: chests taken apart, drawn bones, shapes, text, noise.

Real examples are too few to learn from, and learning from them would leave none to measure with.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from worker.training.views.chests import Dice, add_marks, change_grey
from worker.training.views.pictures import SQUARE, Squares
from worker.view import SIDE

Draw = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]
_HALF: Final = 0.5
_STEPS: Final = torch.linspace(-1.0, 1.0, SIDE)


def draw_strangers(pictures: Squares, dice: Dice) -> Squares:
    """Make one stranger for each picture, some out of the picture itself."""
    random = dice.choices
    kinds, weights = list(STRANGERS), np.array(list(STRANGERS.values()))
    drawn, inside = [], []
    for chosen, picture in zip(
        random.choice(len(kinds), len(pictures), p=weights / weights.sum()),
        pictures.windowed[:, 0],
        strict=True,
    ):
        square = kinds[chosen](picture, random)
        square = 1.0 - square if random.random() < 0.3 else square  # noqa: PLR2004  as a negative
        drawn.append(square.flip(-1) if random.random() < _HALF else square)
        inside.append(_frame(random))
    grey = torch.stack(drawn)[:, None]
    low, high = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
    grey = change_grey((grey - low) / (high - low).clamp(min=0.05), dice)
    return add_marks(Squares(grey, torch.stack(inside)[:, None]), dice)


def _resized(part: torch.Tensor, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return functional.interpolate(
        part[None, None].float(), (height, width), mode="bilinear", align_corners=False
    )[0, 0]


def _frame(random: np.random.Generator) -> torch.Tensor:
    """Leave a third of the pictures no squares."""
    inside = torch.ones(SIDE, SIDE)
    if random.random() < 0.35:  # noqa: PLR2004  a third
        margin = int(random.integers(4, 16))
        lines = inside if random.random() < _HALF else inside.T
        lines[:margin] = 0.0
        lines[SIDE - margin :] = 0.0
    return inside


def _corner(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Cut out a shoulder, a belly, one apex: too little of a chest, any way up."""
    height, width = (int(it) for it in random.uniform(0.18, 0.45, 2) * SQUARE)
    top, left = (int(random.integers(0, SQUARE - it)) for it in (height, width))
    part = picture[top : top + height, left : left + width]
    return torch.rot90(_resized(part), int(random.integers(4)))


def _one_side(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Let one lung alone fill the picture."""
    top, height = int(random.integers(0, 30)), int(random.integers(80, 98))
    columns = slice(0, 56) if random.random() < _HALF else slice(72, SQUARE)
    return _resized(picture[top : top + height, columns])


def _shuffled(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Put the tiles of a chest in another order."""
    tiles = int(random.choice((2, 3, 4)))
    size = SIDE // tiles
    small = functional.avg_pool2d(picture[None], 2)[0]
    order = random.permutation(tiles * tiles)
    if (order == np.arange(tiles * tiles)).all():
        order = order[::-1]
    result = torch.zeros(SIDE, SIDE)
    for place, source in enumerate(order):
        top, left = (int(it) * size for it in divmod(place, tiles))
        y, x = (int(it) * size for it in divmod(int(source), tiles))
        result[top : top + size, left : left + size] = small[y : y + size, x : x + size]
    return result


def _rolled(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Move the lungs to the outside, or the belly above them."""
    return functional.avg_pool2d(picture[None], 2)[0].roll(SIDE // 2, int(random.integers(2)))


def _band(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Stretch a strip to a square."""
    height = int(random.integers(24, 50))
    top = int(random.integers(0, SQUARE - height))
    strip = picture[top : top + height]
    return _resized(strip if random.random() < _HALF else picture.T[top : top + height].T)


def _deep(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Make a chest far too deep or too wide for its other side, as most animals have it."""
    factor = float(random.uniform(1.9, 2.8))
    if random.random() < 0.7:  # noqa: PLR2004  deep more often than wide
        narrow = _resized(picture, SIDE, int(SIDE / factor))
        left = int(random.integers(0, SIDE - narrow.shape[1]))
        result = torch.full((SIDE, SIDE), float(random.choice((0.0, float(random.random())))))
        result[:, left : left + narrow.shape[1]] = narrow
        return result
    flat = _resized(picture, int(SIDE / factor), SIDE)
    result = torch.zeros(SIDE, SIDE)
    top = int(random.integers(0, SIDE - flat.shape[0]))
    result[top : top + flat.shape[0]] = flat
    return result


def _tiny(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Make an icon of a chest, or four small ones."""
    if random.random() < _HALF:
        return functional.avg_pool2d(picture[None], 4)[0].repeat(2, 2)
    result = torch.full((SIDE, SIDE), float(random.random()))
    top, left = (int(it) for it in random.integers(0, 48, 2))
    result[top : top + 16, left : left + 16] = functional.avg_pool2d(picture[None], 8)[0]
    return result


def _melted(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Pull a chest out of shape."""
    nodes = int(random.choice((4, 5, 6)))
    pull = torch.from_numpy(random.standard_normal((1, 2, nodes, nodes))).float() * 0.35
    pulled = functional.interpolate(pull, (SIDE, SIDE), mode="bicubic", align_corners=False)[0]
    grid = torch.stack(torch.meshgrid(_STEPS, _STEPS, indexing="xy"), dim=-1)
    moved = grid + pulled.permute(1, 2, 0)
    return functional.grid_sample(picture[None, None], moved[None], align_corners=False)[0, 0]


def _noise(_picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    grain = int(random.choice((2, 4, 8, 16, 32, 64)))
    return _resized(torch.from_numpy(random.random((grain, grain))))


def _flat(_picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Leave it blank, or draw one edge."""
    result = torch.full((SIDE, SIDE), float(random.random()))
    result += 0.02 * torch.from_numpy(random.standard_normal((SIDE, SIDE))).float()
    if random.random() < _HALF:
        result[: int(random.integers(1, SIDE - 1))] = float(random.random())
    return result


def _text(_picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Write lines of words, as on a report or a screen."""
    paper = float(random.choice((0.0, 1.0)))
    result = torch.full((SIDE, SIDE), paper)
    for top in range(2, SIDE - 2, int(random.integers(4, 8))):
        left = 2
        while left < SIDE - 8:
            width = int(random.integers(1, 7))
            if random.random() < 0.8:  # noqa: PLR2004  else a gap
                result[top : top + 2, left : left + width] = abs(paper - random.uniform(0.5, 1.0))
            left += width + int(random.integers(1, 4))
    return result


def _ellipse(
    square: torch.Tensor, place: tuple[float, ...], angle: float, level: float, edge: float
) -> torch.Tensor:
    """Draw one ellipse (x, y, half width, half height) with a soft edge."""
    x, y, width, height = place
    across, down = _STEPS[None, :] - x, _STEPS[:, None] - y
    along = (across * math.cos(angle) + down * math.sin(angle)) / width
    beside = (down * math.cos(angle) - across * math.sin(angle)) / height
    covered = torch.sigmoid((1.0 - along.square() - beside.square()) * edge)
    return square * (1.0 - covered) + level * covered


def _background(random: np.random.Generator) -> torch.Tensor:
    level = random.random() if random.random() < _HALF else random.choice((0.0, 0.0, 1.0))
    square = torch.full((SIDE, SIDE), float(level))
    if random.random() < 0.4:  # noqa: PLR2004  a slope
        down, across = (float(it) * 0.5 for it in random.standard_normal(2))
        square *= 1.0 + across * _STEPS[None, :] + down * _STEPS[:, None]
    return square


def _shapes(_picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Lay ellipses over each other: slices, breasts, skulls, from afar."""
    square = _background(random)
    for _ in range(int(random.integers(1, 9))):
        place = (*random.uniform(-0.8, 0.8, 2), *random.uniform(0.08, 0.9, 2))
        angle, level, edge = random.uniform(0, math.pi), random.random(), random.uniform(3, 20)
        square = _ellipse(square, place, angle, level, edge)
    return square


def _bones(_picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Draw long bones in soft tissue, one or a fan of them: legs, hands, arms."""
    square = _background(random)
    count, angle = int(random.integers(1, 7)), float(random.uniform(0, math.pi))
    fan, apart = float(random.uniform(-0.3, 0.3)), float(random.uniform(0.2, 0.45))
    for soft in (True, False):
        for number in range(count):
            offset = number - (count - 1) / 2
            turn = angle + fan * offset
            thick = random.uniform(0.04, 0.14) * (random.uniform(1.5, 3.5) if soft else 1.0)
            x, y = -math.sin(turn) * offset * apart, math.cos(turn) * offset * apart
            level = random.uniform(0.2, 0.6) if soft else random.uniform(0.5, 1.0)
            place = (x, y, float(random.uniform(0.6, 1.6)), float(thick))
            square = _ellipse(square, place, turn, float(level), 8.0)
    if random.random() < _HALF:
        place = (*random.uniform(-0.6, 0.6, 2), *random.uniform(0.1, 0.4, 2))
        square = _ellipse(square, place, float(random.uniform(0, 3)), 0.8, 10.0)
    grain = torch.from_numpy(random.standard_normal((32, 32)))
    return square + 0.06 * float(random.random()) * _resized(grain)


STRANGERS: Final[dict[Draw, float]] = {
    _corner: 4.0,
    _bones: 3.0,
    _shapes: 2.5,
    _one_side: 1.5,
    _shuffled: 2.0,
    _rolled: 1.5,
    _band: 1.5,
    _deep: 1.5,
    _melted: 1.0,
    _tiny: 1.0,
    _noise: 1.2,
    _text: 0.8,
    _flat: 0.4,
}
