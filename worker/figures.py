"""The figures of an image as columns of a row, and back: one list of names for both ways.

And what an audit event says of an analysis.
"""

from typing import Any

from models.imaging import Instance
from models.result import Figures
from worker.types import (
    SIDES,
    AnalysedImage,
    Measurements,
    ModelIdentity,
    Severity,
    Side,
    SideMeasurement,
    Spacing,
    SpacingBasis,
    Zone,
    ZoneMeasurement,
    ZoneScore,
)


def columns_of(result: AnalysedImage) -> dict[str, object]:
    """Return the columns of `models.result.Figures` for an image that was just analysed."""
    measured, spacing = result.measurements, result.image.spacing
    return {
        "configuration_hash": result.configuration_hash,
        "severity": measured.severity.value,
        "severity_left": _value(measured.left.severity),
        "severity_right": _value(measured.right.severity),
        **_side_columns(measured),
        **_zone_columns(measured.zones),
        "spacing_row_mm": spacing.row_mm if spacing else None,
        "spacing_column_mm": spacing.column_mm if spacing else None,
        "spacing_basis": spacing.basis.value if spacing else None,
        "orientation_assumed": result.image.orientation.assumed,
        "notes": list(result.image.notes),
        "device": result.device,
        "seconds": result.seconds,
        **{f"{stage}_seconds": seconds for stage, seconds in result.stages.items()},
    }


def measurements_of(row: Figures) -> Measurements:
    """Return what was measured, as the report needs it."""
    return Measurements(
        total=_side(row, "total", row.severity),
        left=_side(row, "left", row.severity_left),
        right=_side(row, "right", row.severity_right),
        severity=Severity(row.severity),
        zones=_zones(row),
    )


def spacing_of(row: Figures) -> Spacing | None:
    """Return the pixel spacing that the areas were made with."""
    if row.spacing_row_mm is None or row.spacing_column_mm is None:
        return None
    basis = SpacingBasis(str(row.spacing_basis))
    return Spacing(row.spacing_row_mm, row.spacing_column_mm, basis)


def _value(severity: Severity | None) -> str | None:
    return severity.value if severity else None


def _side_columns(measured: Measurements) -> dict[str, object]:
    columns: dict[str, object] = {}
    for name in SIDES:
        side = measured.side(name)
        columns |= {
            f"opacity_percent_{name}": side.percent,
            f"lung_pixels_{name}": side.lung_pixels,
            f"opacity_pixels_{name}": side.opacity_pixels,
            f"lung_area_mm2_{name}": side.lung_area_mm2,
            f"opacity_area_mm2_{name}": side.opacity_area_mm2,
        }
    return columns


def _zone_columns(zones: ZoneScore | None) -> dict[str, object]:
    if zones is None:
        return {}
    columns: dict[str, object] = {f"zone_score_{side}": zones.score(side) for side in SIDES}
    for zone, measured in zones.zones.items():
        columns[f"zone_percent_{zone.value}"] = measured.percent
        columns[f"zone_grade_{zone.value}"] = measured.grade
    return columns


def _side(row: Figures, name: Side, severity: str | None) -> SideMeasurement:
    return SideMeasurement(
        lung_pixels=getattr(row, f"lung_pixels_{name}"),
        opacity_pixels=getattr(row, f"opacity_pixels_{name}"),
        percent=getattr(row, f"opacity_percent_{name}"),
        lung_area_mm2=getattr(row, f"lung_area_mm2_{name}"),
        opacity_area_mm2=getattr(row, f"opacity_area_mm2_{name}"),
        severity=Severity(severity) if severity else None,
    )


def _zones(row: Figures) -> ZoneScore | None:
    """Return the zones of the row; a row without any grade was made with the setting off."""
    zones = {
        zone: ZoneMeasurement(
            percent=getattr(row, f"zone_percent_{zone.value}"),
            grade=getattr(row, f"zone_grade_{zone.value}"),
        )
        for zone in Zone
    }
    return ZoneScore(zones) if any(it.grade is not None for it in zones.values()) else None


def whose(instance: Instance) -> dict[str, Any]:
    """Return the columns of an event that say which image it is about, and of whom."""
    return {
        "study_instance_uid": instance.series.study.study_instance_uid,
        "sop_instance_uid": instance.sop_instance_uid,
        "patient": {"patient_id": instance.patient_id},
    }


def model_name(model: ModelIdentity) -> str:
    """Return a network as the audit names it."""
    return f"{model.name} {model.version}"


def provenance(result: AnalysedImage) -> dict[str, object]:
    """Return what the audit keeps: who said it, from which bytes, under which settings."""
    return {
        "model": result.model.name,
        "version": result.model.version,
        "weights_sha256": result.model.sha256,
        "configuration_sha256": result.configuration_hash,
        "data_set_sha256": result.data_set_sha256,
        "device": result.device,
        "seconds": round(result.seconds, 3),
    }
