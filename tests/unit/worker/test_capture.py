"""worker.capture: pictures for people."""

from io import BytesIO

import numpy as np
import pytest
from builders import analysed_image, chest_image, chest_pixels, lung_masks
from PIL import Image

from worker.capture import display_png, overlay_png
from worker.types import Orientation


def _open(png: bytes) -> Image.Image:
    return Image.open(BytesIO(png))


def test_display_is_grey_and_at_most_1024_long() -> None:
    picture = _open(display_png(chest_image(pixels=chest_pixels(2000, 1500, 16))))
    assert picture.mode == "L"
    assert picture.size == (768, 1024)


def test_display_keeps_small_images_small() -> None:
    assert _open(display_png(chest_image())).size == (240, 256)


def test_pixels_become_square() -> None:
    picture = _open(display_png(chest_image(row_height_over_width=2.0)))
    assert picture.size == (240, 512)


def test_display_is_upright() -> None:
    pixels = chest_pixels(256, 240, 16)
    turned = Orientation(transpose=True, flip_rows=True)
    stored = np.ascontiguousarray(turned.to_source(pixels))
    upright = np.asarray(_open(display_png(chest_image(pixels=stored, orientation=turned))))
    assert np.array_equal(upright, pixels >> 8)


@pytest.mark.parametrize("assumed", [False, True])
def test_overlay_shows_each_finding_in_its_colour(assumed: bool) -> None:  # noqa: FBT001  both cases
    image = chest_image(orientation=Orientation(assumed=assumed))
    picture = np.asarray(_open(overlay_png(analysed_image(image))).convert("RGB")).astype(int)
    body = picture[: picture.shape[1] * 256 // 240]
    middle = body.shape[1] // 2
    blue = (np.abs(body - (0, 114, 178)).sum(axis=2) < 40).nonzero()[1]
    green = (np.abs(body - (0, 158, 115)).sum(axis=2) < 40).nonzero()[1]
    assert blue.size > 100
    assert blue.min() > middle, "the patient's left is at the right"
    assert green.size > 100
    assert green.max() < middle
    orange = (body[..., 0] > body[..., 2] + 40).sum()
    assert orange > 1000


def test_overlay_has_a_caption_strip_below() -> None:
    picture = _open(overlay_png(analysed_image()))
    assert picture.mode == "RGB"
    assert picture.width == 720
    assert picture.height > 768 + 80


def test_the_same_image_gives_the_same_bytes() -> None:
    assert overlay_png(analysed_image()) == overlay_png(analysed_image())


def test_no_opacity_paints_nothing_orange() -> None:
    masks = lung_masks(opacity=0)
    empty = type(masks)(masks.left, masks.right, np.zeros_like(masks.left))
    picture = np.asarray(_open(overlay_png(analysed_image(masks=empty)))).astype(int)
    body = picture[:760]
    assert (np.abs(body - (213, 94, 0)).sum(axis=2) < 60).sum() == 0
