"""worker.measurements: masks and spacing to numbers."""

import numpy as np
import pytest
from builders import lung_masks
from hypothesis import given
from hypothesis import strategies as st

from models.analysis_sections import AnalysisSettings
from worker.measurements import grade_zones, measure, severity_of
from worker.types import (
    SIDES,
    LungMasks,
    Orientation,
    Severity,
    Spacing,
    SpacingBasis,
    Zone,
    ZoneScore,
)

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
    bands = (result.total.severity, result.left.severity, result.right.severity)
    assert bands == (Severity.MILD, Severity.SEVERE, Severity.MILD)


def test_without_spacing_no_areas() -> None:
    result = measure(lung_masks(), None, SETTINGS)
    assert all(result.side(side).lung_area_mm2 is None for side in SIDES)
    assert result.total.percent is not None


def test_a_side_without_lung_has_no_percentage() -> None:
    result = measure(_masks(10, 0, 5, 9), SPACING, SETTINGS)
    assert result.right.percent is None
    assert result.right.severity is None
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


ZONED = AnalysisSettings(zone_score=True)


def _two_lungs() -> LungMasks:
    """A tall right lung in rows 0..8, a short left one in rows 6..8; ten columns each.

    Opaque: the middle third of the right by half, the lowest row of the left as a whole.
    """
    left, right, opacity = (np.zeros((9, 20), dtype=np.bool_) for _ in range(3))
    right[0:9, 0:10] = True
    left[6:9, 10:20] = True
    opacity[3:6, 0:5] = True
    opacity[8, 10:20] = True
    return LungMasks(left, right, opacity)


def _grades(score: ZoneScore) -> list[int | None]:
    return [score.zones[zone].grade for zone in Zone]


def test_zones_are_thirds_of_the_height_of_their_own_lung() -> None:
    zones = grade_zones(_two_lungs(), Orientation(), ZONED)
    assert list(zones.zones) == list(Zone)
    assert [zones.zones[zone].percent for zone in Zone] == [0, 50, 0, 0, 0, 100]
    assert _grades(zones) == [0, 3, 0, 0, 0, 3]
    assert [zones.score(side) for side in SIDES] == [6, 3, 3]


ORIENTATIONS = [
    Orientation(transpose, rows, columns)
    for transpose in (False, True)
    for rows in (False, True)
    for columns in (False, True)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_zones_are_those_of_the_upright_image(orientation: Orientation) -> None:
    upright = _two_lungs()
    turned = LungMasks(
        *(
            np.ascontiguousarray(orientation.to_source(it)).astype(np.bool_)
            for it in (upright.left, upright.right, upright.opacity)
        )
    )
    assert grade_zones(turned, orientation, ZONED) == grade_zones(upright, Orientation(), ZONED)


@pytest.mark.parametrize(
    ("pixels", "grade"), [(0, 0), (1, 1), (24, 1), (25, 2), (49, 2), (50, 3), (100, 3)]
)
def test_a_grade_starts_at_its_bound(pixels: int, grade: int) -> None:
    lung = np.ones((30, 10), dtype=np.bool_)
    opacity = np.zeros_like(lung)
    opacity[:10].flat[:pixels] = True
    masks = LungMasks(np.zeros_like(lung), lung, opacity)
    assert grade_zones(masks, Orientation(), ZONED).zones[Zone.RIGHT_UPPER].grade == grade


def test_bounds_are_a_setting() -> None:
    settings = AnalysisSettings(zone_score=True, zone_bounds_percent=(60.0, 70.0, 100.0))
    zones = grade_zones(_two_lungs(), Orientation(), settings)
    assert _grades(zones) == [0, 0, 0, 0, 0, 3]


def test_a_zone_without_lung_has_no_grade_and_a_sum_over_it_no_score() -> None:
    masks = _two_lungs()
    masks.right[3:6] = False
    zones = grade_zones(masks, Orientation(), ZONED)
    assert _grades(zones) == [0, None, 0, 0, 0, 3]
    assert [zones.score(side) for side in SIDES] == [None, 3, None]


def test_a_side_without_lung_has_no_grades() -> None:
    masks = _two_lungs()
    masks.left[:] = False
    assert _grades(grade_zones(masks, Orientation(), ZONED))[3:] == [None] * 3


def test_zones_are_graded_only_where_asked_for() -> None:
    assert measure(_two_lungs(), None, SETTINGS).zones is None
    measured = measure(_two_lungs(), None, ZONED, Orientation(flip_rows=True))
    assert measured.zones is not None
    assert measured.zones.score("total") == 6


@given(rows=st.integers(1, 40), first=st.integers(0, 5))
def test_every_row_of_a_lung_is_in_exactly_one_zone(rows: int, first: int) -> None:
    lung = np.zeros((50, 3), dtype=np.bool_)
    lung[first : first + rows] = True
    opacity = np.zeros_like(lung)
    opacity[first : first + rows : 2] = True
    zones = grade_zones(LungMasks(lung, lung, opacity), Orientation(), ZONED).zones
    height = [round(rows * part / 3) for part in range(4)]
    found = sum(
        (zones[zone].percent or 0) * (end - start)
        for zone, start, end in zip(list(Zone)[:3], height, height[1:], strict=False)
    )
    assert found == pytest.approx(100 * len(range(0, rows, 2)))
