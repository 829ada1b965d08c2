"""When is a study complete, and what follows: report job, deliveries, closing. Rows only."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from dicom_node.intake import is_for_processing, queue_for_analysis
from dicom_node.rejection import plan_notes
from dicom_node.shadow import add_shadow_jobs
from models.audit import AuditAction, record
from models.base import advance
from models.delivery import Delivery, Destination, waits_for_commitment
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.rejection import WithdrawnArtifact, untold
from models.result import Analysis, Artifact, ReportedAnalysis, newest_analyses
from models.sections import DispatchSettings
from models.settings import Settings
from models.states import (
    ArtifactKind,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)

ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
NOT_ARRIVED = tuple(state for state in DeliveryState if state not in ARRIVED)
ENDED = (
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
    DeliveryState.REJECTED,
    DeliveryState.DEAD,
    DeliveryState.WITHDRAWN,
)
_WITHDRAWN = select(WithdrawnArtifact.artifact_id)  # few: a set


def is_quiet(study: Study, settings: DispatchSettings, now: datetime) -> bool:
    """Say whether the study got no instance for the settle time of its sender."""
    wanted = settings.settle_seconds_by_calling_ae.get(study.calling_aet, settings.settle_seconds)
    return study.last_received_at <= now - timedelta(seconds=wanted)


def quiet_studies(session: Session, settings: DispatchSettings, now: datetime) -> list[Study]:
    """Return the open studies that are quiet, have an accepted instance, and wait for no worker."""
    shortest = min([settings.settle_seconds, *settings.settle_seconds_by_calling_ae.values()])
    of_study = (Series.study_id == Study.id, Instance.series_id == Series.id)
    candidates = session.scalars(
        select(Study).where(
            Study.state == StudyState.OPEN,
            Study.last_received_at <= now - timedelta(seconds=shortest),
            exists().where(*of_study, Instance.state != InstanceState.QUARANTINED),
            ~exists().where(*of_study, Instance.state == InstanceState.QUEUED),
        )
    )
    return [study for study in candidates if is_quiet(study, settings, now)]


def settle(session: Session, settings: Settings, study: Study) -> bool:
    """Settle one quiet study if every analyse job ended. Returns whether anything changed."""
    if study.state is not StudyState.OPEN:
        return False  # somebody else settled it
    instances = _instances(session, study)
    if any(row.state is InstanceState.QUEUED for row in instances):
        return False
    waiting = [row for row in instances if row.state is InstanceState.RECEIVED]
    if waiting:
        _decide_for_processing(session, settings, waiting, instances)
        return True
    analyses = newest_analyses(session, study.id)
    if not analyses and not untold(session, study.id, with_reports=True):
        return advance(session, study, StudyState.CLOSED)
    add_shadow_jobs(session, settings.shadow, analyses)
    if analyses and study.revision and _reported(session, study) == {row.id for row in analyses}:
        return advance(session, study, StudyState.SETTLED)  # a late image changed no result
    revision = study.revision + 1
    if not advance(session, study, StudyState.SETTLED, revision=revision):
        return False
    session.add(Job(kind=JobKind.REPORT, study_id=study.id, revision=revision))
    return True


def _instances(session: Session, study: Study) -> Sequence[Instance]:
    return session.scalars(
        select(Instance)
        .join(Series)
        .where(Series.study_id == study.id, Instance.state != InstanceState.QUARANTINED)
        .order_by(Instance.id)
    ).all()


def _decide_for_processing(
    session: Session, settings: Settings, waiting: list[Instance], instances: Sequence[Instance]
) -> None:
    """Analyse raw images only when no processed one of the study was analysed.

    A processed lateral, or one that could not be read, stands for no frontal raw image.
    """
    has_sibling = any(
        row.state is InstanceState.ANALYSED
        and not is_for_processing(row.sop_class_uid, row.presentation_intent)
        for row in instances
    )
    for instance in waiting:
        if has_sibling:
            reason = Reason.FOR_PROCESSING_SIBLING
            advance(
                session,
                instance,
                InstanceState.NOT_ANALYSED,
                reason=reason.value,
                detail=SENTENCES[reason],
            )
        else:
            queue_for_analysis(session, settings, instance)


def _reported(session: Session, study: Study) -> set[int]:
    """Return the analyses that the newest SR of `study` speaks of."""
    return set(
        session.scalars(
            select(ReportedAnalysis.analysis_id)
            .join(Artifact, ReportedAnalysis.artifact_id == Artifact.id)
            .where(Artifact.study_id == study.id, Artifact.revision == study.revision)
        )
    )


def studies_with_report(session: Session) -> Sequence[Study]:
    """Return the settled studies whose newest report is stored."""
    return session.scalars(
        select(Study)
        .join(Job, (Job.study_id == Study.id) & (Job.revision == Study.revision))
        .where(Study.state == StudyState.SETTLED, Job.state == JobState.DONE)
    ).all()


def plan_deliveries(session: Session, settings: Settings, study: Study) -> bool:
    """Make the study reported and its results due at every destination, in one transaction.

    A study of which rejection notes left nothing is closed; only our own note is due.
    """
    if study.state is not StudyState.SETTLED:
        return False
    to = StudyState.REPORTED if _has_report(session, study) else StudyState.CLOSED
    if not advance(session, study, to):
        return False
    reports = select(Artifact.id).where(
        Artifact.study_id == study.id,
        Artifact.kind == ArtifactKind.SR,
        Artifact.id.not_in(_WITHDRAWN),
    )
    wanted = [*_of_analyses(session, reports, ArtifactKind.SEG), *session.scalars(reports)]
    captures = _of_analyses(session, reports, ArtifactKind.SC)
    with_captures = settings.destinations_by_captures("always")
    extra_of = _extras(session, settings, study, reports)
    planned = 0
    for destination in session.scalars(select(Destination).where(Destination.enabled)):
        pictures = captures if destination.name in with_captures else []
        extras = extra_of.get(destination.name, [])
        planned += _make_due(session, destination.id, [*wanted, *pictures, *extras])
    planned += plan_notes(session, settings, study)
    record(
        session,
        AuditAction.DELIVERIES_PLANNED,
        "planned",
        study_instance_uid=study.study_instance_uid,
        details={"artifacts": len(wanted), "deliveries": planned},
    )
    return True


def studies_whose_report_failed(session: Session) -> Sequence[Study]:
    """Return the settled studies that get no report, and have a SEG that goes nowhere yet."""
    unsent = (
        exists()
        .where(
            Series.study_id == Study.id,
            Instance.series_id == Series.id,
            Analysis.instance_id == Instance.id,
            Artifact.analysis_id == Analysis.id,
            Artifact.kind == ArtifactKind.SEG,
            Artifact.id.not_in(_WITHDRAWN),
            ~exists().where(Delivery.artifact_id == Artifact.id),
        )
        .correlate(Study)
    )
    return session.scalars(
        select(Study)
        .join(Job, (Job.study_id == Study.id) & (Job.revision == Study.revision))
        .where(
            Study.state == StudyState.SETTLED,
            Job.state.in_((JobState.DEAD, JobState.FAILED)),
            unsent,
        )
    ).all()


def plan_segmentations(session: Session, settings: Settings, study: Study) -> int:
    """Make the SEGs of a study without report due, with their captures; return how many."""
    if study.state is not StudyState.SETTLED:
        return 0
    analyses = [row.id for row in newest_analyses(session, study.id)]
    with_captures = settings.destinations_by_captures("always")
    planned = 0
    for destination in session.scalars(select(Destination).where(Destination.enabled)).all():
        kinds = [ArtifactKind.SEG]
        if destination.name in with_captures:
            kinds.append(ArtifactKind.SC)
        wanted = session.scalars(
            select(Artifact.id).where(
                Artifact.analysis_id.in_(analyses),
                Artifact.kind.in_(kinds),
                Artifact.id.not_in(_WITHDRAWN),
            )
        ).all()
        planned += _make_due(session, destination.id, wanted)
    if planned:
        record(
            session,
            AuditAction.DELIVERIES_PLANNED,
            "planned without report",
            study_instance_uid=study.study_instance_uid,
            details={"artifacts": len(analyses), "deliveries": planned},
        )
    return planned


def _extras(
    session: Session, settings: Settings, study: Study, reports: Select[Any]
) -> dict[str, list[int]]:
    """Return the presentation states and pages that each destination wants, by its name."""
    states = _of_analyses(session, reports, ArtifactKind.PR)
    pages = session.scalars(
        select(Artifact.id).where(
            Artifact.study_id == study.id,
            Artifact.kind == ArtifactKind.PDF,
            Artifact.id.not_in(_WITHDRAWN),
        )
    ).all()
    return {
        each.name: [
            *(states if each.presentation_states == "always" else ()),
            *(pages if each.documents == "always" else ()),
        ]
        for each in settings.destinations
    }


def _has_report(session: Session, study: Study) -> bool:
    newest = select(Artifact.id).where(
        Artifact.study_id == study.id,
        Artifact.kind == ArtifactKind.SR,
        Artifact.revision == study.revision,
    )
    return session.scalar(newest) is not None


def _of_analyses(session: Session, reports: Select[Any], kind: ArtifactKind) -> Sequence[int]:
    """Return the artifacts of one kind of the analyses that the reports speak of."""
    query = (
        select(Artifact.id)
        .join(ReportedAnalysis, ReportedAnalysis.analysis_id == Artifact.analysis_id)
        .where(
            Artifact.kind == kind,
            ReportedAnalysis.artifact_id.in_(reports),
            Artifact.id.not_in(_WITHDRAWN),
        )
    )
    return session.scalars(query.distinct()).all()


def _make_due(session: Session, destination_id: int, wanted: Sequence[int]) -> int:
    """Make the artifacts due at a destination that have no delivery there; return how many."""
    known = set(
        session.scalars(
            select(Delivery.artifact_id).where(
                Delivery.destination_id == destination_id, Delivery.artifact_id.in_(wanted)
            )
        )
    )
    new = [artifact_id for artifact_id in wanted if artifact_id not in known]
    session.add_all(Delivery(artifact_id=key, destination_id=destination_id) for key in new)
    return len(new)


def plan_substitute(session: Session, refused: Delivery) -> None:
    """Make the capture of an image due where its SEG was refused, once.

    An image that was analysed while no destination wanted captures has none.
    """
    artifact = refused.artifact
    if artifact.kind is not ArtifactKind.SEG or artifact.analysis is None:
        return
    captures = session.scalars(
        select(Artifact.id).where(
            Artifact.analysis_id == artifact.analysis_id, Artifact.kind == ArtifactKind.SC
        )
    ).all()
    planned = _make_due(session, refused.destination_id, captures)
    if planned:
        record(
            session,
            AuditAction.DELIVERIES_PLANNED,
            "planned",
            study_instance_uid=artifact.analysis.instance.series.study.study_instance_uid,
            details={"artifacts": planned, "deliveries": planned},
        )


def delivered_studies(session: Session, settings: Settings) -> Sequence[int]:
    """Return the ids of reported studies all of whose deliveries arrived.

    One to a destination that is asked to commit arrived when it did.
    A capture that arrived where a setting lets it stand for a refused SEG counts for both.
    """
    is_open: ColumnElement[bool] = Delivery.state.in_(NOT_ARRIVED)  # one by one, for the index
    if settings.destinations_with_commitment:
        is_open = or_(is_open, waits_for_commitment(settings.destinations_with_commitment))
    report = aliased(Artifact)
    reports = (
        select(Artifact.study_id)
        .join(Delivery, Delivery.artifact_id == Artifact.id)
        .where(is_open, Artifact.study_id.is_not(None), Artifact.id.not_in(_WITHDRAWN))
    )
    of_analyses = (
        select(report.study_id)
        .join(ReportedAnalysis, ReportedAnalysis.artifact_id == report.id)
        .join(Artifact, Artifact.analysis_id == ReportedAnalysis.analysis_id)
        .join(Delivery, Delivery.artifact_id == Artifact.id)
        .where(is_open, ~_is_substituted(settings.destinations_by_captures("fallback")))
        .where(Artifact.id.not_in(_WITHDRAWN))
    )
    # Sets and no correlated EXISTS: thousands of studies may wait for a PACS that is away.
    query = select(Study.id).where(
        Study.state == StudyState.REPORTED,
        Study.id.not_in(reports),
        Study.id.not_in(of_analyses),
    )
    return session.scalars(query).all()


def _is_substituted(destinations: frozenset[str]) -> ColumnElement[bool]:
    """Return the condition that a delivery is a rejected SEG whose capture arrived."""
    capture, sibling = aliased(Artifact), aliased(Delivery)
    arrived = (
        select(sibling.id)
        .join(capture, sibling.artifact_id == capture.id)
        .join(Destination, sibling.destination_id == Destination.id)
        .where(
            capture.kind == ArtifactKind.SC,
            capture.analysis_id == Artifact.analysis_id,
            sibling.destination_id == Delivery.destination_id,
            sibling.state.in_(ARRIVED),
            Destination.name.in_(destinations),
        )
        .correlate(Delivery, Artifact)
    )
    return and_(
        Delivery.state == DeliveryState.REJECTED,
        Artifact.kind == ArtifactKind.SEG,
        arrived.exists(),
    )
