"""Associations for Storage Commitment, as SCU (to ask) and as SCP (to answer)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType

from dicom_node.commitment.messages import PUSH_MODEL
from dicom_node.errors import CommitmentPeerError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender, why_not

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


@contextmanager
def commitment_association(
    sender: CStoreSender,
    receiver: Receiver,
    handlers: Sequence[EventHandlerType] = (),
    *,
    as_scp: bool = False,
) -> Iterator[Association]:
    """Yield an association with the one context of the service; released at the end.

    `as_scp` negotiates the role of SCP for us, the requestor (PS3.7 D.3.3.4).
    Raises CommitmentPeerError when there is none, or not in that role.
    """
    ae = sender.build_ae()
    ae.add_requested_context(PUSH_MODEL, list(SYNTAXES))
    try:
        roles = [build_role(PUSH_MODEL, scp_role=True)] if as_scp else []
        assoc = sender.request(ae, receiver, roles, handlers)
    except OSError as error:
        msg = f"{receiver.host} cannot be reached: {error.strerror}"
        raise CommitmentPeerError(msg) from error
    try:
        _require(assoc, as_scp=as_scp)
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _require(assoc: Association, *, as_scp: bool) -> None:
    if not assoc.is_established and not assoc.rejected_contexts:
        raise CommitmentPeerError(why_not(assoc))
    context = next(iter(assoc.accepted_contexts), None)
    if context is None:
        msg = "it does not offer Storage Commitment (presentation context refused)"
        raise CommitmentPeerError(msg)
    if not (context.as_scp if as_scp else context.as_scu):
        msg = f"it does not take the role of Storage Commitment {'SCU' if as_scp else 'SCP'}"
        raise CommitmentPeerError(msg)
