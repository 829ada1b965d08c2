"""The listing behind `dicom-node results`: one row per received image, with status and reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from models.delivery import Delivery, Destination
from models.imaging import Instance, Series, Study
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact, ReportedAnalysis
from models.settings import Settings
from models.states import ArtifactKind

_BLOCK = 500
_SIDES = ("total", "left", "right")
_ZONES = (
    "right_upper",
    "right_middle",
    "right_lower",
    "left_upper",
    "left_middle",
    "left_lower",
)


@dataclass(frozen=True)
class ResultFilter:
    """What to list; None means any."""

    since: datetime | None = None
    until: datetime | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    min_percent: float | None = None
    state: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions over Instance, Series, Study and (outer) Analysis."""
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.since, lambda: Instance.received_at >= self.since),
            (self.until, lambda: Instance.received_at < self.until),
            (self.patient_id, lambda: Instance.patient_id == self.patient_id),
            (self.accession_number, lambda: Study.accession_number == self.accession_number),
            (self.study_instance_uid, lambda: Study.study_instance_uid == self.study_instance_uid),
            (self.min_percent, lambda: Analysis.opacity_percent_total >= self.min_percent),
            (self.state, lambda: Instance.state == self.state),
        )
        return [clause() for value, clause in wanted if value is not None]


def results(session: Session, settings: Settings, wanted: ResultFilter) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per instance with its newest analysis, oldest first, in blocks.

    The fields are those of `dicom-worker analyse --json`, and what the node knows beyond them.
    """
    # An image whose identity was corrected, or that was replayed, has several: one counts.
    other = aliased(Analysis)
    counts = (other.instance_id == Instance.id) & other.is_replaced.is_(False)
    newest = select(func.max(other.id)).where(counts).scalar_subquery()
    query = (
        select(Instance, Series, Study, Analysis)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .outerjoin(Analysis, Analysis.id == newest)
        .where(*wanted.clauses())
        .order_by(Instance.id)
        .execution_options(yield_per=_BLOCK)
    )
    for instance, series, study, analysis in session.execute(query):
        row = _instance_row(instance, series, study)
        row |= _analysis_row(analysis)
        row["files"] = _files(session, settings, study, analysis) if analysis else []
        yield row


def _instance_row(instance: Instance, series: Series, study: Study) -> dict[str, Any]:
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": study.study_instance_uid,
        "patient_id": instance.patient_id,
        "accession_number": study.accession_number,
        "modality": series.modality,
        "calling_aet": instance.calling_aet,
        "received_at": instance.received_at.isoformat(timespec="milliseconds"),
        "status": instance.state.value,
        "reason": instance.reason,
        "detail": instance.detail,
        "purged": instance.purged_at is not None,
        "study_state": study.state.value,
        "revision": study.revision,
    }


def _analysis_row(analysis: Analysis | None) -> dict[str, Any]:
    def parts(prefix: str, names: tuple[str, ...] = _SIDES) -> dict[str, Any]:
        return {name: getattr(analysis, f"{prefix}_{name}") if analysis else None for name in names}

    model = analysis.model_version if analysis else None
    return {
        "opacity_percent": parts("opacity_percent"),
        "lung_area_mm2": parts("lung_area_mm2"),
        "opacity_area_mm2": parts("opacity_area_mm2"),
        "lung_pixels": parts("lung_pixels"),
        "opacity_pixels": parts("opacity_pixels"),
        "severity": analysis.severity if analysis else None,
        "severity_by_side": {
            "total": analysis.severity if analysis else None,
            **parts("severity", ("left", "right")),
        },
        "zone_percent": parts("zone_percent", _ZONES),
        "zone_grade": parts("zone_grade", _ZONES),
        "zone_score": parts("zone_score"),
        "caveats": [row.caveat for row in analysis.caveats] if analysis else [],
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256}
        if model
        else None,
        "seconds": analysis.seconds if analysis else None,
    }


def _files(
    session: Session, settings: Settings, study: Study, analysis: Analysis
) -> list[dict[str, Any]]:
    """Return the artifacts of an analysis, the newest SR that speaks of it with its page, our note.

    DICOM objects come with their deliveries.
    """
    reports = (
        select(Artifact)
        .join(ReportedAnalysis, ReportedAnalysis.artifact_id == Artifact.id)
        .where(ReportedAnalysis.analysis_id == analysis.id, Artifact.study_id == study.id)
        .order_by(Artifact.revision.desc())
        .limit(1)
    )
    pages = select(Artifact).where(
        Artifact.study_id == study.id,
        Artifact.kind == ArtifactKind.PDF,
        Artifact.revision == reports.with_only_columns(Artifact.revision).scalar_subquery(),
    )
    own = select(Artifact).where(Artifact.analysis_id == analysis.id).order_by(Artifact.id)
    about = (
        select(WithdrawnArtifact.note_id)
        .join(WithdrawnArtifact.artifact)
        .where(Artifact.analysis_id == analysis.id)
    )
    notes = select(Artifact).where(Artifact.id.in_(about)).order_by(Artifact.id)
    return [
        {
            "kind": artifact.kind.value,
            "path": str(settings.artifact_dir / artifact.storage_key),
            "sop_instance_uid": artifact.sop_instance_uid,
            "sha256": artifact.sha256,
            "purged": artifact.purged_at is not None,
            "deliveries": _deliveries(session, artifact)
            if artifact.sop_instance_uid is not None
            else [],
        }
        for query in (own, reports, pages, notes)
        for artifact in session.scalars(query)
    ]


def _deliveries(session: Session, artifact: Artifact) -> list[dict[str, Any]]:
    query = (
        select(Delivery, Destination)
        .join(Destination, Delivery.destination_id == Destination.id)
        .where(Delivery.artifact_id == artifact.id)
        .order_by(Delivery.id)
    )
    return [
        {
            "id": delivery.id,
            "destination": destination.name,
            "state": delivery.state.value,
            "status": delivery.status,
            "attempts": delivery.attempts,
            "error": delivery.error,
        }
        for delivery, destination in session.execute(query)
    ]
