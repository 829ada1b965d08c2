"""A segmenter gives the same masks for the same picture, whatever its storage."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from worker.errors import BundleError
from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.training.phantom import make_phantom
from worker.types import ChestImage, Orientation


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load(find_bundle("unet"), "cpu")


def image(
    pixels: NDArray[np.uint16], orientation: Orientation | None = None, aspect: float = 1.0
) -> ChestImage:
    return ChestImage(pixels, Dataset(), None, orientation or Orientation(), aspect)


def test_masks_lie_on_the_source_grid_and_find_both_lungs(segmenter: Segmenter) -> None:
    phantom = make_phantom(21, 500, 25.0)
    masks = segmenter.segment(image(phantom.pixels))
    for found, known in ((masks.left, phantom.left), (masks.right, phantom.right)):
        assert found.shape == phantom.pixels.shape
        assert 2 * (found & known).sum() / (found.sum() + known.sum()) > 0.9
    assert not (masks.opacity & ~(masks.left | masks.right)).any()


def test_the_same_picture_gives_the_same_masks(segmenter: Segmenter) -> None:
    picture = image(make_phantom(22, 300, 25.0).pixels)
    first, again = segmenter.segment(picture), segmenter.segment(picture)
    assert np.array_equal(first.opacity, again.opacity)
    assert np.array_equal(first.left, again.left)


@pytest.mark.parametrize(
    "orientation",
    [Orientation(transpose=True), Orientation(flip_rows=True), Orientation(True, True, True)],
)
def test_a_turned_picture_gives_turned_masks(
    segmenter: Segmenter, orientation: Orientation
) -> None:
    upright = make_phantom(23, 300, 25.0).pixels
    stored = np.ascontiguousarray(orientation.to_source(upright)).astype(np.uint16)
    turned = segmenter.segment(image(stored, orientation))
    wanted = segmenter.segment(image(upright))
    back = orientation.to_upright(turned.left)
    assert (back != wanted.left).mean() < 0.002


def test_a_higher_threshold_finds_less(segmenter: Segmenter) -> None:
    picture = image(make_phantom(24, 300, 40.0).pixels)
    low, high = (segmenter.segment(picture, limit).opacity.sum() for limit in (0.1, 0.9))
    assert high < low


def test_a_picture_without_contrast_gives_masks_and_no_error(segmenter: Segmenter) -> None:
    segmenter.warm_up()
    masks = segmenter.segment(image(np.zeros((200, 150), np.uint16)))
    assert masks.left.shape == (200, 150)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BundleError, match="torch sees no GPU"):
        Segmenter.load(find_bundle("unet"), "cuda")


def test_auto_says_which_device_it_took() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Segmenter.load(find_bundle("unet"), "auto", threads=2).device == expected
