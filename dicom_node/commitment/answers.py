"""What the answer to a question of ours does: deliveries committed, or due again."""

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backoff import backoff
from dicom_node.commitment.messages import (
    DUPLICATE_TRANSACTION,
    FAILURE_REASONS,
    Failure,
    Report,
)
from dicom_node.errors import UnknownTransactionError
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.commitment import CommitmentItem, CommitmentRequest
from models.delivery import Delivery
from models.result import Artifact, study_of
from models.sections import DeliverySettings
from models.session import Database
from models.states import CommitmentState, DeliveryState


def record_report(database: Database, settings: DeliverySettings, report: Report) -> None:
    """Apply an answer, once: what is repeated, or comes after a newer state, changes nothing.

    An answer counts however late it is. Instances that it names and we did not ask about are
    ignored; those that it does not name stay `sent` and are asked about again.
    Raises UnknownTransactionError when no question has its Transaction UID.
    """
    _require_question(database, report.transaction_uid)
    with database.write() as session:
        request = session.scalars(
            select(CommitmentRequest)
            .where(CommitmentRequest.transaction_uid == report.transaction_uid)
            .with_for_update()
        ).one()
        kept = {each.sop_instance_uid for each in report.committed}
        lost = {each.reference.sop_instance_uid: each for each in report.failed}
        for uid, item in _items(session, request):
            if uid in kept:
                _commit(session, item)
            elif uid in lost:
                _fail(session, settings, item, lost[uid], request.requested_at)
        if request.state is not CommitmentState.ANSWERED:
            advance(session, request, CommitmentState.ANSWERED, answered_at=utc_now())


def _require_question(database: Database, transaction_uid: str) -> None:
    """Raise UnknownTransactionError by a read: what anybody may send takes no write lock."""
    with database.read() as session:
        key = session.scalar(
            select(CommitmentRequest.id).where(CommitmentRequest.transaction_uid == transaction_uid)
        )
    if key is None:
        msg = "an answer to a Transaction UID that was never asked"
        raise UnknownTransactionError(msg)


def _items(session: Session, request: CommitmentRequest) -> list[tuple[str | None, CommitmentItem]]:
    """Return what was asked about with its SOP Instance UID, in the order in which rows lock."""
    query = (
        select(Artifact.sop_instance_uid, CommitmentItem)
        .join(Delivery, CommitmentItem.delivery_id == Delivery.id)
        .join(Artifact, Delivery.artifact_id == Artifact.id)
        .where(CommitmentItem.request_id == request.id)
        .order_by(CommitmentItem.delivery_id)
    )
    return [(uid, item) for uid, item in session.execute(query)]


def _commit(session: Session, item: CommitmentItem) -> None:
    item.committed, item.failure_reason = True, None
    delivery = item.delivery
    if delivery.state is DeliveryState.SENT and advance(
        session, delivery, DeliveryState.COMMITTED, commitment_due_at=None, error=None
    ):
        _audit(session, item, "committed")


def _fail(
    session: Session,
    settings: DeliverySettings,
    item: CommitmentItem,
    failure: Failure,
    requested_at: datetime,
) -> None:
    """Send again what the destination does not have, unless that was done since the question."""
    item.committed, item.failure_reason = False, failure.reason
    delivery = item.delivery
    if (
        delivery.state is not DeliveryState.SENT
        or (delivery.sent_at or requested_at) > requested_at
    ):
        return
    meaning = FAILURE_REASONS.get(failure.reason, "a reason of its own")
    error = f"not committed: 0x{failure.reason:04X}, {meaning}"
    if failure.reason == DUPLICATE_TRANSACTION:  # of the question, not of the object
        pause = backoff(settings, max(1, delivery.commitment_attempts))
        delivery.commitment_due_at = utc_now() + timedelta(seconds=pause)
        delivery.error = error
    else:
        _make_due(session, settings, delivery, error)
    _audit(session, item, "failed", failure.reason)


def _make_due(session: Session, settings: DeliverySettings, delivery: Delivery, error: str) -> None:
    """Make a sent delivery due again after a pause; dead when its attempts are used up."""
    pause = timedelta(seconds=backoff(settings, delivery.attempts))
    moved = advance(
        session,
        delivery,
        DeliveryState.DUE,
        error=error,
        next_attempt_at=utc_now() + pause,
        commitment_due_at=None,
        commitment_attempts=0,
    )
    if moved and delivery.attempts >= settings.max_attempts:
        advance(session, delivery, DeliveryState.DEAD)


def _audit(session: Session, item: CommitmentItem, outcome: str, status: int | None = None) -> None:
    delivery = item.delivery
    study = study_of(session, delivery.artifact)
    record(
        session,
        AuditAction.ARTIFACT_COMMITTED,
        outcome,
        called_aet=delivery.destination.ae_title,
        peer=f"{delivery.destination.host}:{delivery.destination.port}",
        study_instance_uid=study.study_instance_uid if study else None,
        sop_instance_uid=delivery.artifact.sop_instance_uid,
        status=status,
        details={"delivery": delivery.id, "request": item.request_id},
        patient={"patient_id": study.patient_id} if study else None,
    )
