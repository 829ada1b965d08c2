"""Curves over the opacity threshold, against figures counted by hand."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.postprocess import masks_from_probabilities
from worker.training.curves import (
    THRESHOLDS,
    CaseCurve,
    CrossValidation,
    OperatingPoint,
    choose,
    plot_trade_off,
    read_curve,
    trade_off,
)
from worker.types import Mask


@dataclass(frozen=True)
class Read:
    """A reading in memory."""

    reading: tuple[Mask, Mask, Mask] | None = None
    name: str = "case"
    source: str = "gb"
    has_lung: bool = True
    has_opacity: bool = True
    normal: bool = False

    def masks(self) -> tuple[Mask, Mask, Mask]:
        assert self.reading is not None
        return self.reading


def probabilities() -> NDArray[np.float32]:
    """10 x 20: left lung is the right half, right lung the left half; opacity in four rows."""
    maps = np.zeros((3, 10, 20), np.float32)
    maps[0, :, 10:] = maps[1, :, :10] = 0.9
    maps[2, 0], maps[2, 1], maps[2, 2], maps[2, 3] = 0.25, 0.52, 0.55, 0.97
    return maps


def reading() -> tuple[Mask, Mask, Mask]:
    """The reader's lungs lack the last row; he draws opacity in rows 3 and 9."""
    left, right, opacity = np.zeros((3, 10, 20), bool)
    left[:9, 10:] = right[:9, :10] = True
    opacity[3] = opacity[9] = True
    return left, right, opacity


def curve(percent: float = 0.0, **changes: Any) -> CaseCurve:
    flat = tuple(0 for _ in THRESHOLDS)
    built = CaseCurve(
        "n", "nih", None, "normal", 0, None, 0.0, flat, flat, tuple(percent for _ in THRESHOLDS)
    )
    return replace(built, **changes)


def at(threshold: float) -> int:
    return THRESHOLDS.index(threshold)


def test_thresholds_go_from_5_to_95_hundredths() -> None:
    assert len(THRESHOLDS) == 19
    assert (THRESHOLDS[0], THRESHOLDS[9], THRESHOLDS[-1]) == (0.05, 0.5, 0.95)


def test_a_curve_counts_pixels_at_every_threshold() -> None:
    found = read_curve(probabilities(), Read(reading()), fold=3)
    assert (found.kind, found.fold, found.true_opacity_pixels) == ("opacity", 3, 40)
    assert [found.measured[at(t)] for t in (0.05, 0.25, 0.3, 0.5, 0.55, 0.6, 0.95)] == [
        80, 80, 60, 60, 40, 20, 20,
    ]  # fmt: skip
    assert set(found.both) == {20}
    assert found.percent[at(0.5)] == pytest.approx(30.0)
    assert found.lung_dice == pytest.approx(2 * 180 / 380)
    assert found.true_percent == pytest.approx(100 * 20 / 180)  # row 9 is outside his lungs


def test_a_curve_agrees_with_serving_at_every_threshold() -> None:
    maps = np.random.default_rng(5).random((3, 60, 50), dtype=np.float32)
    maps[:2] = maps[:2] ** 0.3  # lungs that need cleaning
    truth = np.random.default_rng(6).random((3, 60, 50)) > 0.6
    case = Read((truth[0], truth[1] & ~truth[0], truth[2]))
    found = read_curve(maps, case, lung_threshold=0.6)
    for number, threshold in enumerate(THRESHOLDS):
        masks = masks_from_probabilities(maps, 0.6, threshold)
        lungs = masks.left | masks.right
        assert found.measured[number] == masks.opacity.sum()
        assert found.both[number] == (masks.opacity & truth[2]).sum()
        assert found.percent[number] == pytest.approx(100 * masks.opacity.sum() / lungs.sum())


def test_a_normal_without_a_mask_has_no_opacity() -> None:
    found = read_curve(probabilities(), Read(has_lung=False, has_opacity=True, normal=True))
    assert (found.kind, found.true_opacity_pixels, found.true_percent) == ("normal", 0, 0.0)
    assert found.lung_dice is None
    assert set(found.both) == {0}
    assert found.percent[0] == pytest.approx(40.0)


def test_opacity_of_a_lung_only_reading_is_unknown() -> None:
    found = read_curve(probabilities(), Read(reading(), has_opacity=False))
    assert (found.kind, found.true_percent, found.true_opacity_pixels) == ("lungs", None, 0)
    assert found.lung_dice == pytest.approx(2 * 180 / 380)


def test_no_lungs_measured_is_no_opacity() -> None:
    found = read_curve(np.zeros((3, 10, 20), np.float32), Read(reading()))
    assert set(found.percent) == {0.0}
    assert found.lung_dice == 0.0


def test_the_trade_off_pools_pixels_and_averages_images() -> None:
    first = read_curve(probabilities(), Read(reading()))
    exact = Read((*reading()[:2], probabilities()[2] > 0.5))
    second = read_curve(probabilities(), exact)
    normals = [curve(value) for value in (0.0, 1.0, 2.0, 30.0)]
    points = trade_off([first, second, *normals, curve(kind="lungs", true_percent=None)])
    point = points[at(0.5)]
    # first: both 20, measured 60, true 40; second: both 60, measured 60, true 60
    assert point.dice_pooled == pytest.approx(2 * 80 / 220)
    assert point.dice_mean == pytest.approx((0.4 + 1.0) / 2)
    assert point.precision == pytest.approx(80 / 120)
    assert point.recall == pytest.approx(80 / 100)
    errors = [30 - 100 * 20 / 180, 30 - 100 * 60 / 180]
    assert point.percent_bias == pytest.approx(sum(errors) / 2)
    assert point.percent_mae == pytest.approx((errors[0] - errors[1]) / 2)
    assert (point.images, point.normals) == (2, 4)
    assert point.normals_median == pytest.approx(1.5)
    assert point.normals_p90 == pytest.approx(2 + 0.7 * 28)
    assert point.normals_above_5 == pytest.approx(0.25)


def test_without_pictures_there_are_no_figures() -> None:
    (first, *_) = trade_off([curve(1.0)])
    assert (first.dice_pooled, first.recall, first.percent_mae) == (None, None, None)
    (first, *_) = trade_off([read_curve(probabilities(), Read(reading()))])
    assert (first.normals, first.normals_p90) == (0, None)


def point(threshold: float, dice: float, p90: float | None) -> OperatingPoint:
    return OperatingPoint(
        threshold, 5, dice, dice, 0.7, 1 - threshold, 5.0, 0.0, 9, p90 and p90 / 2, p90, 0.1
    )


def test_the_choice_is_the_best_dice_within_the_bound() -> None:
    points = [point(0.3, 0.75, 20.0), point(0.5, 0.74, 10.0), point(0.7, 0.6, 2.0)]
    assert choose(points) == points[1]
    assert choose(points, normals_p90=30.0) == points[0]
    assert choose(points, normals_p90=1.0) == replace(points[2], bound_missed=True)


def test_among_equally_good_thresholds_the_least_bias_decides() -> None:
    low, middle, high = (point(0.1, 0.740, 9.0), point(0.2, 0.736, 5.0), point(0.3, 0.734, 2.0))
    points = [
        replace(low, percent_bias=5.0),
        replace(middle, percent_bias=-1.0),
        replace(high, percent_bias=0.0),
    ]
    assert choose(points) == points[1]  # the third is unbiased, and worse by more than 0.005
    assert choose([replace(it, percent_bias=None) for it in points]).threshold == 0.1


def test_the_choice_without_normals_is_the_best_dice() -> None:
    assert choose([point(0.3, 0.6, None), point(0.5, 0.7, None)]).threshold == 0.5


def test_no_choice_without_a_reading_of_opacity() -> None:
    with pytest.raises(ValueError, match="there are none"):
        choose(trade_off([curve()]))


def test_curves_survive_a_file(tmp_path: Path) -> None:
    one = read_curve(probabilities(), Read(reading()), fold=1)
    again = json.loads(json.dumps(one.to_json()))
    assert CaseCurve.from_json(again) == one
    whole = CrossValidation(5, 0, "ab", (one, curve(2.5)), 0.45)
    assert whole.write(tmp_path).name == "cross_validation.json"
    assert CrossValidation.read(tmp_path) == whole
    assert CrossValidation.read(tmp_path / "elsewhere") is None


def test_a_curve_of_other_thresholds_is_refused() -> None:
    values = curve().to_json()
    values["both"] = values["both"][1:]
    with pytest.raises(ValueError, match="19 values"):
        CaseCurve.from_json(values)


@pytest.mark.parametrize("normals", [0, 4])
def test_the_plot_is_a_picture(tmp_path: Path, normals: int) -> None:
    points = trade_off(
        [read_curve(probabilities(), Read(reading())), *(curve(float(n)) for n in range(normals))]
    )
    plot_trade_off(points, tmp_path / "t.png", choose(points))
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
