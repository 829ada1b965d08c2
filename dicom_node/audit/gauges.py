"""How the audit does, for the metrics: what waits for a seal, what waits to be sent, the proof."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.audit.columns import Values, events_by_id, newest_of
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.seal import AuditForwarding, AuditMark, AuditSeal


@dataclass(frozen=True)
class AuditGauges:
    """Numbers of the audit; None: nothing is known yet."""

    unsealed_events: int
    oldest_unsealed_seconds: float
    verified_seconds: float | None  # since the last `audit verify`
    verify_findings: int | None  # that it had
    unsent_seals: int | None  # for the audit repository; None: there is none
    repository_failing_seconds: float | None


def audit_gauges(session: Session) -> AuditGauges:
    """Read them by index: what is behind the last sealed event, the newest proof, the sender.

    What became visible late counts when it is sealed.
    """
    last = session.scalar(select(func.max(AuditMark.event_id))) or 0
    behind = select(func.count(), func.min(AuditEvent.at)).where(AuditEvent.id > last)
    unsealed, oldest = session.execute(behind).one()
    proof = _newest_proof(session)
    moved = func.coalesce(AuditForwarding.sent_at, AuditForwarding.failing_since)
    sending = session.scalars(select(AuditForwarding).order_by(moved.desc()).limit(1)).first()
    newest = session.scalar(select(func.max(AuditSeal.number))) or 0
    return AuditGauges(
        unsealed_events=unsealed,
        oldest_unsealed_seconds=_age(oldest) or 0.0,
        verified_seconds=_age(proof["at"]) if proof else None,
        verify_findings=int(proof["details"].get("findings", 0)) if proof else None,
        unsent_seals=max(0, newest - sending.seal_number) if sending else None,
        repository_failing_seconds=(_age(sending.failing_since) or 0.0) if sending else None,
    )


def _newest_proof(session: Session) -> Values | None:
    """Return the last one that was written, whatever time it has: a clock may have been ahead."""
    number = newest_of(session, AuditAction.AUDIT_VERIFIED)
    return None if number is None else events_by_id(session, [number]).get(number)


def _age(at: datetime | None) -> float | None:
    return None if at is None else max(0.0, (utc_now() - at).total_seconds())
