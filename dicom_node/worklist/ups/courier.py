"""What others are to hear goes out: events to one receiver, or new workitems to one manager.

In the order in which it happened: what could not be sent holds back what came after it, until it
was tried so often that it is given up.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.association import Association
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.backoff import backoff, has_come, longest_pause
from dicom_node.errors import WorkitemPeerError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender, why_not
from dicom_node.worklist.ups.described import Describer
from dicom_node.worklist.ups.names import EVENT, PUSH, SYNTAXES
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.sections import RemoteAESettings
from models.session import Database
from models.settings import Settings
from models.states import EventReportState, WorkitemState
from models.workitem import CREATE, WorkitemMessage

log = logging.getLogger(__name__)

_BATCH: Final = 50
_ERROR_LENGTH: Final = 400
# Created; created with modifications; attribute warnings; it is there already (PS3.4 CC.2.5.4).
_CREATED: Final = frozenset({0x0000, 0x0001, 0x0107, 0x0111, 0x0116, 0xB300})
_TRY_AGAIN: Final = frozenset({0x0110, 0x0213})  # processing failure, resource limitation


class _Refused(Exception):
    """The peer answered that it will not take it."""


class Courier:
    """Serves one AE; `step` sends one batch on one association."""

    def __init__(
        self, settings: Settings, database: Database, peer: RemoteAESettings, *, is_manager: bool
    ) -> None:
        self._settings = settings
        self._delivery = settings.delivery
        self._database = database
        self._is_manager = is_manager
        self._sender = replace(
            CStoreSender.of(settings), tls_receivers=frozenset({peer.ae_title} if peer.tls else ())
        )
        self._peer = Receiver(peer.ae_title, peer.ae_title, peer.host, peer.port)

    def step(self) -> bool:
        """Send what is due; return whether anything was."""
        messages = self._due()
        if not messages:
            return False
        try:
            with self._association() as assoc:
                for message_id in messages:
                    if not self._send(assoc, message_id):
                        break
        except WorkitemPeerError as error:
            if self._claim(messages[0]):
                self._record(messages[0], str(error), is_final=False)
            log.warning("UPS messages to %s: %s", self._peer.ae_title, error)
        return True

    def _due(self) -> list[int]:
        """Return the oldest messages that are not ended, none before the first one's time."""
        is_create = WorkitemMessage.event_type == CREATE
        query = (
            select(WorkitemMessage)
            .where(
                WorkitemMessage.receiver == self._peer.ae_title,
                WorkitemMessage.state == EventReportState.DUE,
                is_create if self._is_manager else ~is_create,
            )
            .order_by(WorkitemMessage.id)
            .limit(_BATCH)
        )
        with self._database.read() as session:
            rows = session.scalars(query).all()
        longest = longest_pause(self._delivery) + self._lease_seconds
        if not rows or not has_come(rows[0].next_attempt_at, longest):
            return []
        return [row.id for row in rows]

    @property
    def _lease_seconds(self) -> float:
        return self._delivery.lease_seconds + self._delivery.timeout_seconds

    def _claim(self, message_id: int) -> WorkitemMessage | None:
        """Count an attempt; None where another process has the message."""
        with self._database.write() as session:
            message = session.get_one(WorkitemMessage, message_id)
            lease = timedelta(seconds=self._lease_seconds)
            claimed = session.execute(
                update(WorkitemMessage)
                .where(
                    WorkitemMessage.id == message_id,
                    WorkitemMessage.state == EventReportState.DUE,
                    WorkitemMessage.attempts == message.attempts,
                    WorkitemMessage.next_attempt_at == message.next_attempt_at,
                )
                .values(attempts=message.attempts + 1, next_attempt_at=utc_now() + lease)
                .returning(WorkitemMessage.id)
                .execution_options(synchronize_session=False)
            ).scalar()
            session.refresh(message)
            return message if claimed is not None else None

    def _send(self, assoc: Association, message_id: int) -> bool:
        """Send one message; say whether the next one may follow."""
        message = self._claim(message_id)
        if message is None:
            return False
        problem, is_final = None, True
        try:
            problem = self._offer(assoc, message)
            is_final = problem is None
        except _Refused as error:
            problem = str(error)
        self._record(message_id, problem, is_final=is_final)
        return is_final

    def _offer(self, assoc: Association, message: WorkitemMessage) -> str | None:
        """Return what went wrong and may go well later. Raises _Refused."""
        uid, ds = self._data_set(message)
        try:
            if self._is_manager:
                answer = assoc.send_n_create(ds, PUSH, uid)[0]
            else:
                answer = assoc.send_n_event_report(
                    ds, message.event_type, PUSH, uid, meta_uid=EVENT
                )[0]
        except (RuntimeError, ValueError, OSError) as error:
            return f"it could not be sent ({type(error).__name__})"
        status = answer.get("Status")
        if status is None:
            return "it was not answered"
        if status == 0 or (self._is_manager and status in _CREATED):
            return None
        problem = f"it was answered 0x{status:04X}"
        if status in _TRY_AGAIN:
            return problem
        raise _Refused(problem)

    def _data_set(self, message: WorkitemMessage) -> tuple[str, Dataset]:
        """Return SOP Instance UID and data set. Raises _Refused for what is scheduled no more."""
        with self._database.read() as session:
            message = session.get_one(WorkitemMessage, message.id)
            workitem = message.workitem
            if not self._is_manager:
                return workitem.workitem_uid, Dataset.from_json(message.information or {})
            if workitem.state is not WorkitemState.SCHEDULED:
                msg = f"it was {workitem.state.value} before it could be sent"
                raise _Refused(msg)
            ds = Describer(self._settings, session).describe(workitem)
            del ds.SOPClassUID, ds.SOPInstanceUID  # they stand in the command
            ds.TransactionUID = None
            return workitem.workitem_uid, ds

    def _record(self, message_id: int, problem: str | None, *, is_final: bool) -> None:
        with self._database.write() as session:
            message = session.get_one(WorkitemMessage, message_id, with_for_update=True)
            if message.state is not EventReportState.DUE:
                return  # another process was as far
            error = problem[:_ERROR_LENGTH] if problem else None
            if problem is None:
                advance(session, message, EventReportState.ACCEPTED, ended_at=utc_now(), error=None)
            elif is_final or message.attempts >= self._delivery.max_attempts:
                advance(session, message, EventReportState.DEAD, ended_at=utc_now(), error=error)
            else:
                pause = timedelta(seconds=backoff(self._delivery, message.attempts))
                message.next_attempt_at, message.error = utc_now() + pause, error
            if self._is_manager:
                self._audit(session, message, "failed" if problem else "created")
        if problem:
            log.warning("UPS message %d: %s", message_id, problem)

    def _audit(self, session: Session, message: WorkitemMessage, outcome: str) -> None:
        study = message.workitem.study
        record(
            session,
            AuditAction.WORKITEM_PUSHED,
            outcome,
            called_aet=self._peer.ae_title,
            peer=f"{self._peer.host}:{self._peer.port}",
            study_instance_uid=study.study_instance_uid,
            details={"workitem": message.workitem.workitem_uid},
            patient={"patient_id": study.patient_id},
        )

    @contextmanager
    def _association(self) -> Iterator[Association]:
        """Yield an association with the one context; as SCP of UPS Event (PS3.7 D.3.3.4)."""
        sop_class = PUSH if self._is_manager else EVENT
        ae = self._sender.build_ae()
        ae.add_requested_context(sop_class, list(SYNTAXES))
        roles = [] if self._is_manager else [build_role(EVENT, scp_role=True)]
        try:
            assoc = self._sender.request(ae, self._peer, roles)
        except OSError as error:
            msg = f"{self._peer.host} cannot be reached: {error.strerror}"
            raise WorkitemPeerError(msg) from error
        try:
            if not assoc.is_established and not assoc.rejected_contexts:
                raise WorkitemPeerError(why_not(assoc))
            if not assoc.accepted_contexts:
                msg = f"it does not offer {sop_class.name} (presentation context refused)"
                raise WorkitemPeerError(msg)
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()
