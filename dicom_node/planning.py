"""What goes where: results become due, and a study is delivered when they arrived. Rows only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from dicom_node.intake import is_another_patient
from dicom_node.rejection import plan_notes
from dicom_node.routing import Receiving, receivers
from dicom_node.study_facts import facts_of
from models.audit import AuditAction, record
from models.base import advance
from models.delivery import Delivery, Destination, waits_for_commitment
from models.imaging import Instance, Series, Study
from models.job import Job
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact, ReportedAnalysis, newest_analyses
from models.sections import DestinationSettings
from models.settings import Settings
from models.states import MESSAGES, ArtifactKind, DeliveryState, JobState, StudyState
from models.workitem import schedule, withdraw

ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
# What was withdrawn never will; its artifact was, or a newer message took its place.
NOT_ARRIVED = tuple(
    state for state in DeliveryState if state not in {*ARRIVED, DeliveryState.WITHDRAWN}
)
ENDED = (
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
    DeliveryState.REJECTED,
    DeliveryState.DEAD,
    DeliveryState.WITHDRAWN,
)
_WITHDRAWN = select(WithdrawnArtifact.artifact_id)  # few: a set


_USUAL = frozenset({ArtifactKind.SEG, ArtifactKind.SR})
_OF_IMAGES = (ArtifactKind.SEG, ArtifactKind.SC, ArtifactKind.PR)


def studies_with_report(session: Session) -> Sequence[Study]:
    """Return the settled studies whose newest report is stored."""
    return session.scalars(
        select(Study)
        .join(Job, (Job.study_id == Study.id) & (Job.revision == Study.revision))
        .where(Study.state == StudyState.SETTLED, Job.state == JobState.DONE)
    ).all()


@dataclass
class _Planned:
    """How many deliveries were made, and by destination why it gets what it gets."""

    deliveries: int = 0
    reasons: dict[str, list[str]] = field(default_factory=dict)


def kinds_for(destination: DestinationSettings) -> frozenset[ArtifactKind]:
    """Return what a destination gets; a capture may still follow for a refused SEG."""
    if destination.takes_messages:
        return frozenset({ArtifactKind(destination.protocol)})
    takes_segmentations = destination.segmentations == "always"
    wanted = {
        ArtifactKind.SR: True,
        ArtifactKind.SEG: takes_segmentations,
        ArtifactKind.SC: destination.captures == "always"
        or (destination.captures == "fallback" and not takes_segmentations),
        ArtifactKind.PR: destination.presentation_states == "always",
        ArtifactKind.PDF: destination.documents == "always",
    }
    return frozenset(kind for kind, is_wanted in wanted.items() if is_wanted)


def plan_deliveries(session: Session, settings: Settings, study: Study) -> bool:
    """Make the study reported and its results due at every destination, in one transaction.

    A study of which rejection notes left nothing is closed; only our own note is due.
    """
    if study.state is not StudyState.SETTLED:
        return False
    to = StudyState.REPORTED if _has_report(session, study) else StudyState.CLOSED
    if not advance(session, study, to):
        return False
    if to is StudyState.CLOSED:
        withdraw(session, study)
    elif settings.worklist.ups.enabled:
        schedule(session, study, study.revision, settings.objects.uid_root)
    results = _reported(session, study)
    planned = _plan(session, settings, study, results)
    _record_planned(session, study, "planned", len(results), planned)
    return True


def studies_whose_report_failed(session: Session) -> Sequence[Study]:
    """Return the settled studies that get no report, and have something that goes nowhere yet.

    That is a SEG, or a rejection note of ours.
    """
    unplanned_note = (
        exists()
        .where(
            Artifact.study_id == Study.id,
            Artifact.kind == ArtifactKind.KO,
            ~exists().where(Delivery.artifact_id == Artifact.id),
        )
        .correlate(Study)
    )
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
            or_(unsent, unplanned_note),
        )
    ).all()


def plan_segmentations(session: Session, settings: Settings, study: Study) -> int:
    """Make what a study without report has of its images due; return how many deliveries.

    Our rejection notes too: what they take back may be of another patient.
    """
    if study.state is not StudyState.SETTLED:
        return 0
    analyses = [row.id for row in newest_analyses(session, study.id)]
    results = session.scalars(
        select(Artifact).where(
            Artifact.analysis_id.in_(analyses),
            Artifact.kind.in_(_OF_IMAGES),
            Artifact.id.not_in(_WITHDRAWN),
            Artifact.purged_at.is_(None),
        )
    ).all()
    planned = _plan(session, settings, study, results)
    if planned.deliveries:
        _record_planned(session, study, "planned without report", len(results), planned)
    return planned.deliveries


def _plan(
    session: Session, settings: Settings, study: Study, results: Iterable[Artifact]
) -> _Planned:
    """Make each result due where it is wanted and not due yet, SEG first; our notes too."""
    ordered = sorted(results, key=lambda it: (it.kind is not ArtifactKind.SEG, it.id))
    known = {each.name: each for each in settings.destinations}
    decided = _receiving(session, settings, study)
    planned = _Planned()
    for destination in session.scalars(select(Destination).where(Destination.enabled)).all():
        own = known.get(destination.name)
        here = decided.get(destination.name)
        if here is not None and not here.gets:
            continue
        if here is not None and settings.routes:
            planned.reasons[destination.name] = list(here.reasons)
        kinds = _USUAL if own is None else kinds_for(own)  # None: of another host's settings
        chosen = [artifact.id for artifact in ordered if artifact.kind in kinds]
        planned.deliveries += _make_due(session, destination.id, chosen)
    planned.deliveries += plan_notes(session, settings, study)
    return planned


def _receiving(session: Session, settings: Settings, study: Study) -> dict[str, Receiving]:
    if not settings.routes and not any(each.takes_messages for each in settings.destinations):
        return {}  # everything to everybody: nothing is asked of the study
    facts = facts_of(session, settings, study)
    return receivers(settings, facts, earlier_receivers(session, study))


def earlier_receivers(session: Session, study: Study) -> frozenset[str]:
    """Return the names of the destinations that have, or may have, a result of the study."""
    never_sent = (Delivery.state == DeliveryState.WITHDRAWN) & (Delivery.attempts == 0)
    query = select(Destination.name).join(Delivery).join(Artifact)
    return frozenset(session.scalars(query.where(_of_study(study), ~never_sent).distinct()))


def _of_study(study: Study) -> ColumnElement[bool]:
    """Return the condition that an artifact is of the study, or of an image in it."""
    analyses = select(Analysis.id).join(Instance).join(Series).where(Series.study_id == study.id)
    return or_(Artifact.study_id == study.id, Artifact.analysis_id.in_(analyses))


def _has_report(session: Session, study: Study) -> bool:
    newest = select(Artifact.id).where(
        Artifact.study_id == study.id,
        Artifact.kind == ArtifactKind.SR,
        Artifact.revision == study.revision,
    )
    return session.scalar(newest) is not None


def _reported(session: Session, study: Study) -> Sequence[Artifact]:
    """Return reports, pages and messages of the study, and what is of the images they speak of.

    Without those of an image that is another patient's: its correction is not here yet.
    """
    spoken_of = session.execute(
        select(Artifact.revision, Analysis.id, Instance)
        .join(ReportedAnalysis, ReportedAnalysis.artifact_id == Artifact.id)
        .join(Analysis, ReportedAnalysis.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .where(
            Artifact.study_id == study.id,
            Artifact.kind == ArtifactKind.SR,
            Artifact.id.not_in(_WITHDRAWN),
        )
    ).all()
    of_another = {
        revision
        for revision, _, image in spoken_of
        if image.patient_id is not None and is_another_patient(study, image)
    }
    of_study = and_(
        Artifact.study_id == study.id,
        Artifact.kind.in_((ArtifactKind.SR, ArtifactKind.PDF, *MESSAGES)),
        Artifact.revision.not_in(of_another),
    )
    analyses = {key for revision, key, _ in spoken_of if revision not in of_another}
    of_images = and_(Artifact.analysis_id.in_(analyses), Artifact.kind.in_(_OF_IMAGES))
    return session.scalars(
        select(Artifact).where(
            or_(of_study, of_images), Artifact.id.not_in(_WITHDRAWN), Artifact.purged_at.is_(None)
        )
    ).all()


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
            Artifact.analysis_id == artifact.analysis_id,
            Artifact.kind == ArtifactKind.SC,
            Artifact.purged_at.is_(None),
        )
    ).all()
    planned = _make_due(session, refused.destination_id, captures)
    if planned:
        study = artifact.analysis.instance.series.study
        _record_planned(session, study, "planned", planned, _Planned(planned))


def _record_planned(
    session: Session, study: Study, outcome: str, artifacts: int, planned: _Planned
) -> None:
    details: dict[str, object] = {"artifacts": artifacts, "deliveries": planned.deliveries}
    record(
        session,
        AuditAction.DELIVERIES_PLANNED,
        outcome,
        study_instance_uid=study.study_instance_uid,
        details=details | ({"routes": planned.reasons} if planned.reasons else {}),
    )


def plan_missing(session: Session, settings: Settings, study: Study, planned: int | None) -> bool:
    """Make due what lacks of a reported study; return whether anything was missing and is due.

    `planned` is how many deliveries the audit says it had, None where it says nothing. Where what
    would become due now is another number, nothing does: settings have changed since, and results
    of the past are not sent to a new receiver.
    """
    results = _reported(session, study)
    savepoint = session.begin_nested()
    made = _plan(session, settings, study, results)
    number = made.deliveries
    if planned is None:
        _record_planned(session, study, "planned", len(results), made)
    elif not number or number != planned - _planned_now(session, study, number):
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def _planned_now(session: Session, study: Study, made: int) -> int:
    """Return how many deliveries a study had before `made` were added."""
    all_of_it = select(func.count()).select_from(Delivery).join(Artifact).where(_of_study(study))
    return (session.scalar(all_of_it) or 0) - made


def reported_studies(session: Session) -> int:
    """Return how many studies are reported and not yet delivered."""
    query = select(func.count()).select_from(Study).where(Study.state == StudyState.REPORTED)
    return session.scalar(query) or 0


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
