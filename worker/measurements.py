"""Masks and spacing to areas, percentages, severity and zone grades. Pure."""

from typing import Final

import numpy as np

from models.analysis_sections import AnalysisSettings
from worker.types import (
    LungMasks,
    Mask,
    Measurements,
    Orientation,
    Severity,
    SideMeasurement,
    Spacing,
    Zone,
    ZoneMeasurement,
    ZoneScore,
)

_UPRIGHT: Final = Orientation()
_RIGHT: Final = (Zone.RIGHT_UPPER, Zone.RIGHT_MIDDLE, Zone.RIGHT_LOWER)
_LEFT: Final = (Zone.LEFT_UPPER, Zone.LEFT_MIDDLE, Zone.LEFT_LOWER)


def measure(
    masks: LungMasks,
    spacing: Spacing | None,
    settings: AnalysisSettings,
    orientation: Orientation = _UPRIGHT,
) -> Measurements:
    """Measure each side and both together, and the zones where the setting asks for them.

    Areas are mm2, None without a spacing. Percentages are opacity pixels over lung pixels of the
    same side, 0..100, None for a side without lung. Opacity outside both lungs is not counted.
    `orientation` turns the masks upright; only the zones need it.
    Raises ValueError when there is no lung at all: nothing may be reported of such an image.
    """
    left, right = masks.left, masks.right
    total = _side(left | right, masks.opacity, spacing, settings)
    if total.severity is None:
        msg = "masks hold no lung pixels; the gate must refuse them first"
        raise ValueError(msg)
    return Measurements(
        total=total,
        left=_side(left, masks.opacity, spacing, settings),
        right=_side(right, masks.opacity, spacing, settings),
        severity=total.severity,
        zones=grade_zones(masks, orientation, settings) if settings.zone_score else None,
    )


def severity_of(percent: float, settings: AnalysisSettings) -> Severity:
    """Return the band of a percentage; a band starts at its bound."""
    bands = (
        (settings.severity_severe_percent, Severity.SEVERE),
        (settings.severity_moderate_percent, Severity.MODERATE),
        (settings.severity_mild_percent, Severity.MILD),
    )
    return next((band for bound, band in bands if percent >= bound), Severity.NONE)


def grade_zones(
    masks: LungMasks, orientation: Orientation, settings: AnalysisSettings
) -> ZoneScore:
    """Grade six zones 0..3 by their opaque share: an approximation, not the Brixia score.

    Brixia (Borghesi and Maroldi 2020) divides the lungs at the aortic arch and at the right lower
    pulmonary vein, and a reader grades the kind of the infiltrates. Here neither landmark is
    known: a zone is a third of the height of that lung's own mask on the upright image, and its
    grade follows from the opaque share of its area alone (`analysis.zone_bounds_percent`).
    """
    opacity = orientation.to_upright(masks.opacity).astype(np.bool_)
    zones: dict[Zone, ZoneMeasurement] = {}
    for names, mask in ((_RIGHT, masks.right), (_LEFT, masks.left)):
        lung = orientation.to_upright(mask).astype(np.bool_)
        for zone, rows in zip(names, _thirds(lung), strict=True):
            zones[zone] = _zone(lung[rows], opacity[rows], settings)
    return ZoneScore(zones)


def _thirds(lung: Mask) -> tuple[slice, slice, slice]:
    """Return the rows of the upper, middle and lower third of the height of a mask."""
    rows = np.flatnonzero(lung.any(axis=1))
    first, end = (int(rows[0]), int(rows[-1]) + 1) if rows.size else (0, 0)
    upper, lower = (first + round((end - first) * part / 3) for part in (1, 2))
    return slice(first, upper), slice(upper, lower), slice(lower, end)


def _zone(lung: Mask, opacity: Mask, settings: AnalysisSettings) -> ZoneMeasurement:
    percent = _percent(int(np.count_nonzero(lung & opacity)), int(np.count_nonzero(lung)))
    if percent is None:
        return ZoneMeasurement(percent=None, grade=None)
    return ZoneMeasurement(percent, sum(percent >= it for it in settings.zone_bounds_percent))


def _percent(opacity_pixels: int, lung_pixels: int) -> float | None:
    return 100.0 * opacity_pixels / lung_pixels if lung_pixels else None


def _side(
    lung: Mask, opacity: Mask, spacing: Spacing | None, settings: AnalysisSettings
) -> SideMeasurement:
    lung_pixels = int(np.count_nonzero(lung))
    opacity_pixels = int(np.count_nonzero(lung & opacity))
    percent = _percent(opacity_pixels, lung_pixels)
    pixel_mm2 = None if spacing is None else spacing.row_mm * spacing.column_mm
    return SideMeasurement(
        lung_pixels=lung_pixels,
        opacity_pixels=opacity_pixels,
        percent=percent,
        lung_area_mm2=None if pixel_mm2 is None else lung_pixels * pixel_mm2,
        opacity_area_mm2=None if pixel_mm2 is None else opacity_pixels * pixel_mm2,
        severity=None if percent is None else severity_of(percent, settings),
    )
