"""The ledger: counts from independent sources that must agree, or something was lost.

Sources: audit events (written with each answer), rows, files in the spool, the SR documents
themselves (read back from disk), and deliveries.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, distinct, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.documents import Documents
from dicom_node.spool import Spool
from models.audit import AuditAction, AuditEvent
from models.base import Base
from models.delivery import Delivery
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reasons import Reason
from models.result import Analysis, Artifact, ReportedAnalysis, ShadowAnalysis, of_the_patient
from models.session import Database
from models.settings import Settings
from models.states import (
    ArtifactKind,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    StoreOutcome,
    StudyState,
)

_INTAKE_ACTIONS = (AuditAction.INSTANCE_STORED, AuditAction.INSTANCE_RECOVERED)

ARRIVING_SECONDS = 60.0  # longer than a C-STORE waits between its file and its row
_SWEEPS = 2  # after so many at most, each `orphan_seconds` after the last, a file is taken in
_WAITING = (InstanceState.RECEIVED, InstanceState.QUEUED)
_TOLD = (StudyState.REPORTED, StudyState.DELIVERED)
_BLOCK = 500


def _has_reason(reason: Reason) -> ColumnElement[bool]:
    return func.coalesce(Instance.reason, "") == reason.value


_IS_CONFLICT = _has_reason(Reason.UID_CONFLICT)
_IS_UPDATE = and_(
    ~_IS_CONFLICT, Instance.supersedes_id.is_not(None) | _has_reason(Reason.SAME_IMAGE)
)


@dataclass(frozen=True)
class Line:
    """One equation: what is counted, the two sides, and the parts of the second."""

    name: str
    left: int
    right: int
    parts: dict[str, int]

    @property
    def balanced(self) -> bool:
        """Say whether both sides agree."""
        return self.left == self.right


def compute(
    database: Database, settings: Settings, documents: Documents | None = None
) -> list[Line]:
    """Return every equation of the ledger, in one consistent view of the rows.

    `documents` remembers SR documents that were read before; without it each one is read.
    """
    reader = documents or Documents(settings.artifact_store)
    with database.read() as session:
        return [
            _received(session),
            _states(session),
            _open(session),
            _spool(session, database, settings),
            _segmentations(session),
            _settled(session),
            _told(session),
            _reported(session, reader),
            _deliveries(session),
            _committed(session),
            _shadow(session),
        ]


def _received(session: Session) -> Line:
    """C-STORE successes in the audit = rows + duplicates + own results.

    Rows are instances, updates of them, and conflicts, which an update is until it was compared.
    """
    by_outcome = (
        select(AuditEvent.outcome, func.count())
        .where(AuditEvent.action.in_(_INTAKE_ACTIONS))
        .group_by(AuditEvent.outcome)
    )
    audited = dict(session.execute(by_outcome).all())
    kind = case((_IS_CONFLICT, "conflicts"), (_IS_UPDATE, "updates"), else_="instances")
    classified = select(kind.label("kind")).select_from(Instance).subquery()  # one scan for all
    by_kind = select(classified.c.kind, func.count()).group_by(classified.c.kind)
    rows: dict[str, int] = dict(session.execute(by_kind).all())
    parts = {kind: rows.get(kind, 0) for kind in ("instances", "conflicts", "updates")}
    for outcome in (StoreOutcome.DUPLICATE, StoreOutcome.OWN_RESULT):
        parts[outcome.value] = audited.get(outcome.value, 0)
    total = sum(audited.values())
    return Line("C-STORE successes in the audit", total, sum(parts.values()), parts)


def _count(session: Session, model: type[Base], *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(model).where(*where)) or 0


def has_active_job() -> ColumnElement[bool]:
    """Return the condition that an analyse job of an instance is pending or leased."""
    return exists().where(
        Job.instance_id == Instance.id,
        Job.kind == JobKind.ANALYSE,
        Job.state.in_((JobState.PENDING, JobState.LEASED)),
    )


def _states(session: Session) -> Line:
    """Instances = those that ended, plus those that wait: and whatever waits has an active job."""
    named = {
        state.value: number
        for state, number in session.execute(
            select(Instance.state, func.count()).group_by(Instance.state)
        )
    }
    total = sum(named.values())
    named.pop(InstanceState.QUEUED.value, None)
    named["pending"] = _count(
        session, Instance, Instance.state == InstanceState.QUEUED, has_active_job()
    )
    return Line("instances", total, sum(named.values()), named)


def is_forgotten() -> ColumnElement[bool]:
    """Return the condition that an instance waits in a study that is not open: nobody reports it.

    A received one waits for its study to settle, a queued one for its worker.
    """
    return and_(Instance.state.in_(_WAITING), Study.state != StudyState.OPEN)


def _open(session: Session) -> Line:
    """Instances that wait = those of open studies: of another study nobody would report them."""
    of_study = select(func.count()).select_from(Instance).join(Series).join(Study)
    waiting = session.scalar(of_study.where(Instance.state.in_(_WAITING))) or 0
    forgotten = session.scalar(of_study.where(is_forgotten())) or 0
    parts = {"in open studies": waiting - forgotten, "in others": forgotten}
    return Line("waiting instances", waiting, waiting - forgotten, parts)


def _spool(session: Session, database: Database, settings: Settings) -> Line:
    """Files in the spool = instances not yet purged; a surplus is swept, a lack is a loss.

    A young file without a row belongs to a C-STORE that is being answered just now, or to a dead
    listener and the next sweep. One of a purged row is deleted by the next sweep of retention.
    """
    known = set(session.scalars(select(Instance.storage_key).where(Instance.purged_at.is_(None))))
    spool = Spool(settings.image_store, 0)
    named_at = {each.key: each.modified for each in spool.listed()}
    present = set(named_at)
    known -= _let_go(database, known - present)
    unknown = present - known
    unknown -= _purged_among(session, unknown)
    arriving_seconds = ARRIVING_SECONDS + _SWEEPS * settings.dispatch.orphan_seconds
    oldest_arriving = time.time() - arriving_seconds
    orphans = {key for key in unknown if named_at[key] <= oldest_arriving}
    parts = {
        "with a row": len(present & known),
        "missing": len(known - present),
        "without a row": len(orphans),
        "arriving": len(unknown - orphans),
        "purged": _count(session, Instance, Instance.purged_at.is_not(None)),
    }
    return Line("spool files", len(present & known) + len(orphans), len(known), parts)


def _let_go(database: Database, keys: set[str]) -> set[str]:
    """Return which files no row has any more: purged or replaced since the ledger's view began."""
    if not keys:
        return keys
    still: set[str] = set()
    with database.read() as session:
        for block in _blocks(keys):
            of_block = Instance.storage_key.in_(block)
            query = select(Instance.storage_key).where(of_block, Instance.purged_at.is_(None))
            still |= set(session.scalars(query))
    return keys - still


def _purged_among(session: Session, keys: set[str]) -> set[str]:
    """Return which files are of purged rows; there are many of those, and few such files."""
    found: set[str] = set()
    for block in _blocks(keys):
        of_block = Instance.storage_key.in_(block)
        query = select(Instance.storage_key).where(of_block, Instance.purged_at.is_not(None))
        found |= set(session.scalars(query))
    return found


def _blocks(keys: set[str]) -> Iterator[list[str]]:
    ordered = sorted(keys)
    return (ordered[start : start + _BLOCK] for start in range(0, len(ordered), _BLOCK))


def _segmentations(session: Session) -> Line:
    """Analysed instances = analyses that have exactly one SEG, and no image has two results."""
    analysed = _count(session, Instance, Instance.state == InstanceState.ANALYSED)
    with_seg = session.scalar(
        select(func.count(distinct(Analysis.instance_id)))
        .join(Artifact, Artifact.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .where(Artifact.kind == ArtifactKind.SEG, Instance.state == InstanceState.ANALYSED)
    )
    return Line("analysed instances", analysed, with_seg or 0, {"with a SEG": with_seg or 0})


def _settled(session: Session) -> Line:
    """Settled studies = those whose report is being made or planned; a dead job reports nothing."""
    settled = _count(session, Study, Study.state == StudyState.SETTLED)
    parts = {
        state.value: number
        for state, number in session.execute(
            select(Job.state, func.count())
            .join(Study, (Job.study_id == Study.id) & (Job.revision == Study.revision))
            .where(Study.state == StudyState.SETTLED)
            .group_by(Job.state)
        )
    }
    lost = parts.get(JobState.DEAD.value, 0) + parts.get(JobState.FAILED.value, 0)
    return Line("settled studies", settled, sum(parts.values()) - lost, parts)


def is_told() -> ColumnElement[bool]:
    """Return the condition that the newest SR of its study speaks of an instance."""
    return exists().where(
        Analysis.instance_id == Instance.id,
        ReportedAnalysis.analysis_id == Analysis.id,
        Artifact.id == ReportedAnalysis.artifact_id,
        Artifact.study_id == Study.id,
        Artifact.revision == Study.revision,
    )


def _told(session: Session) -> Line:
    """Analysed instances of reported studies = those that the newest SR speaks of."""
    analysed = (
        select(func.count())
        .select_from(Instance)
        .join(Series)
        .join(Study)
        .where(Study.state.in_(_TOLD), Instance.state == InstanceState.ANALYSED, of_the_patient())
    )
    wanted = session.scalar(analysed) or 0
    told = session.scalar(analysed.where(is_told())) or 0
    return Line("analysed instances of reported studies", wanted, told, {"in the SR": told})


def _reported(session: Session, documents: Documents) -> Line:
    """Images that the SR documents on disk name = those that the rows say they name, one by one."""
    reports = session.scalars(
        select(Artifact.storage_key).where(Artifact.kind == ArtifactKind.SR)
    ).all()
    named = {(key, uid) for key in reports for uid in documents.images_in(key)}
    told = {
        (key, uid)
        for key, uid in session.execute(
            select(Artifact.storage_key, Instance.sop_instance_uid)
            .join(ReportedAnalysis, ReportedAnalysis.artifact_id == Artifact.id)
            .join(Analysis, ReportedAnalysis.analysis_id == Analysis.id)
            .join(Instance, Analysis.instance_id == Instance.id)
        )
    }
    parts = {"reports": len(reports), "documents only": len(named - told)}
    parts["rows only"] = len(told - named)
    return Line("images named in the SRs", len(named | told), len(named & told), parts)


def _deliveries(session: Session) -> Line:
    """Deliveries in each state = what the audit says was planned."""
    parts = {
        state.value: number
        for state, number in session.execute(
            select(Delivery.state, func.count()).group_by(Delivery.state)
        )
    }
    planned = session.scalar(
        select(func.sum(AuditEvent.details["deliveries"].as_integer())).where(
            AuditEvent.action == AuditAction.DELIVERIES_PLANNED
        )
    )
    return Line("deliveries planned in the audit", planned or 0, sum(parts.values()), parts)


def _committed(session: Session) -> Line:
    """Deliveries that receivers committed to, by the audit = those in that state."""
    audited = _count(
        session,
        AuditEvent,
        AuditEvent.action == AuditAction.ARTIFACT_COMMITTED,
        AuditEvent.outcome == "committed",
    )
    held = _count(session, Delivery, Delivery.state == DeliveryState.COMMITTED)
    waiting = _count(
        session,
        Delivery,
        Delivery.state == DeliveryState.SENT,
        Delivery.commitment_due_at.is_not(None),
    )
    parts = {"committed": held, "sent, not yet committed": waiting}
    return Line("commitments in the audit", audited, held, parts)


def _shadow(session: Session) -> Line:
    """Shadow jobs = those with figures, exactly one set each, those without, and the others."""
    of_shadow = Job.kind == JobKind.SHADOW
    ended = Job.state.in_((JobState.DONE, JobState.FAILED))
    parts = {
        "with figures": _count(session, ShadowAnalysis),
        "without figures": _count(session, Job, of_shadow, ended, Job.error.is_not(None)),
        "given up": _count(session, Job, of_shadow, Job.state == JobState.DEAD),
        "pending": _count(
            session, Job, of_shadow, Job.state.in_((JobState.PENDING, JobState.LEASED))
        ),
    }
    return Line("shadow jobs", _count(session, Job, of_shadow), sum(parts.values()), parts)
