"""STOW-RS: the parts of a request become objects as those of C-STORE do (PS3.18 10.5).

A part is written to the spool while it comes, and is answered as stored when its file and its rows
survive a power cut. What breaks off leaves nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.contexts import STORAGE_CLASSES, STORAGE_SYNTAXES
from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NodeError,
    NotUnderstoodError,
    SpoolFullError,
    StoreError,
)
from dicom_node.peer import audit
from dicom_node.receive import Reception
from dicom_node.recorder import Recorder
from dicom_node.spool import Spool
from dicom_node.status import store_status
from dicom_node.storing import Stored, Storing
from dicom_node.types import Identity, Peer, StoreRequest
from dicom_node.web.dicomweb.errors import BodyError, NoRoomError
from dicom_node.web.dicomweb.events import STORE
from dicom_node.web.dicomweb.media_types import DICOM, MediaType
from dicom_node.web.dicomweb.multipart import Reader, Received
from dicom_node.web.dicomweb.part10 import read_meta
from dicom_node.web.dicomweb.store_response import (
    CANNOT_UNDERSTAND,
    OUT_OF_RESOURCES,
    SYNTAX_NOT_SUPPORTED,
    Failed,
    Kept,
    Outcome,
)
from dicom_node.web.dicomweb.targets import Target
from models.audit import AuditAction
from models.session import Database
from models.settings import Settings
from models.states import StoreOutcome

_SENDERS: Final = 8  # at once; each has a thread
_MAX_PARTS: Final = 10_000  # of one request


class _PartError(NodeError):
    """Base of the reasons to refuse a part that C-STORE does not know."""


class _SyntaxNotStorableError(_PartError):
    """The transfer syntax is none that is stored."""


class _LastError(_PartError):
    """What follows the part in its request is not read."""


class _TooLongError(_LastError):
    """The part is longer than `web.stow_max_bytes`."""


class _TooManyError(_LastError):
    """The request has more parts than are taken at once."""


# Beside those of C-STORE: where an association would not have come about.
_REASONS: Final[dict[type[Exception], int]] = {
    _SyntaxNotStorableError: SYNTAX_NOT_SUPPORTED,
    _TooLongError: CANNOT_UNDERSTAND,
    _TooManyError: OUT_OF_RESOURCES,
}


@dataclass(frozen=True)
class Sending:
    """One request: who sends, and the study that its path names, if any."""

    peer: Peer
    study: str | None


class Store:
    """The way in of one process. The spool is opened when the first object comes."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._senders = threading.BoundedSemaphore(_SENDERS)
        self._lock = threading.Lock()
        self._storing: Storing | None = None

    def store(self, reader: Reader, sending: Sending) -> list[Outcome]:
        """Store every part, and say what became of each.

        Raises NoRoomError before anything is read, BodyError when the body has no part or breaks
        off: what came in front of that is stored all the same.
        """
        with self._turn():
            storing = self._ready()
            outcomes: list[Outcome] = []
            for part in reader.parts():
                if len(outcomes) < _MAX_PARTS:
                    outcomes.append(self._store(storing, part, sending))
                else:
                    outcomes.append(self._failed(_TooManyError(), None, sending))
                if outcomes[-1].is_last:
                    break  # what follows is neither read nor named: it was not stored
            if not outcomes:
                msg = "the body has no part"
                raise BodyError(msg)
            return outcomes

    def close(self) -> None:
        """Close what is open."""
        if self._storing is not None:
            self._storing.recorder.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._senders.acquire(blocking=False):
            msg = f"{_SENDERS} requests are being stored already"
            raise NoRoomError(msg)
        try:
            yield
        finally:
            self._senders.release()

    def _ready(self) -> Storing:
        """Return where objects go. Raises NoRoomError when nothing can go there now."""
        try:
            storing = self._opened()
            storing.spool.require_room()
        except SpoolFullError as error:
            raise NoRoomError(str(error)) from error
        except OSError as error:
            msg = f"the spool cannot be used: {error.strerror}"
            raise NoRoomError(msg) from error
        return storing

    def _opened(self) -> Storing:
        with self._lock:
            if self._storing is None:
                spool = Spool(self._settings.image_store, self._settings.dicom.min_free_bytes)
                recorder = Recorder(self._database, self._settings)
                reception = Reception(spool.incoming)
                self._storing = Storing(self._database, spool, reception, recorder)
            return self._storing

    def _store(self, storing: Storing, part: Received, sending: Sending) -> Outcome:
        request: StoreRequest | None = None
        try:
            kind = MediaType.parse(part.headers.get("content-type", DICOM)).kind
            if kind != DICOM:
                msg = f"a part is no {DICOM}"
                raise NotUnderstoodError(msg)
            request, first = read_meta(part.data)
            _require_storable(request)
            stored = self._keep(storing, request, sending, _chained(first, part.data))
        except (StoreError, _PartError, SQLAlchemyError, OSError) as error:
            return self._failed(error, request, sending)
        return _kept(request, stored)

    def _keep(
        self, storing: Storing, request: StoreRequest, sending: Sending, data: Iterator[bytes]
    ) -> Stored:
        def admit(identity: Identity) -> None:
            if sending.study not in {None, identity.study_instance_uid}:
                msg = "the object is of another study than the address"
                raise DataSetMismatchError(msg)

        received = storing.reception.open(request, sending.peer)
        try:
            for piece in data:
                if received.size + len(piece) > self._settings.web.stow_max_bytes:
                    msg = f"an object has more than {self._settings.web.stow_max_bytes} bytes"
                    raise _TooLongError(msg)
                received.write(memoryview(piece))
            return storing.store(received, request, sending.peer, admit)
        finally:
            storing.reception.end(received)

    def _failed(self, error: Exception, request: StoreRequest | None, sending: Sending) -> Failed:
        reason = _REASONS.get(type(error)) or store_status(error)
        audit(
            self._database,
            AuditAction.INSTANCE_REFUSED,
            type(error).__name__.strip("_"),
            calling_aet=sending.peer.calling_aet,
            called_aet=sending.peer.called_aet,
            peer=sending.peer.address,
            actor=sending.peer.actor,
            status=reason,
            details={"service": STORE},
        )
        return Failed(reason, request, is_last=isinstance(error, _LastError))


def _require_storable(request: StoreRequest) -> None:
    """Raise where an association would not have got a presentation context."""
    if request.sop_class_uid not in STORAGE_CLASSES:
        msg = "the SOP Class is none that is stored"
        raise ClassNotStorableError(msg)
    if request.transfer_syntax_uid not in STORAGE_SYNTAXES:
        msg = "the transfer syntax is none that is stored"
        raise _SyntaxNotStorableError(msg)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _kept(request: StoreRequest, stored: Stored) -> Kept:
    identity = stored.identity
    target = Target(
        identity.study_instance_uid, identity.series_instance_uid, identity.sop_instance_uid
    )
    is_set_aside = stored.outcome is StoreOutcome.CONFLICT
    return Kept(request, identity.study_instance_uid, None if is_set_aside else target)
