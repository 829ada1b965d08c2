"""worker.outlines: closed lines of few points that keep the shape of a mask."""

import numpy as np
import pytest
from builders import lung_masks
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from worker.outlines import outlines


def _filled(lines: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill what the lines enclose, by even and odd, on a grid of 8 x 8 per pixel."""
    inside = np.zeros((shape[0] * 8, shape[1] * 8), dtype=np.bool_)
    for line in lines:
        picture = Image.new("1", (shape[1] * 8, shape[0] * 8))
        ImageDraw.Draw(picture).polygon([tuple(point) for point in line * 8 - 0.5], fill=1)
        inside ^= np.asarray(picture)
    return inside


def _overlap(mask: NDArray[np.bool_]) -> float:
    inside = _filled(outlines(mask), mask.shape)
    fine = np.kron(mask, np.ones((8, 8), dtype=np.bool_))
    return float((inside & fine).sum() / (inside | fine).sum())


def _ring(size: int = 200) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:size, 0:size]
    radius = np.hypot(y - size / 2, x - size / 2)
    return np.asarray((radius < 0.4 * size) & (radius > 0.2 * size))


@pytest.mark.parametrize("name", ["left", "right", "opacity"])
def test_lines_enclose_what_the_mask_does(name: str) -> None:
    assert _overlap(getattr(lung_masks(), name)) > 0.98


def test_a_hole_is_a_line_of_its_own() -> None:
    lines = outlines(_ring())
    assert len(lines) == 2
    assert _overlap(_ring()) > 0.98


def test_every_line_is_closed_and_has_few_points() -> None:
    lines = outlines(_ring(2000))
    assert all(np.array_equal(line[0], line[-1]) for line in lines)
    assert 20 < sum(map(len, lines)) < 1000


def test_coordinates_count_from_the_corner_of_the_first_pixel() -> None:
    mask = np.zeros((6, 9), dtype=np.bool_)
    mask[2:5, 3:8] = True
    (line,) = outlines(mask)
    assert line.min(axis=0).tolist() == [3.0, 2.0]
    assert line.max(axis=0).tolist() == [8.0, 5.0]


def test_a_mask_up_to_the_edge_stays_inside_the_image() -> None:
    (line,) = outlines(np.ones((5, 7), dtype=np.bool_))
    assert line.min(axis=0).tolist() == [0.0, 0.0]
    assert line.max(axis=0).tolist() == [7.0, 5.0]


def test_a_single_pixel_has_an_outline_and_an_empty_mask_none() -> None:
    mask = np.zeros((4, 4), dtype=np.bool_)
    assert outlines(mask) == []
    mask[1, 2] = True
    (line,) = outlines(mask)
    assert line.mean(axis=0) == pytest.approx([2.5, 1.5], abs=0.3)
    assert len(line) > 3


def test_a_border_too_long_for_its_attribute_is_drawn_coarser() -> None:
    """Graphic Data is written with a 16-bit length: more points than 8191 would not fit."""
    comb = np.zeros((12, 8400), dtype=np.bool_)
    comb[6:] = True
    comb[:, ::4] = True
    comb[:, 1::4] = True
    (line,) = outlines(comb)
    assert len(line) <= 1000
