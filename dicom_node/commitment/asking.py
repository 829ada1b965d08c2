"""Storage Commitment SCU: asks one destination whether it keeps what was sent to it.

The question is a row before it is a message, and a delivery says when it is asked about next; so
nothing is stuck whatever dies: without an answer its time comes again.
"""

import logging
import threading
import time
from datetime import datetime, timedelta
from uuid import uuid4

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.backoff import backoff, is_past, longest_pause
from dicom_node.commitment.associations import commitment_association
from dicom_node.commitment.handlers import CommitmentHandlers
from dicom_node.commitment.messages import (
    PUSH_MODEL,
    REQUEST_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    Question,
    Reference,
    encode_question,
)
from dicom_node.errors import CommitmentPeerError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.commitment import CommitmentItem, CommitmentRequest
from models.delivery import Delivery, Destination
from models.session import Database
from models.settings import Settings
from models.states import CommitmentState, DeliveryState

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class Asker:
    """Asks one destination; `step` asks about one batch."""

    def __init__(self, settings: Settings, database: Database, destination_id: int) -> None:
        self._settings = settings.delivery
        self._database = database
        self._destination_id = destination_id
        self._sender = CStoreSender.of(settings)
        self._handlers = CommitmentHandlers(settings, database)
        self._told: str | None = None

    def step(self) -> bool:
        """Ask about one batch of sent objects; return whether there was any."""
        with self._database.read() as session:
            destination = session.get_one(Destination, self._destination_id)
            receiver = Receiver(
                destination.name, destination.ae_title, destination.host, destination.port
            )
            due = self._due(session)
        if not due:
            return False
        line = _Line(self._handlers)
        try:
            with commitment_association(self._sender, receiver, line.handlers) as assoc:
                self._tell(receiver, None)
                self._ask(assoc, line, receiver, due)
        except CommitmentPeerError as error:
            self._tell(receiver, str(error))
            self._postpone(due)
        return True

    def _due(self, session: Session) -> dict[int, datetime]:
        """Return deliveries to ask about, with the time at which they became due."""
        query = (
            select(Delivery.id, Delivery.commitment_due_at)
            .where(
                Delivery.destination_id == self._destination_id,
                Delivery.state == DeliveryState.SENT,
                is_past(Delivery.commitment_due_at, self._longest_wait()),
            )
            .order_by(Delivery.commitment_due_at, Delivery.id)
            .limit(self._settings.batch)
        )
        return {key: due_at for key, due_at in session.execute(query) if due_at is not None}

    def _longest_wait(self) -> float:
        """Return the most seconds ahead at which a question may become due."""
        wait = self._settings.commitment_timeout_seconds + longest_pause(self._settings)
        return max(wait, self._settings.commitment_delay_seconds)

    def _claim(self, session: Session, due: dict[int, datetime], seconds: float) -> list[Delivery]:
        """Count an attempt, and set the next one; return what nobody else claimed or settled."""
        rows = session.scalars(select(Delivery).where(Delivery.id.in_(due)).order_by(Delivery.id))
        won = []
        for delivery in rows.all():
            attempts = delivery.commitment_attempts + 1
            pause = timedelta(seconds=seconds + backoff(self._settings, attempts))
            claimed = session.execute(
                update(Delivery)
                .where(
                    Delivery.id == delivery.id,
                    Delivery.state == DeliveryState.SENT,
                    Delivery.commitment_due_at == due[delivery.id],
                )
                .values(commitment_due_at=utc_now() + pause, commitment_attempts=attempts)
                .returning(Delivery.id)
                .execution_options(synchronize_session=False)
            ).scalar()
            if claimed is not None:
                session.expire(delivery)
                won.append(delivery)
        return won

    def _postpone(self, due: dict[int, datetime]) -> None:
        with self._database.write() as session:
            self._claim(session, due, 0.0)

    def _ask(
        self, assoc: Association, line: "_Line", receiver: Receiver, due: dict[int, datetime]
    ) -> None:
        asked = self._remember(receiver, due)
        if asked is None:
            return  # another asker was faster
        request_id, question = asked
        try:
            answer = assoc.send_n_action(
                encode_question(question), REQUEST_COMMITMENT, PUSH_MODEL, WELL_KNOWN_INSTANCE
            )[0]
            status = int(answer.Status) if "Status" in answer else None
        except (RuntimeError, OSError):
            status = None  # the association ended while the question was written down
        if status == 0:
            self._wait(assoc, line, request_id)
        else:
            self._refused(request_id, status)

    def _remember(
        self, receiver: Receiver, due: dict[int, datetime]
    ) -> tuple[int, Question] | None:
        """Write the question down before it is asked; None when nothing is left to ask."""
        with self._database.write() as session:
            self._expire(session)
            wait = self._settings.commitment_timeout_seconds
            deliveries = self._claim(session, due, wait)
            if not deliveries:
                return None
            request = CommitmentRequest(
                transaction_uid=f"2.25.{uuid4().int}",
                destination_id=self._destination_id,
                expires_at=utc_now() + timedelta(seconds=wait),
                items=[CommitmentItem(delivery_id=each.id) for each in deliveries],
            )
            session.add(request)
            session.flush()
            record(
                session,
                AuditAction.COMMITMENT_REQUESTED,
                "requested",
                called_aet=receiver.ae_title,
                peer=f"{receiver.host}:{receiver.port}",
                details={"request": request.id, "instances": len(deliveries)},
            )
            references = tuple(
                Reference(each.artifact.sop_class_uid or "", each.artifact.sop_instance_uid or "")
                for each in deliveries
            )
            return request.id, Question(request.transaction_uid, references)

    def _expire(self, session: Session) -> None:
        """Say of old questions that no answer came in time."""
        query = select(CommitmentRequest).where(
            CommitmentRequest.destination_id == self._destination_id,
            CommitmentRequest.state == CommitmentState.REQUESTED,
            CommitmentRequest.expires_at < utc_now(),
        )
        for request in session.scalars(query).all():
            if advance(session, request, CommitmentState.EXPIRED):
                log.warning("commitment request %d: no answer in time, asked again", request.id)

    def _wait(self, assoc: Association, line: "_Line", request_id: int) -> None:
        """Keep the association a while: some answer on it, others on one of their own."""
        deadline = time.monotonic() + self._settings.commitment_hold_seconds
        while assoc.is_established and time.monotonic() < deadline and not line.replied.is_set():
            if not line.busy.is_set() and not self._is_open(request_id):
                return  # answered to our listener
            time.sleep(_POLL_SECONDS)

    def _is_open(self, request_id: int) -> bool:
        with self._database.read() as session:
            state = session.get_one(CommitmentRequest, request_id).state
        return state is CommitmentState.REQUESTED

    def _refused(self, request_id: int, status: int | None) -> None:
        """Ask again after the usual pause instead of waiting for an answer."""
        answer = "not answered" if status is None else f"answered 0x{status:04X}"
        error = f"the N-ACTION was {answer}"
        with self._database.write() as session:
            request = session.get_one(CommitmentRequest, request_id, with_for_update=True)
            if request.state is not CommitmentState.REQUESTED:
                return  # the answer was there before the response
            advance(session, request, CommitmentState.REFUSED, status=status, error=error)
            record(
                session,
                AuditAction.COMMITMENT_REQUESTED,
                "refused",
                status=status,
                details={"request": request_id},
            )
            for item in request.items:
                if item.delivery.state is DeliveryState.SENT:
                    pause = backoff(self._settings, item.delivery.commitment_attempts)
                    item.delivery.commitment_due_at = utc_now() + timedelta(seconds=pause)
        log.warning("commitment request %d: %s", request_id, error)

    def _tell(self, receiver: Receiver, problem: str | None) -> None:
        """Log a problem when it begins and when it changes, not at every attempt."""
        if problem is not None and problem != self._told:
            log.warning("destination %s cannot be asked to commit: %s", receiver.name, problem)
        self._told = problem


class _Line:
    """One association of ours: whether an answer came on it, and whether we replied to that."""

    def __init__(self, handlers: CommitmentHandlers) -> None:
        self._handlers = handlers
        self.busy, self.replied = threading.Event(), threading.Event()
        self.handlers: list[EventHandlerType] = [
            (evt.EVT_N_EVENT_REPORT, self._on_n_event_report),
            (evt.EVT_PDU_SENT, self._on_pdu_sent),
        ]

    def _on_n_event_report(self, event: Event) -> tuple[int, None]:
        self.busy.set()
        return self._handlers.on_n_event_report(event)

    def _on_pdu_sent(self, _event: Event) -> None:
        if self.busy.is_set():
            self.replied.set()  # nothing else is sent on this association after the question
