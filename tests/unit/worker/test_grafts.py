"""worker.training.grafts: lungs turned white stay lungs, become opacity, and nothing else does."""

import numpy as np
import pytest
from scipy import ndimage

from worker.training.grafts import Chest, whiten

SIZE = 96


@pytest.fixture
def clear() -> Chest:
    """Two dark lungs in a grey body, nothing in them."""
    rows, columns = np.indices((SIZE, SIZE))
    right = ((rows - 48) / 30) ** 2 + ((columns - 28) / 14) ** 2 < 1
    left = right[:, ::-1]
    image = np.where(left | right, 0.2, 0.7).astype(np.float32)
    inside = np.ones((SIZE, SIZE), bool)
    return Chest(image, left, right, np.zeros_like(left), inside, read=True)


@pytest.mark.parametrize("seed", range(12))
def test_one_lung_or_a_part_of_it_becomes_as_bright_as_the_body(clear: Chest, seed: int) -> None:
    white = whiten(clear, np.random.default_rng(seed))
    assert (white.left == clear.left).all()
    assert (white.right == clear.right).all()
    lung = clear.left if (white.opacity & clear.left).any() else clear.right
    assert white.opacity.sum() > 0.15 * lung.sum()
    assert not (white.opacity & ~lung).any()
    core = ndimage.binary_erosion(white.opacity, iterations=5)
    assert 0.4 < white.image[core].mean() < 0.8
    far = ~ndimage.binary_dilation(white.opacity, iterations=12)
    assert np.abs(white.image - clear.image)[far].max() < 0.01


def test_some_lungs_are_white_throughout_and_some_in_part(clear: Chest) -> None:
    shares = {
        round(float(whiten(clear, np.random.default_rng(seed)).opacity.sum() / clear.left.sum()), 1)
        for seed in range(20)
    }
    assert 1.0 in shares
    assert min(shares) < 0.8


def test_opacity_that_was_there_stays(clear: Chest) -> None:
    clear.opacity[40:50, 20:30] = True
    white = whiten(clear, np.random.default_rng(1))
    assert white.opacity[40:50, 20:30].all()
