"""Masks and spacing to areas, percentages and severity. Pure."""

import numpy as np

from models.settings import AnalysisSettings
from worker.types import LungMasks, Mask, Measurements, Severity, SideMeasurement, Spacing


def measure(masks: LungMasks, spacing: Spacing | None, settings: AnalysisSettings) -> Measurements:
    """Measure each side and both together.

    Areas are mm2, None without a spacing. Percentages are opacity pixels over lung pixels of the
    same side, 0..100, None for a side without lung. Opacity outside both lungs is not counted.
    Raises ValueError when there is no lung at all: nothing may be reported of such an image.
    """
    left, right = masks.left, masks.right
    total = _side(left | right, masks.opacity, spacing)
    if total.percent is None:
        msg = "masks hold no lung pixels; the gate must refuse them first"
        raise ValueError(msg)
    return Measurements(
        total=total,
        left=_side(left, masks.opacity, spacing),
        right=_side(right, masks.opacity, spacing),
        severity=severity_of(total.percent, settings),
    )


def severity_of(percent: float, settings: AnalysisSettings) -> Severity:
    """Return the band of a percentage; a band starts at its bound."""
    bands = (
        (settings.severity_severe_percent, Severity.SEVERE),
        (settings.severity_moderate_percent, Severity.MODERATE),
        (settings.severity_mild_percent, Severity.MILD),
    )
    return next((band for bound, band in bands if percent >= bound), Severity.NONE)


def _side(lung: Mask, opacity: Mask, spacing: Spacing | None) -> SideMeasurement:
    lung_pixels = int(np.count_nonzero(lung))
    opacity_pixels = int(np.count_nonzero(lung & opacity))
    pixel_mm2 = None if spacing is None else spacing.row_mm * spacing.column_mm
    return SideMeasurement(
        lung_pixels=lung_pixels,
        opacity_pixels=opacity_pixels,
        percent=100.0 * opacity_pixels / lung_pixels if lung_pixels else None,
        lung_area_mm2=None if pixel_mm2 is None else lung_pixels * pixel_mm2,
        opacity_area_mm2=None if pixel_mm2 is None else opacity_pixels * pixel_mm2,
    )
