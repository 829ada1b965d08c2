"""What others are to hear goes out by DIMSE: events, or new workitems to a manager."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import build_role
from pynetdicom.association import Association
from sqlalchemy.orm import Session

from dicom_node.errors import WorkitemPeerError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender, why_not
from dicom_node.worklist.ups.described import Describer
from dicom_node.worklist.ups.names import EVENT, PUSH, SYNTAXES
from dicom_node.worklist.ups.outbox import Outbox
from models.audit import AuditAction, record
from models.sections import RemoteAESettings
from models.session import Database
from models.settings import Settings
from models.states import WorkitemState
from models.workitem import WorkitemMessage

log = logging.getLogger(__name__)

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
        self._database = database
        self._is_manager = is_manager
        self._outbox = Outbox(
            settings.delivery,
            database,
            peer.ae_title,
            is_manager=is_manager,
            on_outcome=self._audit if is_manager else None,
        )
        self._sender = replace(
            CStoreSender.of(settings), tls_receivers=frozenset({peer.ae_title} if peer.tls else ())
        )
        self._peer = Receiver(peer.ae_title, peer.ae_title, peer.host, peer.port)

    def step(self) -> bool:
        """Send what is due; return whether anything was."""
        messages = self._outbox.due()
        if not messages:
            return False
        try:
            with self._association() as assoc:
                for message_id in messages:
                    if not self._send(assoc, message_id):
                        break
        except WorkitemPeerError as error:
            if self._outbox.claim(messages[0]):
                self._outbox.record(messages[0], str(error), is_final=False)
            log.warning("UPS messages to %s: %s", self._peer.ae_title, error)
        return True

    def _send(self, assoc: Association, message_id: int) -> bool:
        """Send one message; say whether the next one may follow."""
        message = self._outbox.claim(message_id)
        if message is None:
            return False
        problem, is_final = None, True
        try:
            problem = self._offer(assoc, message)
            is_final = problem is None
        except _Refused as error:
            problem = str(error)
        self._outbox.record(message_id, problem, is_final=is_final)
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
        except ValueError as error:  # it cannot be encoded, now or later
            msg = "it has a value that cannot be sent"
            raise _Refused(msg) from error
        except (RuntimeError, OSError) as error:
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

    def _audit(self, session: Session, message: WorkitemMessage, problem: str | None) -> None:
        study = message.workitem.study
        record(
            session,
            AuditAction.WORKITEM_PUSHED,
            "failed" if problem else "created",
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
