"""Synthetic chest radiographs with known masks: anatomy drawn from a seed, nobody's picture.

Lengths are fractions of the image height; x grows to the image's right (the patient's left), 0 is
the midline. Densities are line integrals in arbitrary units, turned into a film-like grey curve at
the end. Lung fields include the region behind the heart, as the training masks do.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.training import radiograph
from worker.training.anatomy import Canvas, Chest, Field, lung_field
from worker.types import Mask

View = Literal["PA", "AP", "LL"]
_BIT_DEPTH_TOP: Final = 65535
_MAX_PERCENT: Final = 85.0


@dataclass(frozen=True)
class Phantom:
    """A drawn radiograph: uint16 (rows, columns), 0..65535, bright = dense, upright.

    The masks are on the same grid; `opacity` lies inside the lungs. A lateral has empty masks.
    Percentages are of lung pixels, as the product defines them; None without lungs.
    """

    seed: int
    view: View
    pixels: NDArray[np.uint16]
    left: Mask
    right: Mask
    opacity: Mask
    percent: float | None
    left_percent: float | None
    right_percent: float | None


def make_phantom(
    seed: int, size: int, opacity_percent: float | None = None, view: View = "PA"
) -> Phantom:
    """Draw one radiograph with `size` rows; the same arguments give the same pixels.

    `opacity_percent` of the lung pixels are opaque, exactly but for rounding; None draws an amount.
    Raises ValueError for a size below 64 or a percentage outside 0..85.
    """
    if size < 64:  # noqa: PLR2004  smaller has no anatomy
        msg = f"a phantom needs at least 64 rows, not {size}"
        raise ValueError(msg)
    if opacity_percent is not None and not 0.0 <= opacity_percent <= _MAX_PERCENT:
        msg = f"opacity_percent must be 0 to {_MAX_PERCENT:g}, not {opacity_percent}"
        raise ValueError(msg)
    random = np.random.default_rng([seed, 0x43585250])
    chest = Chest.draw(random, supine=view == "AP")
    canvas = Canvas.of(size, chest.width)
    if view == "LL":
        nothing = np.zeros(canvas.shape, dtype=np.bool_)
        density = radiograph.lateral(canvas, chest, random)
        return _finish(seed, view, density, (nothing, nothing, nothing), random)
    left, right = (lung_field(canvas, chest, side) for side in (1, -1))
    density = radiograph.frontal(canvas, chest, left, right, random)
    lungs = (left > 0.5) | (right > 0.5)  # noqa: PLR2004  half covered
    target = _amount(random) if opacity_percent is None else opacity_percent
    opacity, extra = _opacities(canvas, lungs, target, random)
    masks = (left > 0.5, (right > 0.5) & (left <= 0.5), opacity)  # noqa: PLR2004  half covered
    return _finish(seed, view, density + extra, masks, random)


def _amount(random: np.random.Generator) -> float:
    """Draw a percentage: often little, sometimes most of the lungs."""
    return float(random.beta(1.1, 2.2) * 80.0 + 1.5)


def _opacities(
    canvas: Canvas, lungs: Mask, percent: float, random: np.random.Generator
) -> tuple[Mask, Field]:
    """Return the mask of the wanted share of the lungs and its added density.

    The mask is where a sum of blobs and texture exceeds its own quantile, so its area is known.
    """
    wanted = round(int(lungs.sum()) * percent / 100.0)
    if not wanted:
        return np.zeros(canvas.shape, dtype=np.bool_), np.zeros(canvas.shape, dtype=np.float32)
    field = (
        _blobs(canvas, lungs, random)
        + 0.10 * canvas.texture(random, 0.07)
        + 0.04 * canvas.texture(random, 0.02)
    )
    ranked = np.sort(field[lungs])
    level = ranked[-wanted]
    mask: Mask = lungs & (field >= level)
    softness = float(random.uniform(0.08, 0.25))
    edge = np.clip((field - level) / softness + 0.4, 0.0, 1.0)
    depth = ndimage.gaussian_filter(edge * lungs, canvas.pixels(0.003))
    strength = float(random.uniform(0.20, 0.46))
    grain = 1.0 + 0.07 * canvas.texture(random, 0.010) + 0.13 * canvas.texture(random, 0.05)
    return mask, (strength * depth * np.clip(grain, 0.35, 1.7)).astype(np.float32)


def _blobs(canvas: Canvas, lungs: Mask, random: np.random.Generator) -> Field:
    """Sum of soft ellipses at random places of the lungs, more of them low and lateral."""
    places = np.argwhere(lungs)
    weights = (places[:, 0] / canvas.shape[0]) ** 1.5
    count = int(random.integers(2, 8))
    chosen = places[random.choice(len(places), count, p=weights / weights.sum())]
    field = np.zeros(canvas.shape, dtype=np.float32)
    for row, column in chosen:
        y, x = row / canvas.shape[0], canvas.x[0, column]
        tall, wide = random.uniform(0.06, 0.22), random.uniform(0.05, 0.14)
        distance = ((canvas.y - y) / tall) ** 2 + ((canvas.x - x) / wide) ** 2
        field = np.maximum(field, float(random.uniform(0.7, 1.0)) * np.exp(-0.5 * distance))
    return field


def _finish(
    seed: int,
    view: View,
    density: Field,
    masks: tuple[Mask, Mask, Mask],
    random: np.random.Generator,
) -> Phantom:
    """Blur, grain and grey curve; count the percentages from the masks."""
    left, right, opacity = masks
    rows = density.shape[0]
    blurred = ndimage.gaussian_filter(density, rows * float(random.uniform(0.0008, 0.0018)))
    grain = random.standard_normal(density.shape, dtype=np.float32)
    blurred += grain * (0.008 + 0.012 * float(random.random())) * min(1.5, rows / 512)
    low, high = np.percentile(blurred[:: max(1, rows // 256)], (2, 99.7))
    curve = np.clip((blurred - low) / (high - low), 0.0, 1.0) ** float(random.uniform(0.9, 1.35))
    pixels = (curve * (0.97 * _BIT_DEPTH_TOP)).astype(np.uint16)
    return Phantom(
        seed=seed,
        view=view,
        pixels=pixels,
        left=left,
        right=right,
        opacity=opacity,
        percent=_percent(opacity, left | right),
        left_percent=_percent(opacity, left),
        right_percent=_percent(opacity, right),
    )


def _percent(opacity: Mask, lung: Mask) -> float | None:
    pixels = int(lung.sum())
    return 100.0 * int((opacity & lung).sum()) / pixels if pixels else None
