"""worker.measurements: masks and spacing to numbers."""

import numpy as np
import pytest
from builders import lung_masks
from hypothesis import given
from hypothesis import strategies as st

from models.settings import AnalysisSettings
from worker.measurements import measure, severity_of
from worker.types import SIDES, LungMasks, Severity, Spacing, SpacingBasis

SETTINGS = AnalysisSettings()
SPACING = Spacing(0.5, 0.2, SpacingBasis.CALIBRATED)


def _masks(left: int, right: int, opacity_left: int, opacity_right: int) -> LungMasks:
    """Masks with these pixel counts, of 20 pixels per side."""
    grid = np.zeros((3, 2, 20), dtype=np.bool_)
    grid[0, 0, :left] = grid[1, 1, :right] = True
    grid[2, 0, :opacity_left] = grid[2, 1, :opacity_right] = True
    return LungMasks(grid[0], grid[1], grid[2])


def test_counts_areas_and_percentages() -> None:
    result = measure(_masks(10, 20, 5, 1), SPACING, SETTINGS)
    assert result.left.percent == pytest.approx(50.0)
    assert result.right.percent == pytest.approx(5.0)
    assert result.total.percent == pytest.approx(20.0)
    assert (result.total.lung_pixels, result.total.opacity_pixels) == (30, 6)
    assert result.left.lung_area_mm2 == pytest.approx(1.0)
    assert result.right.opacity_area_mm2 == pytest.approx(0.1)
    assert result.severity is Severity.MILD


def test_without_spacing_no_areas() -> None:
    result = measure(lung_masks(), None, SETTINGS)
    assert all(result.side(side).lung_area_mm2 is None for side in SIDES)
    assert result.total.percent is not None


def test_a_side_without_lung_has_no_percentage() -> None:
    result = measure(_masks(10, 0, 5, 9), SPACING, SETTINGS)
    assert result.right.percent is None
    assert result.right.opacity_pixels == 0
    assert result.total.percent == pytest.approx(50.0)


def test_no_lung_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no lung"):
        measure(_masks(0, 0, 3, 3), SPACING, SETTINGS)


@given(counts=st.tuples(*[st.integers(0, 20)] * 4).filter(lambda four: four[0] + four[1] > 0))
def test_percentages_stay_between_their_sides(counts: tuple[int, int, int, int]) -> None:
    result = measure(_masks(*counts), SPACING, SETTINGS)
    sides = [p for p in (result.left.percent, result.right.percent) if p is not None]
    assert result.total.percent is not None
    assert min(sides) - 1e-9 <= result.total.percent <= max(sides) + 1e-9
    assert 0 <= result.total.percent <= 100


@pytest.mark.parametrize(
    ("percent", "band"),
    [
        (0.0, Severity.NONE),
        (0.99, Severity.NONE),
        (1.0, Severity.MILD),
        (24.9, Severity.MILD),
        (25.0, Severity.MODERATE),
        (50.0, Severity.SEVERE),
        (100.0, Severity.SEVERE),
    ],
)
def test_a_band_starts_at_its_bound(percent: float, band: Severity) -> None:
    assert severity_of(percent, SETTINGS) is band
