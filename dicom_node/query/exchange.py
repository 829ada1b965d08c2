"""One request and its responses on an association: the edge to pynetdicom.

pynetdicom's own Query/Retrieve service decodes and encodes every object that it sends. Objects are
sent here as they are stored, so the responses of C-FIND, C-MOVE and C-GET are written here too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final, cast

from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext

from dicom_node.errors import IdentifierUnreadableError
from dicom_node.status import DUPLICATE_SOP_INSTANCE, SUCCESS, is_stored

Request = C_FIND | C_GET | C_MOVE

_MAX_IDENTIFIER: Final = 1 << 20  # bytes; ten thousand UIDs fit
_MAX_COMMENT: Final = 64  # VR LO, PS3.7 C.1
_MAX_UIDS: Final = 65_534  # bytes of one UI element in Explicit VR (PS3.5 7.1.2)
_MAX_QUEUED: Final = 256  # PDUs that wait to be sent; then it is waited for the peer to read
_PENDING: Final = 0xFF  # the upper byte of these statuses
_CANCEL: Final = 0xFE
_POLL_SECONDS: Final = 0.01


@dataclass
class SubOperations:
    """How the C-STORE sub-operations of a retrieve went so far (PS3.7 9.1.3.1)."""

    remaining: int
    completed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """The number of failed ones."""
        return len(self.failed_uids)

    def count(self, sop_instance_uid: str, status: int | None) -> None:
        """Count one by its C-STORE status; None: there was none."""
        self.remaining -= 1
        if status is None or not is_stored(status):
            self.failed_uids.append(sop_instance_uid)
        elif status in {SUCCESS, DUPLICATE_SOP_INSTANCE}:
            self.completed += 1
        else:
            self.warning += 1

    def numbers(self) -> dict[str, int]:
        """Return the counts by name."""
        return {
            "remaining": self.remaining,
            "completed": self.completed,
            "warning": self.warning,
            "failed": self.failed,
        }


@dataclass(frozen=True)
class Exchange:
    """A request that is being served in `context` of `assoc`."""

    assoc: Association
    request: Request
    context: PresentationContext

    @property
    def name(self) -> str:
        """The operation, as the Standard writes it."""
        return type(self.request).__name__.replace("_", "-")

    @property
    def is_gone(self) -> bool:
        """Whether the association has ended."""
        return not self.assoc.is_established or self.assoc.acse.is_aborted()

    @property
    def is_over(self) -> bool:
        """Whether the peer cancelled, aborted or is gone."""
        return self.request.MessageID in self.assoc.dimse.cancel_req or self.is_gone

    def identifier(self) -> Dataset:
        """Return the identifier. Raises IdentifierUnreadableError."""
        raw = self.request.Identifier
        if raw is None:
            msg = "the request has no identifier"
            raise IdentifierUnreadableError(msg)
        if raw.getbuffer().nbytes > _MAX_IDENTIFIER:
            msg = f"the identifier has more than {_MAX_IDENTIFIER} bytes"
            raise IdentifierUnreadableError(msg)
        syntax = self.context.transfer_syntax[0]
        try:
            return decode(raw, syntax.is_implicit_VR, syntax.is_little_endian)
        except Exception as error:
            msg = "the identifier cannot be parsed"
            raise IdentifierUnreadableError(msg) from error

    def match(self, status: int, identifier: Dataset) -> None:
        """Answer C-FIND with one match."""
        self._send(status, identifier)

    def progress(self, status: int, done: SubOperations) -> None:
        """Answer C-MOVE or C-GET with how far it is; a final one lists what failed."""
        identifier = None
        if done.failed_uids and status >> 8 != _PENDING:
            identifier = Dataset()
            identifier.FailedSOPInstanceUIDList = _shown(done.failed_uids)
        self._send(status, identifier, done)

    def end(self, status: int, comment: str = "", offending: Sequence[BaseTag] = ()) -> None:
        """Answer with a final status that says nothing of sub-operations."""
        self._send(status, comment=comment, offending=offending)

    def _send(
        self,
        status: int,
        identifier: Dataset | None = None,
        done: SubOperations | None = None,
        *,
        comment: str = "",
        offending: Sequence[BaseTag] = (),
    ) -> None:
        dul = self.assoc.dul
        while dul.to_provider_queue.qsize() > _MAX_QUEUED and dul.is_alive() and not self.is_gone:
            time.sleep(_POLL_SECONDS)  # else what a slow reader was not sent yet fills the memory
        if self.is_gone:
            return
        response = type(self.request)()
        response.MessageIDBeingRespondedTo = self.request.MessageID
        response.AffectedSOPClassUID = self.request.AffectedSOPClassUID
        response.Status = status
        said = {"ErrorComment": comment[:_MAX_COMMENT], "OffendingElement": list(offending)}
        for name, value in said.items():
            if value:
                setattr(response, name, value)
        if done is not None and not isinstance(response, C_FIND):
            _count(response, done, is_final=status >> 8 not in {_PENDING, _CANCEL})
        if identifier is not None:
            syntax = self.context.transfer_syntax[0]
            encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
            response.Identifier = BytesIO(cast("bytes", encoded))
        self.assoc.dimse.send_msg(response, cast("int", self.context.context_id))


def _count(response: C_GET | C_MOVE, done: SubOperations, *, is_final: bool) -> None:
    """Set the numbers; that of remaining ones may stand in pending and cancel responses only."""
    if not is_final:
        response.NumberOfRemainingSuboperations = done.remaining
    response.NumberOfCompletedSuboperations = done.completed
    response.NumberOfFailedSuboperations = done.failed
    response.NumberOfWarningSuboperations = done.warning


def _shown(uids: Sequence[str]) -> list[str]:
    """Return as many UIDs as one element can hold."""
    length, shown = 0, []
    for uid in uids:
        length += len(uid) + 1
        if length > _MAX_UIDS:
            break
        shown.append(uid)
    return shown
