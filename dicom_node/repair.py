"""`ledger --repair`: what the rows prove is due becomes due again. Never sends, never deletes.

Each repair looks at its row again under its lock, in a transaction of its own with its audit
event; so it may be killed at any point, run twice at once, and run beside a working node.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Select, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.ledger import ARRIVING_SECONDS, has_active_job, is_forgotten, is_told
from dicom_node.planning import plan_missing
from dicom_node.recovery import recover_orphans
from dicom_node.spool import Spool
from dicom_node.taking_back import (
    expired_deliveries,
    expired_jobs,
    take_back_delivery,
    take_back_job,
)
from models.audit import AuditAction, AuditEvent, record
from models.base import advance, utc_now
from models.delivery import Delivery
from models.imaging import Instance, Series, Study
from models.job import ROUTINE, STAT, Job
from models.result import Analysis, Artifact, of_the_patient
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState, StudyState

Find = Callable[[Session, Settings], Sequence[int]]
Mend = Callable[[Session, Settings, int], bool]

_EVERYTHING: Final = 1 << 30
_ENDED_WITHOUT_RESULT = (JobState.CANCELLED, JobState.DEAD, JobState.FAILED)
_TOLD = (StudyState.REPORTED, StudyState.DELIVERED)
_AS_NEW = {"attempts": 0, "published_at": None, "lease_owner": None, "finished_at": None}


@dataclass(frozen=True)
class Repair:
    """One kind of damage: which rows have it, and what mends one of them.

    `mend` returns False when there was nothing to mend after all.
    """

    name: str
    find: Find
    mend: Mend


@dataclass(frozen=True)
class Mended:
    """How many rows of one kind of damage were found, and how many are due again."""

    name: str
    found: int
    repaired: int


def repair(database: Database, settings: Settings) -> list[Mended]:
    """Mend every kind of damage once and return what was found of each, in order."""
    spool = Spool(settings.image_store, 0)
    recovered = recover_orphans(database, settings, spool, ARRIVING_SECONDS)
    done = [Mended("spool files without a row", recovered, recovered)]
    return done + [_repair(database, settings, each) for each in _REPAIRS]


def _repair(database: Database, settings: Settings, kind: Repair) -> Mended:
    with database.read() as session:
        found = kind.find(session, settings)
    repaired = 0
    for row_id in found:
        with database.write() as session:
            if kind.mend(session, settings, row_id):
                outcome = kind.name.replace(" ", "_")
                details = {"id": row_id}
                record(session, AuditAction.LEDGER_REPAIRED, outcome, details=details)
                repaired += 1
    return Mended(kind.name, len(found), repaired)


def _locked_study(session: Session, study_id: int) -> Study:
    return session.scalars(select(Study).where(Study.id == study_id).with_for_update()).one()


# A queued instance without an active job --------------------------------------------------------


def _jobless() -> Select[int]:
    return select(Instance.id).where(Instance.state == InstanceState.QUEUED, ~has_active_job())


def _find_jobless(session: Session, _settings: Settings) -> Sequence[int]:
    return session.scalars(_jobless().order_by(Instance.id)).all()


def _queue(session: Session, settings: Settings, instance_id: int) -> bool:
    """Give a queued instance its job, or its ended job new attempts.

    Not where the job is done: rows then contradict each other, and no rule says which is right.
    """
    instance = session.get_one(Instance, instance_id, with_for_update=True)
    if session.scalar(_jobless().where(Instance.id == instance_id)) is None:
        return False
    ended = session.scalars(
        select(Job)
        .where(
            Job.instance_id == instance_id,
            Job.kind == JobKind.ANALYSE,
            Job.identity_revision == instance.identity_revision,
        )
        .order_by(Job.id.desc())
    ).first()
    if ended is None:
        session.add(_analyse_job(settings, instance))
        return True
    if ended.state not in _ENDED_WITHOUT_RESULT:
        return False
    return advance(session, ended, JobState.PENDING, **_AS_NEW, not_before=utc_now())


def _analyse_job(settings: Settings, instance: Instance) -> Job:
    return Job(
        kind=JobKind.ANALYSE,
        instance_id=instance.id,
        model_selector=settings.model_for(instance.calling_aet),
        identity_revision=instance.identity_revision,
        priority=STAT if instance.calling_aet in settings.dispatch.stat_calling_aets else ROUTINE,
    )


# An instance that waits, or is analysed, and that no report will name -----------------------------


def _unnamed() -> Select[int]:
    """Return the studies with an image that waits outside an open study, or is in no report."""
    untold = (
        Study.state.in_(_TOLD) & (Instance.state == InstanceState.ANALYSED) & ~is_told()
    ) & of_the_patient()
    query = select(Study.id).select_from(Instance).join(Series).join(Study)
    return query.where(or_(is_forgotten(), untold)).distinct()


def _find_unnamed(session: Session, _settings: Settings) -> Sequence[int]:
    return session.scalars(_unnamed().order_by(Study.id)).all()


def _open_again(session: Session, _settings: Settings, study_id: int) -> bool:
    study = _locked_study(session, study_id)
    if session.scalar(_unnamed().where(Study.id == study_id)) is None:
        return False
    return advance(session, study, StudyState.OPEN)


# A settled study without a report job -----------------------------------------------------------


def _unreported() -> Select[int]:
    has_job = exists().where(Job.study_id == Study.id, Job.revision == Study.revision)
    return select(Study.id).where(
        Study.state == StudyState.SETTLED, Study.revision > 0, ~has_job.correlate(Study)
    )


def _find_unreported(session: Session, _settings: Settings) -> Sequence[int]:
    return session.scalars(_unreported().order_by(Study.id)).all()


def _report(session: Session, _settings: Settings, study_id: int) -> bool:
    study = _locked_study(session, study_id)
    if session.scalar(_unreported().where(Study.id == study_id)) is None:
        return False
    session.add(Job(kind=JobKind.REPORT, study_id=study.id, revision=study.revision))
    return True


# Leases that ran out, messages that were lost -----------------------------------------------------


def _find_expired_jobs(session: Session, _settings: Settings) -> Sequence[int]:
    return expired_jobs(session, _EVERYTHING)


def _take_back_job(session: Session, settings: Settings, job_id: int) -> bool:
    return take_back_job(session, job_id, settings.dispatch.max_attempts)


def _find_expired_deliveries(session: Session, _settings: Settings) -> Sequence[int]:
    return expired_deliveries(session, _EVERYTHING)


def _take_back_delivery(session: Session, _settings: Settings, delivery_id: int) -> bool:
    return take_back_delivery(session, delivery_id)


def _lost_messages(settings: Settings) -> Select[int]:
    long_ago = utc_now() - timedelta(seconds=settings.dispatch.republish_seconds)
    return select(Job.id).where(Job.state == JobState.PENDING, Job.published_at < long_ago)


def _find_lost_messages(session: Session, settings: Settings) -> Sequence[int]:
    return session.scalars(_lost_messages(settings).order_by(Job.id)).all()


def _publish_again(session: Session, settings: Settings, job_id: int) -> bool:
    """Have a job published again; a message that comes twice is dropped by the claim."""
    job = session.get_one(Job, job_id, with_for_update=True)
    if session.scalar(_lost_messages(settings).where(Job.id == job_id)) is None:
        return False
    job.published_at = None
    return True


# A reported study whose planned deliveries lack ---------------------------------------------------


def _find_unplanned(session: Session, _settings: Settings) -> Sequence[int]:
    """Return the reported studies with fewer deliveries than the audit says were planned."""
    planned = _planned_by_study(session)
    existing: dict[int | None, int] = {}
    for query in (
        select(Artifact.study_id, func.count())
        .join(Delivery, Delivery.artifact_id == Artifact.id)
        .where(Artifact.study_id.is_not(None))
        .group_by(Artifact.study_id),
        select(Series.study_id, func.count())
        .join(Instance, Instance.series_id == Series.id)
        .join(Analysis, Analysis.instance_id == Instance.id)
        .join(Artifact, Artifact.analysis_id == Analysis.id)
        .join(Delivery, Delivery.artifact_id == Artifact.id)
        .group_by(Series.study_id),
    ):
        for study_id, number in session.execute(query):
            existing[study_id] = existing.get(study_id, 0) + number
    reported = session.execute(
        select(Study.id, Study.study_instance_uid).where(Study.state == StudyState.REPORTED)
    )
    return [key for key, uid in reported if existing.get(key, 0) < planned.get(uid, 1)]


def _planned_by_study(session: Session, study_uid: str | None = None) -> dict[str, int]:
    """Return how many deliveries the audit says were planned; a study that is not there: none."""
    query = select(
        AuditEvent.study_instance_uid, func.sum(AuditEvent.details["deliveries"].as_integer())
    ).where(AuditEvent.action == AuditAction.DELIVERIES_PLANNED)
    if study_uid is not None:
        query = query.where(AuditEvent.study_instance_uid == study_uid)
    rows = session.execute(query.group_by(AuditEvent.study_instance_uid))
    return {uid: number for uid, number in rows if uid is not None}


def _plan(session: Session, settings: Settings, study_id: int) -> bool:
    """Plan what lacks, if it is exactly what the audit says: a new receiver gets nothing old."""
    study = _locked_study(session, study_id)
    if study.state is not StudyState.REPORTED:
        return False
    planned = _planned_by_study(session, study.study_instance_uid)
    return plan_missing(session, settings, study, planned.get(study.study_instance_uid))


_REPAIRS: Final = (
    Repair("expired leases of jobs", _find_expired_jobs, _take_back_job),
    Repair("queued instances without a job", _find_jobless, _queue),
    Repair("pending jobs without a message", _find_lost_messages, _publish_again),
    Repair("studies with an image in no report", _find_unnamed, _open_again),
    Repair("settled studies without a report job", _find_unreported, _report),
    Repair("reported studies without deliveries", _find_unplanned, _plan),
    Repair("expired leases of deliveries", _find_expired_deliveries, _take_back_delivery),
)
