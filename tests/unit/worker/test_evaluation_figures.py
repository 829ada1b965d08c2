"""What is counted on one picture and over many, against masks drawn by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.training.cases import Case
from worker.training.curves import THRESHOLDS, read_curve
from worker.training.evaluation.boundaries import boundaries, boundary_figures, hd95
from worker.training.evaluation.calibration import BINS, calibrate, pixel_bins
from worker.training.evaluation.estimates import Figures, Sampling
from worker.training.evaluation.figures import (
    band_of,
    by,
    lung_figures,
    normal_figures,
    opacity_figures,
    percent_figures,
)
from worker.training.evaluation.measured import (
    Measured,
    Overlap,
    compare,
    from_curves,
    reading_of,
    view_of,
)
from worker.training.evaluation.outcome import outcome_rows
from worker.training.evaluation.uses import Uses
from worker.types import LungMasks, Mask

PLAIN = Sampling(replicates=0)


def case(name: str = "c", **known: Any) -> Case:
    return replace(Case(name=name, image=Path(f"{name}.png")), **known)


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros((20, 40), dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def masks(opacity: Mask) -> LungMasks:
    """Lungs of 10 x 10 each; the patient's left is the right side of the picture."""
    return LungMasks(left=box(5, 25, 10, 10), right=box(5, 5, 10, 10), opacity=opacity)


def values(figures: Figures) -> dict[str, float | None]:
    return {name: estimate.value for name, estimate in figures.items()}


def row(percent: float = 0.0, **changes: Any) -> Measured:
    built = Measured("c", "p", "gb", "PA", "opacity", Overlap(), percent)
    return replace(built, **changes)


def test_a_picture_is_compared_with_its_reading() -> None:
    read = case(view="AP Supine", patient="7", has_lung=True, has_opacity=True)
    found = compare(read, masks(box(5, 5, 2, 10)), masks(box(6, 5, 4, 10)))
    assert (found.opacity.both, found.opacity.measured, found.opacity.true) == (10, 20, 40)
    assert found.percent == pytest.approx(10.0)
    assert found.true_percent == pytest.approx(20.0)
    assert found.error == pytest.approx(-10.0)
    assert (found.lung_dice, found.left_dice, found.right_dice) == (1.0, 1.0, 1.0)
    assert (found.kind, found.view, found.patient) == ("opacity", "AP", "patient 7")


def test_opacity_that_the_reader_drew_outside_his_lungs_is_missed_but_not_his_percentage() -> None:
    read = case(has_lung=True, has_opacity=True)
    found = compare(read, masks(box(0, 0, 0, 0)), masks(box(0, 5, 10, 10)))
    assert found.opacity.true == 100
    assert found.true_percent == pytest.approx(25.0)


def test_a_normal_has_no_opacity_and_lungs_that_nobody_read_have_no_dice() -> None:
    found = compare(case(normal=True), masks(box(5, 5, 10, 10)), masks(box(5, 5, 9, 9)))
    assert (found.kind, found.percent, found.true_percent) == ("normal", 50.0, 0.0)
    assert found.lung_dice is None


def test_a_reading_without_lungs_has_no_percentage() -> None:
    found = compare(case(has_opacity=True), masks(box(5, 5, 2, 2)), masks(box(5, 5, 2, 2)))
    assert (found.true_percent, found.error) == (None, None)
    assert found.opacity.dice == 1.0


def test_a_picture_without_labels_is_read_as_nothing() -> None:
    reading = reading_of(case(normal=True), (4, 6))
    assert reading.left.shape == (4, 6)
    assert not (reading.left | reading.right | reading.opacity).any()


@pytest.mark.parametrize(
    ("text", "view"),
    [("AP Supine", "AP"), ("pa", "PA"), ("", "not stated"), ("AP Erect", "AP"), ("LL", "LL")],
)
def test_views_are_pa_or_ap(text: str, view: str) -> None:
    assert view_of(text) == view


def test_opacity_figures_pool_pixels_and_average_images() -> None:
    rows = [row(opacity=Overlap(10, 20, 40)), row(opacity=Overlap(90, 100, 100))]
    found = values(opacity_figures(rows, PLAIN))
    assert found["dice_pooled"] == pytest.approx(200 / 260)
    assert found["iou_pooled"] == pytest.approx(100 / 160)
    assert found["precision"] == pytest.approx(100 / 120)
    assert found["recall"] == pytest.approx(100 / 140)
    assert found["dice_mean"] == pytest.approx((20 / 60 + 180 / 200) / 2)
    assert found["iou_mean"] == pytest.approx((10 / 50 + 90 / 110) / 2)
    assert found["recall_mean"] == pytest.approx((0.25 + 0.9) / 2)


def test_agreement_is_bias_and_196_standard_deviations() -> None:
    errors = [-4.0, 2.0, 11.0]
    rows = [row(30.0 + error, true_percent=30.0) for error in errors]
    found = values(percent_figures([*rows, row(99.0)], PLAIN))  # the last has no reading
    spread = np.std(errors, ddof=1)
    assert found["bias"] == pytest.approx(3.0)
    assert found["mae"] == pytest.approx(17 / 3)
    assert found["agreement_low"] == pytest.approx(3.0 - 1.96 * spread)
    assert found["agreement_high"] == pytest.approx(3.0 + 1.96 * spread)
    assert found["within_10"] == pytest.approx(2 / 3)
    assert found["pearson"] is None  # the reader's percentage does not vary


def test_normals_count_alarms_above_five_percent() -> None:
    found = normal_figures([row(value) for value in (0.0, 1.0, 5.0, 20.0)], Sampling(100))
    assert values(found) == {
        "median": 3.0, "p90": pytest.approx(15.5), "mean": 6.5, "maximum": 20.0, "above_5": 0.25,
    }  # fmt: skip


def test_groups_of_severity_ascend_and_others_are_by_name() -> None:
    rows = [row(true_percent=value, lung_dice=0.9) for value in (60.0, 0.0, 30.0, 5.0)]
    found = by(rows, band_of, lung_figures, PLAIN)
    assert list(found) == ["none", "mild", "moderate", "severe"]
    assert found["severe"]["lung_dice"].images == 1
    assert band_of(row()) == "not stated"


def test_lung_figures_leave_out_what_nobody_read() -> None:
    rows = [row(lung_dice=0.8, left_dice=0.7), row(lung_dice=0.9), row()]
    found = lung_figures(rows, PLAIN)
    assert found["lung_dice"].value == pytest.approx(0.85)
    assert (found["left_dice"].value, found["left_dice"].images) == (0.7, 1)
    assert found["right_dice"].value is None


def test_boundaries_that_lie_three_pixels_apart() -> None:
    assert hd95(box(2, 2, 10, 10), box(2, 5, 10, 10)) == pytest.approx(3.0)
    assert hd95(box(2, 2, 10, 10), box(2, 2, 10, 10)) == 0.0
    assert hd95(box(2, 2, 0, 0), box(2, 2, 3, 3)) is None


def test_boundaries_are_percent_of_the_diagonal() -> None:
    there, moved = masks(box(5, 5, 4, 4)), masks(box(9, 5, 4, 4))
    found = boundary_figures(boundaries("p", there, moved), PLAIN)
    assert found["left"]["pixels_median"].value == 0.0
    assert found["opacity"]["pixels_mean"].value == pytest.approx(4.0)
    assert found["opacity"]["percent_mean"].value == pytest.approx(400 / np.hypot(20, 40))


def test_calibration_of_two_bins() -> None:
    lungs = np.ones((10, 10), dtype=np.bool_)
    probability = np.full((10, 10), 0.125, np.float32)
    probability[5:] = 0.875
    opacity = np.zeros((10, 10), dtype=np.bool_)
    opacity[5:7] = True  # 20 of the 50 pixels that are sure
    found = calibrate([pixel_bins("p", probability, lungs, opacity)], PLAIN)
    assert found.ece.value == pytest.approx(0.5 * 0.125 + 0.5 * (0.875 - 0.4))
    squared = 50 * 0.125**2 + 20 * 0.125**2 + 30 * 0.875**2
    assert found.brier.value == pytest.approx(squared / 100)
    assert len(found.counts) == BINS
    assert (found.observed[BINS - 3], found.observed[0]) == (pytest.approx(0.4), None)


def test_calibration_looks_inside_the_lungs_only() -> None:
    probability = np.ones((20, 40), np.float32)
    counted = pixel_bins("p", probability, box(0, 0, 2, 3), box(0, 0, 1, 3))
    assert counted.counts[:, -1].tolist() == [6.0, 6.0, 3.0]


def test_curves_become_pictures_at_the_nearest_step() -> None:
    maps = np.zeros((3, 20, 40), np.float32)
    maps[0, 5:15, 25:35] = maps[1, 5:15, 5:15] = 0.9
    maps[2, 5:15, 5:15] = np.linspace(0.04, 0.94, 10)[:, None]
    curve = read_curve(maps, case("known", normal=True))
    named, other = from_curves(
        [curve, replace(curve, case="other")], 0.62, {"known": case("known", patient="3")}
    )
    assert (named.patient, other.patient) == ("patient 3", "case other")
    assert named.opacity.measured == curve.measured[THRESHOLDS.index(0.6)] == 40
    assert (named.percent, named.kind) == (pytest.approx(20.0), "normal")


def outcome_case(number: int, view: str, icu: str, age: float | None = None) -> Case:
    return case(f"c{number}", patient=str(number), view=view, went_icu=icu, age=age)


def test_the_percentage_is_judged_within_a_view() -> None:
    """The view decides here: pooled the percentage looks good, within a view it tells nothing."""
    sick = [(outcome_case(n, "AP", "Y", 80.0), 60.0) for n in range(12)]
    sick += [(outcome_case(20 + n, "AP", "N", 80.0), 60.0) for n in range(6)]
    well = [(outcome_case(40 + n, "PA", "N", 30.0), 5.0) for n in range(12)]
    well += [(outcome_case(60 + n, "PA", "Y", 30.0), 5.0) for n in range(6)]
    unknown = [(outcome_case(90, "PA", ""), 50.0)]
    rows = {
        (it.outcome, it.predictor, it.pictures): it
        for it in outcome_rows([*sick, *well, *unknown], PLAIN)
    }

    def auc_of(predictor: str, pictures: str) -> float | None:
        estimate = rows["intensive care", predictor, pictures].auc
        return estimate.value if estimate else None

    assert auc_of("percentage", "all") == pytest.approx(2 / 3)
    assert auc_of("AP view alone", "AP and PA") == pytest.approx(2 / 3)
    assert auc_of("percentage", "pairs of one view") == 0.5
    assert auc_of("percentage", "AP only") == 0.5
    assert auc_of("age alone", "with age") == pytest.approx(2 / 3)
    first = rows["intensive care", "percentage", "all"]
    assert (first.events, first.others) == (18, 18)
    assert rows["death", "percentage", "all"].few


def test_nobody_who_trained_is_measured() -> None:
    labels = Path("labels.png")
    cases = [
        case("trained", patient="1", split="train", labels=labels, has_opacity=True),
        case("same-patient", patient="1", split="unlabelled", went_icu="Y"),
        case("told", patient="2", split="unlabelled", went_icu="N"),
        case("silent", patient="3", split="unlabelled", went_icu="Would have been stated"),
        case("test", patient="4", split="test", labels=labels, has_opacity=True, survival="N"),
        case("normal", patient="5", split="test", normal=True),
    ]
    uses = Uses.of(cases)
    assert [it.name for it in uses.read] == ["test"]
    assert [it.name for it in uses.normals] == ["normal"]
    assert [it.name for it in uses.outcome] == ["told", "test"]
    assert [it.name for it in uses.all] == ["test", "normal", "told"]
    with pytest.raises(ValueError, match="no labelled test case"):
        Uses.of(cases[:1])
