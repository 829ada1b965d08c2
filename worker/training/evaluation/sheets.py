"""Contact sheets of the worst pictures: what a reader wants to see before he believes a figure.

They hold the pictures themselves: a sheet is as confidential as they are.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from worker.preprocess import window_bounds
from worker.training.cases import Case
from worker.training.evaluation.measured import Measured, Segment, reading_of
from worker.types import LungMasks, Mask

Colour = tuple[int, int, int]
WORST: Final = 10
_PANEL: Final = 330  # pixels, the long side of one picture
_GAP, _LINE = 10, 20
_PAPER: Final = (18, 20, 23)
_INK: Final = (240, 240, 240)
_FAINT: Final = (170, 175, 180)
_LUNGS: Final = (86, 180, 233)
_FOUND: Final = (213, 94, 0)
_AGREED: Final = (0, 158, 115)
_MISSED: Final = (240, 228, 66)
_FILL: Final = 0.35


@dataclass(frozen=True)
class Tile:
    """Panels of one picture side by side, above two lines of text."""

    panels: tuple[Image.Image, ...]
    heading: str
    detail: str


def worst_normals(rows: Sequence[Measured], count: int = WORST) -> list[Measured]:
    """Return the normals with the most opacity found, the worst first."""
    return sorted(rows, key=lambda row: (-row.percent, row.case))[:count]


def worst_opacity(rows: Sequence[Measured], count: int = WORST) -> list[Measured]:
    """Return the pictures whose opacity agrees least with the reader's, the worst first."""
    return sorted(rows, key=lambda row: (row.opacity.dice, row.case))[:count]


def write_names(rows: Sequence[Measured], path: Path) -> None:
    """Write which pictures a sheet shows, in its order."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ("rank", "case", "source", "view", "percent", "reader_percent", "opacity_dice")
        )
        for rank, row in enumerate(rows, start=1):
            judged = row.kind == "opacity"
            true = "" if row.true_percent is None else f"{row.true_percent:.2f}"
            dice = f"{row.opacity.dice:.4f}" if judged else ""
            writer.writerow(
                (rank, row.case, row.source, row.view, f"{row.percent:.2f}", true, dice)
            )


def normals_sheet(
    segment: Segment, pairs: Sequence[tuple[Case, Measured]], title: str, path: Path
) -> None:
    """Write each normal bare and with what was found on it."""
    tiles = []
    for rank, (case, row) in enumerate(pairs, start=1):
        pixels = case.pixels()
        masks = segment(pixels)
        bare = _bare(pixels)
        found = _outlined(bare, masks.left | masks.right, _LUNGS)
        tiles.append(
            Tile(
                (_image(bare), _image(_filled(found, masks.opacity, _FOUND))),
                f"{rank}   {row.percent:.1f} % found",
                f"{row.case}   {row.source}   view {row.view}",
            )
        )
    legend = (("lungs by the model", _LUNGS), ("opacity by the model", _FOUND))
    _write(tiles, 2, title, legend, path)


def opacity_sheet(
    segment: Segment, pairs: Sequence[tuple[Case, Measured]], title: str, path: Path
) -> None:
    """Write each picture bare and with where model and reader agree and differ."""
    tiles = []
    for rank, (case, row) in enumerate(pairs, start=1):
        pixels = case.pixels()
        masks, reading = segment(pixels), reading_of(case, pixels.shape)
        bare = _bare(pixels)
        true = "not read" if row.true_percent is None else f"{row.true_percent:.1f} %"
        tiles.append(
            Tile(
                (_image(bare), _image(_differences(bare, masks, reading))),
                f"{rank}   Dice {row.opacity.dice:.3f}   model {row.percent:.1f} %   reader {true}",
                f"{row.case}   {row.source}   view {row.view}",
            )
        )
    legend = (
        ("both", _AGREED),
        ("reader only", _MISSED),
        ("model only", _FOUND),
        ("lungs by the model", _LUNGS),
    )
    _write(tiles, 2, title, legend, path)


def _differences(
    bare: NDArray[np.float32], masks: LungMasks, reading: LungMasks
) -> NDArray[np.float32]:
    found = _outlined(bare, masks.left | masks.right, _LUNGS)
    for mask, colour in (
        (masks.opacity & reading.opacity, _AGREED),
        (reading.opacity & ~masks.opacity, _MISSED),
        (masks.opacity & ~reading.opacity, _FOUND),
    ):
        found = _filled(found, mask, colour)
    return found


def _bare(pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the picture in the window that the network sees, as RGB on 0..255."""
    low, high = window_bounds(pixels)
    grey = np.clip((pixels - low) / max(high - low, 1.0), 0.0, 1.0) * 255.0
    return np.repeat(grey.astype(np.float32)[..., None], 3, axis=2)


def _filled(canvas: NDArray[np.float32], mask: Mask, colour: Colour) -> NDArray[np.float32]:
    tinted = canvas.copy()
    tinted[mask] = (1 - _FILL) * tinted[mask] + _FILL * np.array(colour, np.float32)
    return _outlined(tinted, mask, colour)


def _outlined(canvas: NDArray[np.float32], mask: Mask, colour: Colour) -> NDArray[np.float32]:
    """Draw the border of a mask, thick enough to survive the reduction to a panel."""
    width = max(1, round(max(mask.shape) / _PANEL))
    edge = mask & ~ndimage.binary_erosion(mask, iterations=width)
    outlined = canvas.copy()
    outlined[edge] = colour
    return outlined


def _image(canvas: NDArray[np.float32]) -> Image.Image:
    picture = Image.fromarray(np.rint(canvas).astype(np.uint8))
    scale = _PANEL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(
    tiles: Sequence[Tile],
    columns: int,
    title: str,
    legend: Sequence[tuple[str, Colour]],
    path: Path,
) -> None:
    """Set the tiles in rows below title and legend; a row is as high as its highest picture."""
    width = 2 * _PANEL + 3 * _GAP
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    heights = [max(it.height for tile in row for it in tile.panels) + 3 * _LINE for row in rows]
    sheet = Image.new("RGB", (columns * width, sum(heights) + 4 * _LINE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), title, fill=_INK, font=ImageFont.load_default(17))
    x = float(_GAP)
    for label, colour in legend:
        draw.rectangle((x, 2 * _LINE, x + 12, 2 * _LINE + 12), fill=colour)
        draw.text((x + 18, 2 * _LINE - 2), label, fill=_INK, font=ImageFont.load_default(14))
        x += 34 + draw.textlength(label, font=ImageFont.load_default(14))
    top = 4 * _LINE
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            _set(sheet, draw, tile, (column * width + _GAP, top))
        top += height
    sheet.save(path)


def _set(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]
) -> None:
    left, top = corner
    draw.text((left, top - 6), tile.heading, fill=_INK, font=ImageFont.load_default(15))
    draw.text((left, top + 13), tile.detail, fill=_FAINT, font=ImageFont.load_default(12))
    for panel in tile.panels:
        sheet.paste(panel, (left, top + round(1.7 * _LINE)))
        left += _PANEL + _GAP
