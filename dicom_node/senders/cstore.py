"""C-STORE SCU: sends stored files as they are, over one association per batch."""

import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from dicom_node.errors import StartError
from dicom_node.mended import MENDED
from dicom_node.senders.base import Contact, Parcel, Receiver, SendResult, Verdict
from dicom_node.senders.deadline import set_deadline
from dicom_node.senders.stored import judge, transfer_syntax
from dicom_node.tls import client_context, what_fails
from models.sections import DEFAULT_MAX_PDU, TlsSettings
from models.settings import Settings

log = logging.getLogger(__name__)

MEDIUM: Final = 0x0000  # PS3.7 9.3.1.1, Priority

# PS3.8 9.3.4: what to do about a rejection by (result, source, reason), where that is known.
_ADVICE: Final[dict[tuple[int, int, int], str]] = {
    (1, 1, 3): "allow our AE title there, or set delivery.calling_aet to one that is allowed",
    (1, 1, 7): "its AE title is another one: correct ae_title of the destination",
}


@dataclass(frozen=True)
class CStoreSender:
    """Storage SCU under the AE title `calling_aet`; every wait ends after `timeout_seconds`.

    `max_pdu` is the largest PDU that it receives, in bytes (PS3.8 D.1); 0: unlimited. Receivers
    named in `tls_receivers` are spoken to over TLS with the files of `tls`.
    """

    calling_aet: str
    timeout_seconds: float
    max_pdu: int = DEFAULT_MAX_PDU
    tls: TlsSettings | None = None
    tls_receivers: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the sender that the settings describe."""
        calling_aet = settings.delivery.calling_aet or settings.dicom.ae_title
        return cls(
            calling_aet,
            settings.delivery.timeout_seconds,
            settings.dicom.max_pdu,
            settings.dicom.tls,
            frozenset(each.name for each in settings.destinations if each.tls),
        )

    def __post_init__(self) -> None:
        """Have pynetdicom stream files instead of decoding and encoding them again."""
        _config.STORE_SEND_CHUNKED_DATASET = True

    def send(self, receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel. What an unreachable receiver did not get is RETRY."""
        syntaxes: dict[Parcel, str] = {}
        for parcel in parcels:
            syntax = transfer_syntax(parcel)
            if isinstance(syntax, SendResult):
                yield syntax
            else:
                syntaxes[parcel] = syntax
        if syntaxes:
            yield from self._send_readable(receiver, syntaxes)

    def _send_readable(
        self, receiver: Receiver, syntaxes: Mapping[Parcel, str]
    ) -> Iterator[SendResult]:
        contexts = {(parcel.sop_class_uid, syntax) for parcel, syntax in syntaxes.items()}
        try:
            assoc = self.associate(receiver, contexts)
        except OSError as error:
            message = f"{receiver.host} cannot be reached: {error.strerror}"
            yield from (_unreached(parcel, message) for parcel in syntaxes)
            return
        try:
            for parcel, syntax in syntaxes.items():
                yield self._send_one(assoc, parcel, syntax)
        finally:
            if assoc.is_established:
                assoc.release()

    def _send_one(self, assoc: Association, parcel: Parcel, syntax: str) -> SendResult:
        accepted = {(cx.abstract_syntax, cx.transfer_syntax[0]) for cx in assoc.accepted_contexts}
        was_negotiated = bool(accepted or assoc.rejected_contexts)
        if was_negotiated and (parcel.sop_class_uid, syntax) not in accepted:
            message = "the destination does not accept this SOP Class in this transfer syntax"
            return SendResult(
                parcel.delivery_id, Verdict.REJECTED, error=message, class_refused=True
            )
        if not assoc.is_established:
            return _unreached(parcel, why_not(assoc))
        try:
            answer = assoc.send_c_store(parcel.path, priority=MEDIUM)
        except RuntimeError:  # it ended between the question above and this
            return _unreached(parcel, why_not(assoc))
        except (ValueError, OSError) as error:
            return SendResult(
                parcel.delivery_id, Verdict.RETRY, error=str(error)[:400], contact=Contact.NONE
            )
        if "Status" not in answer:
            message = "the association ended or timed out before an answer came"
            return SendResult(
                parcel.delivery_id, Verdict.RETRY, error=message, contact=Contact.OFFERED
            )
        return judge(parcel.delivery_id, int(answer.Status), "C-STORE was answered")

    def echo(self, receiver: Receiver) -> str | None:
        """C-ECHO the receiver."""
        ae = self.build_ae()
        ae.add_requested_context(Verification)
        try:
            assoc = self.request(ae, receiver)
        except OSError as error:
            return f"{receiver.host} cannot be reached: {error.strerror}"
        if not assoc.is_established:
            return why_not(assoc)
        try:
            answer = assoc.send_c_echo()
        finally:
            assoc.release()
        status = answer.get("Status")
        return None if status == 0 else f"C-ECHO was answered with {status}"

    def associate(self, receiver: Receiver, contexts: Iterable[tuple[str, str]]) -> Association:
        """Request an association for pairs of SOP Class and transfer syntax.

        One transfer syntax per context: given a choice, the receiver may pick one that the file is
        not in (measured with Orthanc). Raises OSError when the name of the host does not
        resolve, or TLS does not come about.
        """
        ae = self.build_ae()
        for pair in sorted(set(contexts)):
            ae.add_requested_context(*pair)
        return self.request(ae, receiver)

    def request(
        self,
        ae: AE,
        receiver: Receiver,
        negotiation: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[EventHandlerType] = (),
    ) -> Association:
        """Request an association for the contexts of `ae`, over TLS where the receiver has it.

        Raises OSError when the name of the host does not resolve or TLS does not come about.
        """
        tls_args = self.tls_args(receiver)
        assoc = ae.associate(  # the entity's own maximum is for associations that it accepts
            receiver.host,
            receiver.port,
            ae_title=receiver.ae_title,
            max_pdu=self.max_pdu,
            tls_args=tls_args,
            ext_neg=list(negotiation),
            evt_handlers=[(evt.EVT_CONN_OPEN, set_deadline), MENDED, *handlers],
        )
        if tls_args and assoc.is_aborted:
            context, host = tls_args
            if problem := what_fails(context, host, receiver.port, self.timeout_seconds):
                raise ConnectionError(0, problem)
        return assoc

    def tls_args(self, receiver: Receiver) -> tuple[ssl.SSLContext, str] | None:
        """Return what pynetdicom needs to speak TLS to this receiver, or None: it takes none.

        The name that its certificate must have is the configured host. Files are read for each
        association, so renewed ones serve at once. Raises OSError when one cannot be used.
        """
        if self.tls is None or receiver.name not in self.tls_receivers:
            return None
        try:
            return client_context(self.tls), receiver.host
        except StartError as error:
            raise ConnectionError(0, str(error)) from error

    def build_ae(self) -> AE:
        """Return the application entity with this sender's title and limits."""
        ae = AE(ae_title=self.calling_aet)
        ae.acse_timeout = self.timeout_seconds
        ae.dimse_timeout = self.timeout_seconds
        ae.network_timeout = self.timeout_seconds
        ae.connection_timeout = self.timeout_seconds
        ae.maximum_pdu_size = self.max_pdu
        return ae


def why_not(assoc: Association) -> str:
    """Return why an association was not established or has ended, as a part of a sentence."""
    if assoc.is_rejected:
        return f"the destination rejected the association ({_rejection(assoc)})"
    if assoc.is_aborted:
        return "the destination aborted the association or cannot be reached"
    return "the association ended"


def _rejection(assoc: Association) -> str:
    """Return result and reason as PS3.8 9.3.4 words them, and what to do about it."""
    answer = assoc.acceptor.primitive
    if answer is None:  # pragma: no cover  there is one once an association is rejected
        return "no reason given"
    key = (answer.result or 0, answer.result_source or 0, answer.diagnostic or 0)
    words = f"{answer.result_str}: {answer.reason_str}"
    return f"{words}; {_ADVICE[key]}" if key in _ADVICE else words


def _unreached(parcel: Parcel, error: str) -> SendResult:
    return SendResult(parcel.delivery_id, Verdict.RETRY, error=error, contact=Contact.UNREACHED)
