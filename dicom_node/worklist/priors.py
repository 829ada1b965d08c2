"""Earlier and later results of the same patient, and what changed since.

The same PatientID alone is no proof: two hospitals count from one. Where both studies name an
issuer it must be the same one; where one names none, both must come from one domain of sources
(`worklist.domains`).
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.errors import UnknownStudyError
from models.imaging import Study
from models.result import Analysis, newest_analyses
from models.settings import Settings

_MOST = 100


@dataclass(frozen=True)
class Measured:
    """By which model, under which configuration: figures of two of them are two measures."""

    name: str
    version: str
    sha256: str
    configuration_hash: str


@dataclass(frozen=True)
class Prior:
    """The figure of another study of the patient.

    `delta` is how many percentage points the figure that the study in question has now lies above
    this one; None where the two are not comparable: another model or configuration measured.
    """

    study_instance_uid: str
    study_date: str | None
    exam_at: datetime | None
    received_at: datetime
    percent: float
    severity: str | None
    measured: Measured
    is_comparable: bool
    delta: float | None
    is_later: bool


def priors(
    session: Session, settings: Settings, study_instance_uid: str, limit: int = _MOST
) -> list[Prior]:
    """Return the other studies of the patient that have a figure, oldest first.

    Withdrawn and superseded images count in none of them. Of more than `limit` the newest.
    Raises UnknownStudyError.
    """
    query = select(Study).where(Study.study_instance_uid == study_instance_uid)
    study = session.scalar(query)
    if study is None:
        raise UnknownStudyError
    if study.patient_id is None:
        return []
    others = session.scalars(
        select(Study)
        .where(
            Study.patient_id == study.patient_id,
            Study.id != study.id,
            Study.opacity_percent.is_not(None),
            _of_one_patient(settings, study),
        )
        .order_by(
            Study.study_date.desc().nulls_last(),
            func.coalesce(Study.exam_at, Study.created_at).desc(),
            Study.id.desc(),
        )
        .limit(min(limit, _MOST))
    ).all()
    ours = figure_of(session, study)
    found = (_prior(session, study, ours, other) for other in reversed(others))
    return [prior for prior in found if prior is not None]


def figure_of(session: Session, study: Study) -> Analysis | None:
    """Return the analysis that gives the study its figure: the highest one that counts."""
    analyses = newest_analyses(session, study.id)
    return max(analyses, key=lambda row: row.opacity_percent_total or 0.0, default=None)


def _of_one_patient(settings: Settings, study: Study) -> ColumnElement[bool]:
    senders = settings.worklist.senders_like(study.calling_aet)
    same_domain = Study.calling_aet.in_(senders)
    if study.issuer_of_patient_id is None:
        return same_domain
    return or_(
        Study.issuer_of_patient_id == study.issuer_of_patient_id,
        and_(Study.issuer_of_patient_id.is_(None), same_domain),
    )


def _prior(session: Session, study: Study, ours: Analysis | None, other: Study) -> Prior | None:
    analysis = figure_of(session, other)
    if analysis is None or analysis.opacity_percent_total is None:
        return None  # withdrawn since, and not reported again yet
    measured = _measured(analysis)
    is_comparable = ours is not None and measured == _measured(ours)
    own, delta = ours.opacity_percent_total if ours else None, None
    if is_comparable and own is not None:
        delta = own - analysis.opacity_percent_total
    return Prior(
        study_instance_uid=other.study_instance_uid,
        study_date=other.study_date,
        exam_at=other.exam_at,
        received_at=other.created_at,
        percent=analysis.opacity_percent_total,
        severity=analysis.severity,
        measured=measured,
        is_comparable=is_comparable,
        delta=delta,
        is_later=_when(other) > _when(study),
    )


def _when(study: Study) -> tuple[str, datetime]:
    return study.study_date or "", study.exam_at or study.created_at


def _measured(analysis: Analysis) -> Measured:
    model = analysis.model_version
    return Measured(model.name, model.version, model.sha256, analysis.configuration_hash)
