"""FHIR: posts stored transactions as they are to the base of a server, one per request."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final, Self

from dicom_node.errors import StartError
from dicom_node.senders.base import Parcel, Receiver, SendResult
from dicom_node.senders.fhir_answer import is_capable, judge_answer
from dicom_node.senders.headers import headers_of
from dicom_node.senders.http_line import HttpLine, why
from dicom_node.senders.turns import damaged, in_turn, unanswered, unreached, unreadable
from dicom_node.tls import client_context
from models.sections import DestinationSettings, TlsSettings
from models.settings import Settings
from models.web_address import WebAddress

_MEDIA_TYPE: Final = "application/fhir+json"
_NO_ANSWER: Final = "the connection ended or timed out before an answer came"


@dataclass(frozen=True)
class FhirSender:
    """The client of one FHIR server; every wait ends after `timeout_seconds`."""

    destination: DestinationSettings
    address: WebAddress
    timeout_seconds: float
    tls: TlsSettings

    @classmethod
    def of(cls, settings: Settings, destination: DestinationSettings) -> Self:
        """Return the sender that the settings describe for a destination with a FHIR URL."""
        address = WebAddress.parse(destination.url or "")
        return cls(destination, address, settings.delivery.timeout_seconds, settings.dicom.tls)

    def send(self, _receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel. After one without an answer the others are not offered."""
        try:
            headers, line = headers_of(self.destination), self._line()
        except StartError as error:
            yield from (unreached(parcel, str(error)) for parcel in parcels)
            return
        try:
            yield from in_turn(parcels, lambda parcel: self._send_one(line, headers, parcel))
        finally:
            line.close()

    def _send_one(self, line: HttpLine, headers: dict[str, str], parcel: Parcel) -> SendResult:
        try:
            body = parcel.path.read_bytes()
        except OSError as error:
            return unreadable(parcel, error)
        entries = _entries(body)
        if not entries:
            return damaged(parcel, "FHIR transaction")
        try:
            line.connect()
        except OSError as error:
            return unreached(parcel, f"{self.address.host} cannot be reached: {why(error)}")
        told = {"Prefer": "return=minimal", **headers}
        told |= {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        try:
            answer = line.ask("POST", self.address.path or "/", told, len(body), [body])
        except (OSError, HTTPException):
            if problem := line.tls_problem():
                return unreached(parcel, f"{self.address.host} cannot be reached: {problem}")
            return unanswered(parcel, _NO_ANSWER)
        return judge_answer(parcel.delivery_id, answer, entries)

    def echo(self, _receiver: Receiver) -> str | None:
        """Ask what the server can do (3.1.0.14): no patient data comes back."""
        try:
            headers, line = headers_of(self.destination), self._line()
        except StartError as error:
            return str(error)
        target = f"{self.address.path}/metadata?_summary=true"
        try:
            line.connect()
            answer = line.ask("GET", target, {**headers, "Accept": _MEDIA_TYPE})
        except (OSError, HTTPException) as error:
            problem = line.tls_problem() or why(error)
            return f"{self.address.host} cannot be reached: {problem}"
        finally:
            line.close()
        if is_capable(answer):
            return None
        return f"it answers {answer.code} and no CapabilityStatement: correct its url"

    def _line(self) -> HttpLine:
        context = client_context(self.tls) if self.address.is_secure else None
        return HttpLine(self.address, self.timeout_seconds, context)


def _entries(body: bytes) -> int:
    """Return how many entries a stored transaction has; 0 where the bytes are none."""
    try:
        bundle = json.loads(body)
        is_ours = bundle["type"] == "transaction"
        return len(bundle["entry"]) if is_ours else 0
    except (ValueError, KeyError, TypeError):
        return 0
