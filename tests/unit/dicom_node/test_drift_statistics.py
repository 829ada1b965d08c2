"""Distances between histograms: against SciPy, which the node has not, and against chance."""

import random

import numpy as np
import pytest
from scipy import stats

from dicom_node.drift.images import ANALYSED, OPACITY_EDGES, Image, Pair
from dicom_node.drift.judging import _opacity, _reasons
from dicom_node.drift.statistics import (
    _all_on_one_side,
    chi_squared,
    ks_of_bins,
    new_kinds,
    psi_of_bins,
    psi_of_kinds,
)
from models.monitoring_sections import DriftSettings

DEFAULTS = DriftSettings()


@pytest.mark.parametrize("degrees", [1, 2, 5, 9, 15, 25])
@pytest.mark.parametrize("significance", [0.05, 0.01, 0.001])
def test_chi_squared_is_that_of_the_tables(degrees: int, significance: float) -> None:
    exact = stats.chi2.isf(significance, degrees)
    assert chi_squared(degrees, significance) == pytest.approx(exact, rel=0.04)


def test_kolmogorov_smirnov_is_that_of_scipy_where_each_value_has_a_bin() -> None:
    draw = random.Random(4)
    one = [draw.randrange(60) for _ in range(300)]
    other = [draw.randrange(50) for _ in range(200)]
    bins = [[side.count(value) for value in range(60)] for side in (one, other)]
    found = ks_of_bins(*bins, significance=0.01)
    assert found.value == pytest.approx(stats.ks_2samp(one, other).statistic)
    assert stats.kstwobign.sf(found.limit * (300 * 200 / 500) ** 0.5) == pytest.approx(
        0.01, rel=0.01
    )


def test_a_kind_on_one_side_only_has_the_probability_of_fisher() -> None:
    exact = stats.fisher_exact([[6, 194], [0, 500]], alternative="greater").pvalue
    assert _all_on_one_side(6, 200, 500) == pytest.approx(exact)


def test_the_index_is_that_of_its_formula() -> None:
    found = psi_of_kinds({"a": 500, "b": 500}, {"a": 900, "b": 100}, 0.001)
    assert found.value == pytest.approx(0.4 * 2.1972, rel=0.01)  # (0.9 - 0.5) ln 1.8 + ...
    assert found.is_significant
    assert psi_of_bins([50, 50], [50, 50], 0.001).value == pytest.approx(0.0, abs=1e-9)


def test_what_cannot_be_compared_has_no_distance() -> None:
    assert psi_of_bins([0, 0], [5, 5], 0.01) == ks_of_bins([0, 0], [5, 5], 0.01) == (0.0, 0.0)
    assert psi_of_kinds({}, {"a": 3}, 0.01) == (0.0, 0.0)
    assert psi_of_bins([100, 0], [100, 0], 0.01) == (0.0, 0.0)  # all in one bin
    assert new_kinds({}, {}, 0.01) == ()


def _pair(seed: int, current: int, scale: float = 1.0, new: float = 0.0) -> Pair:
    """Return a source: a third without opacity, the rest skewed to few percent; a tenth lateral."""
    draw, pair = np.random.default_rng(seed), Pair(model=1)
    for side, number, by, share in (
        (pair.reference, 1000, 1.0, 0.0),
        (pair.current, current, scale, new),
    ):
        inverted, lateral = draw.binomial(number, share), draw.binomial(number, 0.1)
        analysed = number - inverted - lateral
        side.kinds.update({ANALYSED: analysed, "inverted": inverted, "lateral_view": lateral})
        percents = np.where(
            draw.random(analysed) < 0.3, 0.0, by * draw.lognormal(1.5, 1.2, analysed)
        )
        places = np.searchsorted(OPACITY_EDGES, percents.clip(max=100))
        side.bins = np.bincount(places, minlength=len(OPACITY_EDGES) + 1).tolist()
    return pair


@pytest.mark.parametrize("current", [150, 1000])
def test_the_same_images_are_no_alarm(current: int) -> None:
    """Over 400 seeds: at most 0.4 false alarms of each kind are expected."""
    pairs = [_pair(seed, current) for seed in range(400)]
    for judge in (_opacity, _reasons):
        found = [judge("CR1", pair, DEFAULTS) for pair in pairs]
        assert all(it.is_known for it in found)
        assert sum(it.is_alarm for it in found) <= 2


@pytest.mark.parametrize("significance", [0.05, 0.01])
def test_the_limits_are_exceeded_as_often_as_they_say(significance: float) -> None:
    """The distribution of the index under chance, which its limit is taken from; KS is lower."""
    exceeded = [0, 0, 0]
    for seed in range(600):
        pair = _pair(10_000 + seed, 400)
        sides = pair.reference.bins, pair.current.bins
        kinds = pair.reference.kinds, pair.current.kinds
        exceeded[0] += psi_of_bins(*sides, significance).is_significant
        exceeded[1] += psi_of_kinds(*kinds, significance).is_significant
        exceeded[2] += ks_of_bins(*sides, significance).is_significant
    assert max(exceeded) / 600 <= 1.8 * significance + 0.005
    assert exceeded[0] / 600 >= 0.3 * significance


def test_more_opacity_is_found() -> None:
    for seed in range(20):
        found = _opacity("CR1", _pair(seed, 200, scale=3.0), DEFAULTS)
        assert found.is_alarm
        assert "CR1: the images show more opacity" in found.sentence


def test_a_new_reason_is_found_and_named() -> None:
    for seed in range(20):
        found = _reasons("CR1", _pair(seed, 200, new=0.1), DEFAULTS)
        assert found.is_alarm
        assert found.new_reasons == ("inverted",)
        assert "a reason that the reference lacks: inverted (" in found.sentence


def test_a_reason_that_becomes_common_is_found() -> None:
    pair = _pair(1, 300)
    for _ in range(300):
        pair.current.add(Image(1, "CR1", "lateral_view", 1, None), 1)
    found = _reasons("CR1", pair, DEFAULTS)
    assert (found.is_alarm, found.new_reasons) == (True, ())
    assert "CR1: lateral_view was 1" in found.sentence  # 10 % or so, and is 55 %


def test_too_few_images_say_nothing() -> None:
    found = _opacity("CR1", _pair(1, 30, scale=9.0), DEFAULTS)
    assert (found.is_known, found.is_alarm) == (False, False)
    assert "too few" in found.sentence
