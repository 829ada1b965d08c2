"""A sender's question for Storage Commitment becomes a row; `reporting` answers it later."""

from sqlalchemy import select

from dicom_node.commitment.messages import Question
from dicom_node.errors import CommitmentNotAuthorisedError, TooManyReferencesError
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.commitment import CommitmentOrder
from models.session import Database
from models.settings import Settings
from models.states import EventReportState

MAX_REFERENCES = 10_000  # instances in one question


def accept_order(
    database: Database, settings: Settings, calling_aet: str, question: Question
) -> None:
    """Write a question down; when this returns, it will be answered.

    The same question again, as after a lost response, is answered again; another one under the
    same Transaction UID gets each of its instances back as failed (0x0131).
    Raises CommitmentNotAuthorisedError, TooManyReferencesError.
    """
    if settings.commitment_provider.peer(calling_aet) is None:
        msg = (
            f"AE {calling_aet} may not ask for Storage Commitment: it needs an address in "
            "commitment_provider.peers (and a place in calling_aets, where that is not empty)"
        )
        raise CommitmentNotAuthorisedError(msg)
    if len(question.references) > MAX_REFERENCES:
        msg = f"one question names more than {MAX_REFERENCES} instances"
        raise TooManyReferencesError(msg)
    instances = [[each.sop_class_uid, each.sop_instance_uid] for each in question.references]
    with database.write() as session:
        known = session.scalars(
            select(CommitmentOrder)
            .where(
                CommitmentOrder.transaction_uid == question.transaction_uid,
                CommitmentOrder.calling_aet == calling_aet,
            )
            .order_by(CommitmentOrder.id)
        ).all()
        same = next((row for row in known if sorted(row.instances) == sorted(instances)), None)
        if same is None:
            session.add(
                CommitmentOrder(
                    transaction_uid=question.transaction_uid,
                    calling_aet=calling_aet,
                    instances=instances,
                    is_duplicate=bool(known),
                )
            )
        elif same.state is not EventReportState.DUE:
            advance(session, same, EventReportState.DUE, attempts=0, next_attempt_at=utc_now())
        outcome = "repeated" if same else "duplicate_uid" if known else "accepted"
        record(
            session,
            AuditAction.COMMITMENT_ASKED,
            outcome,
            calling_aet=calling_aet,
            details={"instances": len(instances)},
        )


def record_refusal(database: Database, calling_aet: str, status: int) -> None:
    """Audit a question that was refused."""
    with database.write() as session:
        record(
            session,
            AuditAction.COMMITMENT_ASKED,
            "refused",
            calling_aet=calling_aet,
            status=status,
        )
