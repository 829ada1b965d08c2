"""Storage Commitment SCP: answers the questions of one peer by N-EVENT-REPORT.

Always on an association of its own, to the address in the settings (PS3.4 J.3.3): the sender's may
be gone, and which it is to be is then not left to a race.
"""

import logging
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.backoff import backoff
from dicom_node.commitment.associations import commitment_association
from dicom_node.commitment.judging import judge, promise
from dicom_node.commitment.messages import (
    PUSH_MODEL,
    WELL_KNOWN_INSTANCE,
    Report,
    encode_report,
)
from dicom_node.errors import CommitmentPeerError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.commitment import CommitmentOrder
from models.sections import RemoteAESettings
from models.session import Database
from models.settings import Settings
from models.states import EventReportState

log = logging.getLogger(__name__)


class Reporter:
    """Answers one peer; `step` answers one question."""

    def __init__(self, settings: Settings, database: Database, peer: RemoteAESettings) -> None:
        self._settings = settings
        self._delivery = settings.delivery
        self._database = database
        self._sender = replace(
            CStoreSender.of(settings), tls_receivers=frozenset({peer.ae_title} if peer.tls else ())
        )
        self._peer = Receiver(peer.ae_title, peer.ae_title, peer.host, peer.port)

    def step(self) -> bool:
        """Answer the question that is due longest; return whether there was one."""
        order = self._claim()
        if order is None:
            return False
        report = promise(self._database, judge(self._database, self._settings, order))
        problem = self._send(report)
        with self._database.write() as session:
            self._record(session, order.id, report, problem)
        if problem:
            log.warning("commitment order %d: %s", order.id, problem)
        return True

    def _claim(self) -> CommitmentOrder | None:
        """Count an attempt; the next one is due when this one must have ended."""
        with self._database.write() as session:
            order = session.scalars(
                select(CommitmentOrder)
                .where(
                    CommitmentOrder.calling_aet == self._peer.ae_title,
                    CommitmentOrder.state == EventReportState.DUE,
                    CommitmentOrder.next_attempt_at <= utc_now(),
                )
                .order_by(CommitmentOrder.next_attempt_at, CommitmentOrder.id)
                .limit(1)
            ).first()
            if order is None:
                return None
            worst = self._delivery.lease_seconds + self._delivery.timeout_seconds
            claimed = session.execute(
                update(CommitmentOrder)
                .where(
                    CommitmentOrder.id == order.id,
                    CommitmentOrder.state == EventReportState.DUE,
                    CommitmentOrder.next_attempt_at == order.next_attempt_at,
                )
                .values(
                    attempts=order.attempts + 1,
                    next_attempt_at=utc_now() + timedelta(seconds=worst),
                )
                .returning(CommitmentOrder.id)
                .execution_options(synchronize_session=False)
            ).scalar()
            session.refresh(order)
            return order if claimed is not None else None

    def _send(self, report: Report) -> str | None:
        """Return what went wrong; None when the peer took the answer."""
        try:
            with commitment_association(self._sender, self._peer, as_scp=True) as assoc:
                answer = assoc.send_n_event_report(
                    encode_report(report), report.event_type, PUSH_MODEL, WELL_KNOWN_INSTANCE
                )[0]
        except CommitmentPeerError as error:
            return str(error)
        except (RuntimeError, ValueError, OSError) as error:
            return f"the N-EVENT-REPORT could not be sent ({type(error).__name__})"
        status = answer.get("Status")
        if status is None:
            return "the N-EVENT-REPORT was not answered"
        return None if status == 0 else f"the N-EVENT-REPORT was answered 0x{status:04X}"

    def _record(self, session: Session, order_id: int, report: Report, problem: str | None) -> None:
        order = session.get_one(CommitmentOrder, order_id, with_for_update=True)
        if order.state is not EventReportState.DUE:
            return  # another reporter was as far
        if problem is None:
            advance(session, order, EventReportState.ACCEPTED, reported_at=utc_now(), error=None)
        elif order.attempts >= self._delivery.max_attempts:
            advance(session, order, EventReportState.DEAD, error=problem[:400])
        else:
            pause = timedelta(seconds=backoff(self._delivery, order.attempts))
            order.next_attempt_at, order.error = utc_now() + pause, problem[:400]
        record(
            session,
            AuditAction.COMMITMENT_REPORTED,
            "failed" if problem else "accepted",
            called_aet=self._peer.ae_title,
            peer=f"{self._peer.host}:{self._peer.port}",
            details={
                "order": order.id,
                "committed": len(report.committed),
                "failed": len(report.failed),
            },
        )
