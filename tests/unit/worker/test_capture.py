"""worker.capture: pictures for people."""

from io import BytesIO

import numpy as np
import pytest
from builders import analysed_image, chest_dataset, chest_image, chest_pixels, lung_masks
from numpy.typing import NDArray
from PIL import Image

from worker.capture import Findings, display_png, layer_png, overlay, overlay_png, statement_pixels
from worker.types import Caveat, ModelIdentity, Orientation


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


def test_the_layer_over_the_radiograph_is_the_overlay() -> None:
    image = chest_image(pixels=chest_pixels(1000, 900, 16))
    analysed = analysed_image(image)
    layer = _open(layer_png(Findings.of(analysed)))
    assert layer.mode == "RGBA"
    under = _open(display_png(image)).convert("RGBA")
    assert layer.size == under.size
    laid = np.asarray(Image.alpha_composite(under, layer).convert("RGB")).astype(int)
    wanted = np.asarray(overlay(analysed)).astype(int)
    body = slice(100, None)  # below the side marks
    assert np.abs(laid[body] - wanted[body]).max() <= 2


def test_the_layer_of_a_small_image_is_finer_than_the_image() -> None:
    assert _open(layer_png(Findings.of(analysed_image()))).size == (720, 768)


def test_a_layer_is_transparent_where_nothing_was_found() -> None:
    nothing = np.zeros((90, 80), np.float32)
    assert not np.asarray(_open(layer_png(Findings(nothing, nothing, nothing)))).any()


def _strips(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the heights of the strips above and below the picture, by the left edge."""
    is_strip = (pixels[:, 0] == (24, 27, 31)).all(axis=1)
    above, below = int(np.argmin(is_strip)), int(np.argmin(is_strip[::-1]))
    assert not is_strip[above : len(pixels) - below].any()
    return above, below


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (256, 240), (3000, 2500)])
def test_a_statement_has_words_above_and_below_the_overlay(rows: int, columns: int) -> None:
    image = chest_image(ds=chest_dataset(pixels=chest_pixels(rows, columns)))
    analysed = analysed_image(image)
    pixels, overlay = statement_pixels(analysed), np.asarray(_open(overlay_png(analysed)))
    above, below = _strips(pixels)
    height, width = pixels.shape[0] - above - below, pixels.shape[1]
    assert max(height, width) >= 768
    assert np.array_equal(pixels[above : above + height], overlay[:height])
    for strip, lines in ((pixels[:above], 1), (pixels[-below:], 3)):
        written = strip.max(axis=(1, 2)) > 150
        assert np.diff(written.astype(int)).clip(0).sum() == lines
        assert written.sum() > 0.015 * width * lines  # tall enough to read


def test_caveats_have_a_line_of_their_own() -> None:
    below = [
        _strips(statement_pixels(analysed_image(caveats=caveats)))[1]
        for caveats in ((), tuple(Caveat))
    ]
    assert below[0] < below[1]


def test_words_fit_beside_a_narrow_picture_and_a_long_name() -> None:
    image = chest_image(ds=chest_dataset(pixels=chest_pixels(1000, 250)))
    model = ModelIdentity("n" * 64, "v" * 64, "0" * 64)
    pixels = statement_pixels(analysed_image(image, model=model, caveats=tuple(Caveat)))
    assert pixels.shape[1] == 480
    assert (pixels[:, -10:] == (24, 27, 31)).all()  # nothing runs over the edge


def test_a_statement_does_not_say_who_the_patient_is() -> None:
    images = [
        chest_image(ds=chest_dataset(PatientName=name, PatientID=name, AccessionNumber=name))
        for name in ("Doe^Jane", "Roe^Richard")
    ]
    first, second = (statement_pixels(analysed_image(image)) for image in images)
    assert np.array_equal(first, second)
