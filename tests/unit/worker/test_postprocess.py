"""Probabilities become two clean lungs with opacity inside them."""

import time

import numpy as np
from numpy.typing import NDArray

from worker.postprocess import masks_from_probabilities
from worker.types import LungMasks


def maps(rows: int = 100, columns: int = 100) -> NDArray[np.float32]:
    """Two rectangular lungs, the patient's left at the image's right, and no opacity."""
    probabilities = np.zeros((3, rows, columns), np.float32)
    probabilities[1, rows // 5 : 4 * rows // 5, columns // 10 : 4 * columns // 10] = 0.9
    probabilities[0, rows // 5 : 4 * rows // 5, 6 * columns // 10 : 9 * columns // 10] = 0.9
    return probabilities


def cleaned(probabilities: NDArray[np.float32]) -> LungMasks:
    return masks_from_probabilities(probabilities, lung_threshold=0.5, opacity_threshold=0.5)


def test_specks_go_and_a_large_second_part_stays() -> None:
    probabilities = maps()
    probabilities[0, 2:5, 2:5] = 0.99  # a speck on the wrong side
    probabilities[0, 50:53, 60:90] = 0.0  # a dense band cuts the left lung in two
    masks = cleaned(probabilities)
    assert not masks.left[:10].any()
    assert masks.left[25, 70]
    assert masks.left[75, 70]


def test_holes_are_filled_and_bays_are_not() -> None:
    probabilities = maps()
    probabilities[1, 40:50, 20:30] = 0.1
    probabilities[0, 40:50, 80:90] = 0.1
    masks = cleaned(probabilities)
    assert masks.right[45, 25]
    assert not masks.left[45, 88]


def test_a_lung_that_reaches_the_border_of_the_image_keeps_its_hole_filled() -> None:
    probabilities = maps()
    probabilities[1, :, :40] = 0.9
    probabilities[1, 30:40, 10:20] = 0.0
    assert cleaned(probabilities).right[:, :40].all()


def test_no_pixel_belongs_to_both_lungs() -> None:
    probabilities = maps()
    probabilities[0, 20:80, 30:60] = 0.7
    masks = cleaned(probabilities)
    assert not (masks.left & masks.right).any()
    assert masks.right[50, 35]
    assert masks.left[50, 50]


def test_one_lung_inside_a_hole_of_the_other_stays_disjoint() -> None:
    probabilities = maps()
    probabilities[0] = 0.0
    probabilities[0, 10:90, 10:90] = 0.9
    probabilities[1] = 0.0
    probabilities[1, 30:70, 30:70] = 0.95
    masks = cleaned(probabilities)
    assert not (masks.left & masks.right).any()


def test_opacity_outside_the_lungs_is_dropped() -> None:
    probabilities = maps()
    probabilities[2, 40:60, :] = 0.8
    masks = cleaned(probabilities)
    assert masks.opacity.any()
    assert not (masks.opacity & ~(masks.left | masks.right)).any()


def test_the_threshold_counts_from_its_own_value() -> None:
    probabilities = maps()
    probabilities[2, 40:60, 20:30] = 0.5
    assert cleaned(probabilities).opacity.sum() == 200
    higher = masks_from_probabilities(probabilities, lung_threshold=0.5, opacity_threshold=0.51)
    assert not higher.opacity.any()


def test_an_image_without_lungs_gives_empty_masks() -> None:
    probabilities = maps()
    probabilities[:2] = 0.2
    probabilities[2] = 0.9
    masks = cleaned(probabilities)
    assert not masks.left.any()
    assert not masks.right.any()
    assert not masks.opacity.any()


def test_a_whole_film_takes_less_than_a_second() -> None:
    probabilities = maps(3000, 3000)
    started = time.thread_time()  # of the processor, whatever else it has to do
    cleaned(probabilities)
    assert time.thread_time() - started < 1.0
