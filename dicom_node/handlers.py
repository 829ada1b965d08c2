"""pynetdicom events: event -> spool -> intake -> status; nothing else."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from pynetdicom.events import Event
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.access import AllowList
from dicom_node.contexts import STORAGE_CLASSES
from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NotAuthorisedError,
    SpoolFullError,
    StoreError,
)
from dicom_node.header import read_identity
from dicom_node.intake import drop_if_extra, record_instance
from dicom_node.peer import audit, peer_of
from dicom_node.receive import ReceivedFile, Reception, data_set_offset
from dicom_node.spool import Spool
from dicom_node.status import SUCCESS, store_status
from dicom_node.types import Peer, SpooledInstance, StoreRequest
from models.audit import AuditAction
from models.files import sha256_of
from models.session import Database
from models.settings import Settings
from models.states import StoreOutcome

if TYPE_CHECKING:
    from pynetdicom.dimse_primitives import C_STORE

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
        self._audit(event, AuditAction.ASSOCIATION_REJECTED, outcome)
        event.assoc.kill()

    def on_rejected(self, event: Event) -> None:
        """Record an association that pynetdicom refused (AE titles, association limit)."""
        self._audit(event, AuditAction.ASSOCIATION_REJECTED, "refused")

    def on_conn_close(self, event: Event) -> None:
        """Remove what a broken association left half received."""
        if self.reception.forget(event.assoc.dul):
            log.warning("connection closed in the middle of a data set")

    def on_c_echo(self, _event: Event) -> int:
        """Answer verification."""
        return SUCCESS

    def on_c_store(self, event: Event) -> int:
        """Store one object; 0x0000 only when file and rows are durable."""
        try:
            outcome = self._receive(event)
        except Exception as error:  # noqa: BLE001  the edge: every failure becomes a status
            status = store_status(error)
            _log_refusal(error, status)
            self._audit(event, AuditAction.INSTANCE_REFUSED, type(error).__name__, status)
            return status
        log.info("C-STORE %s", outcome.value)
        return SUCCESS

    def _receive(self, event: Event) -> StoreOutcome:
        received = self.reception.take(event.dataset_path)
        try:
            return self._store(event, received)
        finally:
            received.discard()

    def _store(self, event: Event, received: ReceivedFile) -> StoreOutcome:
        peer = peer_of(event.assoc)
        self._authorise(peer)
        request = _store_request(event)
        received.sync()
        self.spool.require_room()
        path = Path(received.name)
        offset = data_set_offset(path)
        identity = read_identity(path, offset, request)
        digest = sha256_of(path, offset)
        key = self.spool.adopt(path)
        spooled = SpooledInstance(
            storage_key=key,
            path=self.spool.path(key),
            identity=identity,
            transfer_syntax_uid=request.transfer_syntax_uid,
            data_set_sha256=digest,
            size_bytes=received.size,
            peer=peer,
        )
        # If the commit fails after it took effect (connection lost at the answer), a row may point
        # to this file: it stays, and the orphan sweep settles it either way.
        outcome = record_instance(self.database, self.settings, spooled)
        drop_if_extra(self.database, self.spool, key, outcome)
        return outcome

    def _authorise(self, peer: Peer) -> None:
        allowed = self.settings.dicom.store_calling_aets
        if allowed and peer.calling_aet not in allowed:
            msg = f"AE {peer.calling_aet} may not store: add it to dicom.store_calling_aets"
            raise NotAuthorisedError(msg)

    def _audit(
        self, event: Event, action: AuditAction, outcome: str, status: int | None = None
    ) -> None:
        peer = peer_of(event.assoc)
        audit(
            self.database,
            action,
            outcome,
            calling_aet=peer.calling_aet,
            called_aet=peer.called_aet,
            peer=peer.address,
            status=status,
        )


def _store_request(event: Event) -> StoreRequest:
    """Return what the command says of its data set.

    Raises DataSetMismatchError when its SOP Class is not the abstract syntax of its presentation
    context (PS3.8 9.3.2.2.1: a context has one), ClassNotStorableError when
    the context is the one for C-ECHO.
    """
    command = cast("C_STORE", event.request)
    request = StoreRequest(
        sop_class_uid=str(command.AffectedSOPClassUID),
        sop_instance_uid=str(command.AffectedSOPInstanceUID),
        transfer_syntax_uid=str(event.context.transfer_syntax),
    )
    if request.sop_class_uid != str(event.context.abstract_syntax):
        msg = "the SOP Class of the C-STORE command is not that of its presentation context"
        raise DataSetMismatchError(msg)
    if request.sop_class_uid not in STORAGE_CLASSES:
        msg = "C-STORE in a presentation context of another service"
        raise ClassNotStorableError(msg)
    return request


def _log_refusal(error: Exception, status: int) -> None:
    """Log an expected refusal in one line; its causes may quote what the peer sent."""
    if isinstance(error, StoreError | SQLAlchemyError | OSError):
        text = str(error) if isinstance(error, StoreError) else type(error).__name__
        log.error("C-STORE answered 0x%04X: %s", status, text)
    else:
        log.error("C-STORE answered 0x%04X", status, exc_info=error)
