"""Pictures made worse: the damage is what it says, and the reading stays true."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.training.cases import Case
from worker.training.evaluation.estimates import Sampling
from worker.training.evaluation.robustness import PERTURBATIONS, Perturbation, robustness_rows
from worker.training.formats import LabelFormat
from worker.types import LungMasks

Pixels = NDArray[np.uint16]
LEVELS = {"lung": 60, "opacity": 200}  # of 255: the picture says what its masks are


def by_name(name: str) -> Perturbation:
    return next(it for it in PERTURBATIONS if it.name == name)


def worse(name: str, strength: float, pixels: Pixels) -> Pixels:
    return by_name(name).change(pixels, strength, np.random.default_rng(0))


def segment(pixels: Pixels) -> LungMasks:
    """Read the masks off the grey values: an honest network that noise and blur disturb."""
    grey = pixels / 257.0
    lungs = grey > LEVELS["lung"] / 2
    columns = np.arange(grey.shape[1]) >= grey.shape[1] // 2
    opacity = grey > (LEVELS["lung"] + LEVELS["opacity"]) / 2
    return LungMasks(left=lungs & columns, right=lungs & ~columns, opacity=opacity)


@pytest.fixture
def drawn(tmp_path: Path) -> list[Case]:
    """Six patients: two oblong lungs, the right one opaque in its lower half."""
    cases = []
    for number in range(6):
        grey, bits = np.zeros((2, 120, 100), np.uint8)
        top = 20 + 2 * number
        for left, bit in ((15, 2), (60, 1)):
            grey[top : top + 70, left : left + 25] = LEVELS["lung"]
            bits[top : top + 70, left : left + 25] = bit
        grey[top + 35 : top + 70, 15:40] = LEVELS["opacity"]
        bits[top + 35 : top + 70, 15:40] |= 4
        image, labels = tmp_path / f"{number}.png", tmp_path / f"{number}-mask.png"
        Image.fromarray(grey).save(image)
        Image.fromarray(bits).save(labels)
        cases.append(
            Case(
                name=str(number), image=image, labels=labels, format=LabelFormat.BITMASK,
                split="test", has_lung=True, has_opacity=True,
            )
        )  # fmt: skip
    return cases


def test_every_perturbation_keeps_the_grid_and_grows_with_its_strength(drawn: list[Case]) -> None:
    pixels = drawn[0].pixels()
    for kind in PERTURBATIONS:
        if kind.name == "contrast":
            continue  # goes both ways
        damage = [
            float(np.abs(worse(kind.name, it, pixels).astype(float) - pixels).mean())
            for it in sorted(
                kind.strengths, key=abs, reverse=kind.strengths[0] > abs(kind.strengths[-1])
            )
        ]
        assert damage[-1] > damage[0] > 0, kind.name
        assert worse(kind.name, kind.strengths[0], pixels).shape == pixels.shape


def test_known_damage() -> None:
    ramp = np.tile(np.linspace(0, 65535, 101).astype(np.uint16), (101, 1))
    noisy = worse("noise", 10, np.full((200, 200), 30000, np.uint16) + ramp[0, 50] * 0)
    assert noisy.dtype == np.uint16
    window = worse("window", 10, ramp)
    assert (window[:, :10] == 0).all()
    assert (window[:, 92:] == 65535).all()
    assert worse("contrast", 2, ramp)[0, 50] == pytest.approx(65535 / 4, rel=0.01)
    assert len(np.unique(worse("resolution", 10, ramp)[0])) < 101
    assert np.abs(worse("jpeg", 50, ramp).astype(int) - ramp).mean() < 1000


def test_the_same_seed_makes_the_same_noise(drawn: list[Case]) -> None:
    noise = [by_name("noise")]
    first, again = (robustness_rows(segment, drawn[:2], Sampling(0), noise) for _ in range(2))
    assert first == again


def test_rotation_turns_the_reading_along(drawn: list[Case]) -> None:
    rows = robustness_rows(segment, drawn, Sampling(100), [by_name("rotation")])
    assert [row.strength for row in rows] == [-15, -10, -5, 5, 10, 15]
    for row in rows:
        assert row.dice_pooled.value is not None
        assert row.dice_pooled.value > 0.97  # not turned along it would be about 0.7
        assert row.percent_change < 1.0


def test_figures_are_against_the_untouched_picture(drawn: list[Case]) -> None:
    """A gamma of 2 takes lungs (60 of 255) below the level, a gamma of 0.5 makes all opaque."""
    kind = Perturbation(
        "contrast", "Contrast", "gamma", (0.5, 1.0, 2.0), by_name("contrast").change
    )
    steps: list[int] = []
    soft, same, hard = robustness_rows(
        segment, drawn, Sampling(100), [kind], advance=lambda: steps.append(1)
    )
    assert len(steps) == len(drawn)
    assert (same.dice_pooled.value, same.dice_change.value) == (1.0, 0.0)
    assert (same.percent_shift, same.percent_change) == (0.0, 0.0)
    # untouched: a quarter of the lungs; brightened from 60 to 124: still below 130, the same
    assert soft.percent_shift == 0.0
    # darkened the clear lung is none, so what is left is all opaque: 25 to 100 percent
    assert hard.percent_shift == pytest.approx(75.0)
    assert hard.lung_dice == pytest.approx((2 * 0.25) / 1.25)
    assert hard.without_lungs == 0


def test_lungs_that_are_not_found_are_counted(drawn: list[Case]) -> None:
    black = Perturbation("noise", "Black", "", (1,), lambda pixels, *_: 0 * pixels)
    (row,) = robustness_rows(segment, drawn, Sampling(0), [black])
    assert row.without_lungs == len(drawn)
    assert row.dice_pooled.value == 0.0
    assert row.dice_change.value == -1.0
