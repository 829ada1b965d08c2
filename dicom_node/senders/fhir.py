"""FHIR: posts stored transactions as they are to the base of a server, one per request."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from dicom_node.senders.base import Parcel, Receiver, SendResult
from dicom_node.senders.endpoint import Endpoint
from dicom_node.senders.fhir_answer import is_capable, judge_answer
from dicom_node.senders.http_client import Headers, HttpClient
from dicom_node.senders.http_line import HttpLine
from dicom_node.senders.turns import damaged, unreadable
from models.sections import DestinationSettings
from models.settings import Settings

_MEDIA_TYPE: Final = "application/fhir+json"


@dataclass(frozen=True)
class FhirSender:
    """The client of one FHIR server."""

    client: HttpClient

    @classmethod
    def of(cls, settings: Settings, destination: DestinationSettings) -> Self:
        """Return the sender that the settings describe for a destination with a FHIR URL."""
        return cls(HttpClient(Endpoint.of(settings, destination)))

    def send(self, _receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel. After one without an answer the others are not offered."""
        return self.client.each(parcels, self._send_one)

    def _send_one(self, line: HttpLine, headers: Headers, parcel: Parcel) -> SendResult:
        try:
            body = parcel.path.read_bytes()
        except OSError as error:
            return unreadable(parcel, error)
        entries = _entries(body)
        if not entries:
            return damaged(parcel, "FHIR transaction")
        told = {"Prefer": "return=minimal", **headers}
        told |= {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        path = self.client.endpoint.address.path or "/"
        answer = self.client.post(line, parcel, path, told, len(body), [body])
        if isinstance(answer, SendResult):
            return answer
        return judge_answer(parcel.delivery_id, answer, entries)

    def echo(self, _receiver: Receiver) -> str | None:
        """Ask what the server can do (3.1.0.14): no patient data comes back."""
        target = f"{self.client.endpoint.address.path}/metadata?_summary=true"
        answer = self.client.get(target, _MEDIA_TYPE)
        if isinstance(answer, str):
            return answer
        if is_capable(answer):
            return None
        return f"it answers {answer.code} and no CapabilityStatement: correct its url"


def _entries(body: bytes) -> int:
    """Return how many entries a stored transaction has; 0 where the bytes are none."""
    try:
        bundle = json.loads(body)
        is_ours = bundle["type"] == "transaction"
        return len(bundle["entry"]) if is_ours else 0
    except (ValueError, KeyError, TypeError):
        return 0
