"""What a phantom is drawn with: outlines as smooth curves, densities as smooth functions of them.

Coordinates as in `worker.training.phantom`. Proportions follow ordinary PA and AP chest
radiographs; every number is jittered by the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import make_interp_spline

Field = NDArray[np.float32]
Point = tuple[float, float]


@dataclass(frozen=True)
class Canvas:
    """A grid of (rows, columns) with its coordinates."""

    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: int, width: float) -> Self:
        """Make a grid of `rows` whose width is `width` times its height."""
        return cls((rows, round(rows * width)))

    @cached_property
    def x(self) -> Field:
        """Distance from the midline, (1, columns)."""
        rows, columns = self.shape
        places = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / rows
        return np.asarray(places, dtype=np.float32)[None, :]

    @cached_property
    def y(self) -> Field:
        """Distance from the top, (rows, 1)."""
        rows = self.shape[0]
        places = (np.arange(rows, dtype=np.float32) + 0.5) / rows
        return np.asarray(places, dtype=np.float32)[:, None]

    def pixels(self, length: float) -> float:
        """Turn a length into pixels."""
        return length * self.shape[0]

    def polygon(self, points: Sequence[Point]) -> Field:
        """Fill an outline; 0..1 with half-covered edges."""
        picture, scale = self._paper()
        ImageDraw.Draw(picture).polygon(self._place(points, scale), fill=255)
        return self._shrink(picture)

    def strokes(self, lines: Sequence[tuple[Sequence[Point], float]]) -> Field:
        """Draw polylines, each with its width; 0..1."""
        picture, scale = self._paper()
        pen = ImageDraw.Draw(picture)
        for points, width in lines:
            thick = max(1, round(self.pixels(width) * scale))
            pen.line(self._place(points, scale), fill=255, width=thick, joint="curve")
        return self._shrink(picture)

    def texture(self, random: np.random.Generator, grain: float) -> Field:
        """Smooth noise of unit variance whose grains have the size `grain`."""
        rows, columns = self.shape
        cells = (max(2, round(1 / grain)) + 3, max(2, round(columns / rows / grain)) + 3)
        coarse = random.standard_normal(cells).astype(np.float32)
        zoom = (rows / (cells[0] - 3), columns / (cells[1] - 3))
        fine = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
        top, left = round(1.5 * zoom[0]), round(1.5 * zoom[1])
        cut: Field = fine[top : top + rows, left : left + columns]
        return cut / max(float(cut.std()), 1e-6)

    def soften(self, field: Field, length: float) -> Field:
        """Gaussian blur by a length."""
        blurred: Field = ndimage.gaussian_filter(field, self.pixels(length))
        return blurred

    def _paper(self) -> tuple[Image.Image, int]:
        rows, columns = self.shape
        scale = 3 if rows <= 800 else 1  # noqa: PLR2004  large grids need no finer edge
        return Image.new("L", (columns * scale, rows * scale)), scale

    def _place(self, points: Sequence[Point], scale: int) -> list[Point]:
        rows, columns = self.shape
        return [((x * rows + columns / 2) * scale, y * rows * scale) for x, y in points]

    def _shrink(self, picture: Image.Image) -> Field:
        rows, columns = self.shape
        small = picture.resize((columns, rows), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32) / np.float32(255)


def curve(points: Sequence[Point], samples: int = 60) -> list[Point]:
    """Sample a smooth curve through points, by their running length."""
    knots = np.asarray(points, dtype=np.float64)
    steps = np.hypot(*np.diff(knots, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    spline = make_interp_spline(along, knots, k=min(3, len(knots) - 1))
    sampled = spline(np.linspace(0.0, along[-1], samples))
    return [(float(x), float(y)) for x, y in sampled]


@dataclass(frozen=True)
class Chest:
    """Proportions of one person; x values are distances from the midline."""

    width: float
    centre: float
    apex: float
    dome: float
    lateral: float
    medial: float
    costophrenic: float
    heart: float
    lung_depth: float
    rib_density: float
    vessel_density: float
    tilt: float

    @classmethod
    def draw(cls, random: np.random.Generator, *, supine: bool) -> Self:
        """Draw a person; supine ones have higher domes and a wider heart."""
        u = random.uniform
        return cls(
            width=u(0.84, 1.12),
            centre=u(-0.015, 0.015),
            apex=u(0.07, 0.14),
            dome=u(0.60, 0.68) if supine else u(0.68, 0.79),
            lateral=u(0.33, 0.39),
            medial=u(0.045, 0.065),
            costophrenic=u(0.05, 0.11),
            heart=u(1.1, 1.3) if supine else u(0.9, 1.15),
            lung_depth=u(0.50, 0.66),
            rib_density=u(0.09, 0.15),
            vessel_density=u(0.06, 0.12),
            tilt=u(-0.02, 0.02),
        )

    @property
    def scale(self) -> float:
        """Distance from apex to dome over that of an ordinary chest."""
        return (self.dome - self.apex) / 0.58

    def height(self, share: float) -> float:
        """Return the y at a share of the way from apex (0) to dome (1)."""
        return self.apex + share * (self.dome - self.apex)

    def wall(self, y: float) -> float:
        """Return how far the inside of the ribs is from the midline at `y`."""
        shares = (-0.1, 0.0, 0.08, 0.25, 0.5, 0.8, 1.0, 1.3)
        parts = (0.18, 0.40, 0.60, 0.80, 0.93, 1.0, 1.0, 0.96)
        share = (y - self.apex) / (self.dome - self.apex)
        return self.lateral * float(np.interp(share, shares, parts))


def lung_outline(chest: Chest, side: int) -> list[Point]:
    """Return the outline of a lung field; `side` is 1 for the patient's left, -1 for the right."""
    c, h = chest, chest.height
    dome = c.dome + (0.018 if side > 0 else 0.0)
    lateral = c.lateral * (0.97 if side > 0 else 1.0)
    tip = (lateral * 1.0, dome + c.costophrenic)
    base = (c.medial + 0.015, dome + 0.035)
    knob = 0.022 if side > 0 else 0.006
    upper = [
        (c.medial + 0.012, h(0.10)),
        (c.medial + 0.045, h(0.015)),
        (lateral * 0.40, h(0.0)),
        (lateral * 0.62, h(0.09)),
        (lateral * 0.82, h(0.28)),
        (lateral * 0.94, h(0.55)),
        (lateral * 1.0, h(0.85)),
        tip,
    ]
    floor = [
        tip,
        (lateral * 0.80, dome + 0.25 * c.costophrenic),
        (lateral * 0.52, dome),
        (lateral * 0.32, dome + 0.008),
        base,
    ]
    inner = [
        base,
        (c.medial, h(0.85)),
        (c.medial - 0.004, h(0.60)),
        (c.medial + 0.004, h(0.42)),
        (c.medial + knob, h(0.27)),
        (c.medial + 0.012, h(0.10)),
    ]
    outline = curve(upper) + curve(floor)[1:] + curve(inner)[1:]
    return [(c.centre + side * x + c.tilt * (y - 0.5), y) for x, y in outline]


def lung_field(canvas: Canvas, chest: Chest, side: int) -> Field:
    """Fill one lung field; 0..1."""
    return canvas.polygon(lung_outline(chest, side))
