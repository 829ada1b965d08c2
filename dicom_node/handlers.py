"""pynetdicom events: event -> spool -> intake -> status; nothing else."""

import logging
from dataclasses import dataclass
from typing import Final

from pynetdicom.association import Association
from pynetdicom.events import Event
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.access import AllowList
from dicom_node.contexts import STORAGE_CLASSES
from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NotAuthorisedError,
    NotUnderstoodError,
    SpoolFullError,
    StoreError,
)
from dicom_node.pdu import StoreCommand
from dicom_node.peer import audit, peer_of
from dicom_node.reader import StoreReader
from dicom_node.receive import ReceivedFile, Reception
from dicom_node.recorder import Recorder
from dicom_node.spool import Spool
from dicom_node.status import SUCCESS, store_status
from dicom_node.storing import Storing
from dicom_node.types import Peer, StoreRequest
from models.audit import AuditAction
from models.session import Database
from models.settings import Settings
from models.states import StoreOutcome

log = logging.getLogger(__name__)

# PS3.8 9.3.4: rejected transient, by the provider (presentation), temporary congestion
CONGESTED: Final = (0x02, 0x03, 0x01)
# PS3.8 9.3.4: rejected permanent, by the user, calling AE title not recognised
CALLING_AET_UNKNOWN: Final = (0x01, 0x01, 0x03)


@dataclass(frozen=True)
class Handlers:
    """The handlers of one listener process and what they need."""

    settings: Settings
    database: Database
    spool: Spool
    reception: Reception
    recorder: Recorder

    def on_requested(self, event: Event) -> None:
        """Reject an AE title from an address not its own, and everybody while the disk is full."""
        peer = peer_of(event.assoc)
        if not AllowList.of(self.settings.dicom).admits_as(
            peer.calling_aet, event.assoc.requestor.address
        ):
            self._reject(event, CALLING_AET_UNKNOWN, "address_not_of_ae")
            return
        try:
            self.spool.require_room()
        except SpoolFullError as error:
            log.error("association rejected: %s", error)  # noqa: TRY400  no traceback wanted
            self._reject(event, CONGESTED, "congested")

    def _reject(self, event: Event, answer: tuple[int, int, int], outcome: str) -> None:
        event.assoc.acse.send_reject(*answer)
        event.assoc.is_rejected = True
        self._audit(event.assoc, AuditAction.ASSOCIATION_REJECTED, outcome)
        event.assoc.kill()

    def on_rejected(self, event: Event) -> None:
        """Record an association that pynetdicom refused (AE titles, association limit)."""
        self._audit(event.assoc, AuditAction.ASSOCIATION_REJECTED, "refused")

    def on_conn_open(self, event: Event) -> None:
        """Read for the new association: its C-STOREs come to `store`."""
        StoreReader(event.assoc, self.reception, self.store).attach()

    def on_c_echo(self, _event: Event) -> int:
        """Answer verification."""
        return SUCCESS

    def store(
        self, assoc: Association, command: StoreCommand, received: ReceivedFile | None
    ) -> int:
        """Store one object and return the status: 0x0000 only when file and rows are durable."""
        try:
            outcome = self._store(assoc, command, received)
        except Exception as error:  # noqa: BLE001  the edge: every failure becomes a status
            status = store_status(error)
            _log_refusal(error, status)
            action = AuditAction.INSTANCE_REFUSED
            self._audit(assoc, action, type(error).__name__, status)
            return status
        log.debug("C-STORE %s", outcome.value)  # the audit has it
        return SUCCESS

    def _store(
        self, assoc: Association, command: StoreCommand, received: ReceivedFile | None
    ) -> StoreOutcome:
        peer = peer_of(assoc)
        self._authorise(peer)
        request = _store_request(assoc, command)
        if received is None:
            msg = "the C-STORE command has no data set"
            raise NotUnderstoodError(msg)
        storing = Storing(self.database, self.spool, self.reception, self.recorder)
        return storing.store(received, request, peer).outcome

    def _authorise(self, peer: Peer) -> None:
        allowed = self.settings.dicom.store_calling_aets
        if allowed and peer.calling_aet not in allowed:
            msg = f"AE {peer.calling_aet} may not store: add it to dicom.store_calling_aets"
            raise NotAuthorisedError(msg)

    def _audit(
        self, assoc: Association, action: AuditAction, outcome: str, status: int | None = None
    ) -> None:
        peer = peer_of(assoc)
        audit(
            self.database,
            action,
            outcome,
            calling_aet=peer.calling_aet,
            called_aet=peer.called_aet,
            peer=peer.address,
            status=status,
        )


def _store_request(assoc: Association, command: StoreCommand) -> StoreRequest:
    """Return what the command says of its data set.

    Raises DataSetMismatchError when its SOP Class is not the abstract syntax of its presentation
    context (PS3.8 9.3.2.2.1: a context has one), ClassNotStorableError when
    the context is the one for C-ECHO.
    """
    context = assoc._accepted_cx[command.context_id]  # noqa: SLF001  no public name
    if command.sop_class_uid != str(context.abstract_syntax):
        msg = "the SOP Class of the C-STORE command is not that of its presentation context"
        raise DataSetMismatchError(msg)
    if command.sop_class_uid not in STORAGE_CLASSES:
        msg = "C-STORE in a presentation context of another service"
        raise ClassNotStorableError(msg)
    return StoreRequest(
        sop_class_uid=command.sop_class_uid,
        sop_instance_uid=command.sop_instance_uid,
        transfer_syntax_uid=str(context.transfer_syntax[0]),
    )


def _log_refusal(error: Exception, status: int) -> None:
    """Log an expected refusal in one line; its causes may quote what the peer sent."""
    if isinstance(error, StoreError | SQLAlchemyError | OSError):
        text = str(error) if isinstance(error, StoreError) else type(error).__name__
        log.error("C-STORE answered 0x%04X: %s", status, text)
    else:
        log.error("C-STORE answered 0x%04X", status, exc_info=error)
