"""Figures and intervals, against values worked out by hand."""

import numpy as np
import pytest

from worker.training.evaluation.estimates import (
    MIN_PATIENTS,
    Estimate,
    Sampling,
    Statistic,
    auc,
    auc_within,
    correlation,
    mean,
    percentile,
    ratio,
)
from worker.training.evaluation.targets import TARGETS, Target


def value(statistic: Statistic, images: int) -> float:
    return statistic(np.arange(images))


def test_statistics_of_known_numbers() -> None:
    numbers = np.array([1.0, 2.0, 3.0, 10.0])
    assert value(mean(numbers), 4) == 4.0
    assert value(percentile(numbers, 50), 4) == 2.5
    assert value(ratio(numbers, 2 * numbers), 4) == 0.5
    assert value(ratio(numbers, 0 * numbers), 4) == 1.0
    assert value(correlation(numbers, 7 - 2 * numbers), 4) == pytest.approx(-1.0)
    assert np.isnan(value(correlation(numbers, np.ones(4)), 4))


def test_a_ratio_pools_and_does_not_average() -> None:
    part, whole = np.array([1.0, 90.0]), np.array([10.0, 100.0])
    assert value(ratio(part, whole), 2) == pytest.approx(91 / 110)


def test_auc_counts_pairs_in_order_and_halves_ties() -> None:
    positive = np.array([False, True, False, True])
    assert value(auc(np.array([1.0, 2.0, 3.0, 4.0]), positive), 4) == 0.75
    assert value(auc(np.array([1.0, 1.0, 1.0, 1.0]), positive), 4) == 0.5
    assert np.isnan(value(auc(np.ones(4), np.ones(4, bool)), 4))


def test_auc_within_earns_nothing_by_the_stratum() -> None:
    scores = np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    positive = np.array([False, False, True, True, True, False])
    view = np.array(["PA", "PA", "PA", "AP", "AP", "AP"])
    assert value(auc(scores, positive), 6) == pytest.approx((2 * 2 + 0.5 * 2 + 0.5 * 2) / 9)
    assert value(auc_within(scores, positive, view), 6) == 0.5
    scores[2] = 2.0  # in order within PA: both of its pairs, and half of the two of AP
    assert value(auc_within(scores, positive, view), 6) == pytest.approx((2 + 1) / 4)


def test_the_interval_is_over_patients_not_over_images() -> None:
    """Ten images of each patient are alike: they say no more than one image of each."""
    patients = [f"p{number}" for number in range(8)]
    values = np.arange(8.0)
    one = Sampling(2000, 3).over(patients).estimate(mean(values))
    ten = (
        Sampling(2000, 3).over(list(np.repeat(patients, 10))).estimate(mean(np.repeat(values, 10)))
    )
    assert (ten.low, ten.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert (ten.images, ten.patients) == (80, 8)
    # the mean of 8 draws of 0..7 has a standard error of 2.29 / sqrt(8) = 0.81
    assert one.value == 3.5
    assert one.low == pytest.approx(3.5 - 1.96 * 0.81, abs=0.2)
    assert one.high == pytest.approx(3.5 + 1.96 * 0.81, abs=0.2)


def test_the_same_seed_draws_the_same() -> None:
    patients, values = list("abcdefg"), np.arange(7.0) ** 2
    first, again, other = (
        Sampling(200, seed).over(patients).estimate(mean(values)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_few_patients_have_no_interval() -> None:
    images = [f"p{number % (MIN_PATIENTS - 1)}" for number in range(20)]
    found = Sampling().over(images).estimate(mean(np.arange(20.0)))
    assert (found.value, found.low, found.high) == (9.5, None, None)
    assert Sampling(0).over(list("abcdef")).estimate(mean(np.arange(6.0))).low is None


def test_a_figure_that_is_not_defined_is_none() -> None:
    assert Sampling().over([]).estimate(mean(np.array([]))) == Estimate(None, None, None, 0, 0)
    found = Sampling(50).over(list("abcdef")).estimate(auc(np.ones(6), np.zeros(6, bool)))
    assert (found.value, found.low) == (None, None)


def estimate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, low, high, 9, 9)


def test_a_target_is_met_at_its_bound_and_open_when_the_interval_holds_it() -> None:
    overlap, error = Target("s", "f", "Dice", 0.7), Target("s", "f", "error", 10.0, "points")
    assert overlap.verdict(estimate(0.7)) == "met"
    assert overlap.verdict(estimate(0.699)) == "missed"
    assert error.verdict(estimate(10.0)) == "met"
    assert error.verdict(estimate(10.1)) == "missed"
    assert error.verdict(None) == "not measured"
    assert overlap.is_certain(estimate(0.8, 0.71, 0.9))
    assert not overlap.is_certain(estimate(0.8, 0.69, 0.9))
    assert not overlap.is_certain(estimate(0.8))


def test_every_target_says_which_way_is_better() -> None:
    bounds = {(target.section, target.figure): target for target in TARGETS}
    assert bounds["opacity", "dice_pooled"].at_least
    assert not bounds["normals", "p90"].at_least
    assert not bounds["percent", "mae"].at_least
