"""The ledger: counts from independent sources that must agree, or something was lost.

Sources: audit events (written with each answer), rows, files in the spool, the SR documents
themselves (read back from disk), and deliveries.
"""

from dataclasses import dataclass

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import ColumnElement, and_, distinct, func, select
from sqlalchemy.orm import Session

from dicom_node.spool import Spool
from models.audit import AuditAction, AuditEvent
from models.base import Base
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import Job
from models.reasons import Reason
from models.result import Analysis, Artifact, ReportedAnalysis, ShadowAnalysis
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

_ARRIVING_SECONDS = 60.0
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


def compute(database: Database, settings: Settings) -> list[Line]:
    """Return every equation of the ledger, in one consistent view of the rows."""
    with database.read() as session:
        return [
            _received(session),
            _states(session),
            _spool(session, settings),
            _segmentations(session),
            _settled(session),
            _reported(session, settings),
            _deliveries(session),
            _committed(session),
            _shadow(session),
        ]


def _received(session: Session) -> Line:
    """C-STORE successes in the audit = rows + duplicates + own results.

    Rows are instances, updates of them, and conflicts, which an update is until it was compared.
    """
    audited = _count(session, AuditEvent, AuditEvent.action.in_(_INTAKE_ACTIONS))
    parts = {
        "instances": _count(session, Instance, ~_IS_CONFLICT, ~_IS_UPDATE),
        "conflicts": _count(session, Instance, _IS_CONFLICT),
        "updates": _count(session, Instance, _IS_UPDATE),
    }
    for outcome in (StoreOutcome.DUPLICATE, StoreOutcome.OWN_RESULT):
        parts[outcome.value] = _count(
            session,
            AuditEvent,
            AuditEvent.action.in_(_INTAKE_ACTIONS),
            AuditEvent.outcome == outcome.value,
        )
    return Line("C-STORE successes in the audit", audited, sum(parts.values()), parts)


def _count(session: Session, model: type[Base], *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(model).where(*where)) or 0


def _states(session: Session) -> Line:
    """Instances = those that ended, plus those that wait: and whatever waits has an active job."""
    named = {
        state.value: number
        for state, number in session.execute(
            select(Instance.state, func.count())
            .where(Instance.state != InstanceState.QUEUED)
            .group_by(Instance.state)
        )
    }
    named["pending"] = _count(
        session,
        Job,
        Job.kind == JobKind.ANALYSE,
        Job.state.in_((JobState.PENDING, JobState.LEASED)),
    )
    return Line("instances", _count(session, Instance), sum(named.values()), named)


def _spool(session: Session, settings: Settings) -> Line:
    """Files in the spool = instances not yet purged; a surplus is swept, a lack is a loss.

    A young file without a row may belong to a C-STORE that is being answered just now. One of a
    purged row is deleted by the next sweep of retention.
    """
    known = set(session.scalars(select(Instance.storage_key).where(Instance.purged_at.is_(None))))
    spool = Spool(settings.spool_dir, 0)
    present = set(spool.keys())
    left_over = _purged_among(session, present - known)
    orphans = set(spool.keys(_ARRIVING_SECONDS)) - known - left_over
    parts = {
        "with a row": len(present & known),
        "missing": len(known - present),
        "without a row": len(orphans),
        "arriving": len(present - known - orphans - left_over),
        "purged": _count(session, Instance, Instance.purged_at.is_not(None)),
    }
    return Line("spool files", len(present & known) + len(orphans), len(known), parts)


def _purged_among(session: Session, keys: set[str]) -> set[str]:
    """Return which files are of purged rows; there are many of those, and few such files."""
    found: set[str] = set()
    ordered = sorted(keys)
    for start in range(0, len(ordered), _BLOCK):
        of_block = Instance.storage_key.in_(ordered[start : start + _BLOCK])
        query = select(Instance.storage_key).where(of_block, Instance.purged_at.is_not(None))
        found |= set(session.scalars(query))
    return found


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


def _reported(session: Session, settings: Settings) -> Line:
    """Images that the SR documents on disk name = those that the rows say they name, one by one."""
    reports = session.scalars(
        select(Artifact.storage_key).where(Artifact.kind == ArtifactKind.SR)
    ).all()
    named = {(key, uid) for key in reports for uid in _images_in(settings, key)}
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


def _images_in(settings: Settings, storage_key: str) -> set[str]:
    """Return the SOP Instance UIDs of the radiographs that an SR on disk names as evidence."""
    try:
        document = dcmread(settings.artifact_dir / storage_key)
    except (OSError, InvalidDicomError):
        return set()
    evidence = document.get("CurrentRequestedProcedureEvidenceSequence") or []
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in evidence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
        if item.ReferencedSOPClassUID.name.endswith(
            ("Computed Radiography Image Storage", "For Presentation", "For Processing")
        )
    }


def _deliveries(session: Session) -> Line:
    """Deliveries in each state = what the audit says was planned."""
    parts = {
        state.value: number
        for state, number in session.execute(
            select(Delivery.state, func.count()).group_by(Delivery.state)
        )
    }
    planned = sum(
        details["deliveries"]
        for details in session.scalars(
            select(AuditEvent.details).where(AuditEvent.action == AuditAction.DELIVERIES_PLANNED)
        )
    )
    return Line("deliveries planned in the audit", planned, sum(parts.values()), parts)


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
