"""STOW-RS: sends stored files as they are to a DICOM Web server (PS3.18 10.5).

One object per request, over one connection per batch: so an answer, or the lack of one, is about
one object, whatever the server puts into its body.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.senders.base import Contact, Parcel, Receiver, SendResult, Verdict
from dicom_node.senders.endpoint import Endpoint
from dicom_node.senders.http_client import Headers, HttpClient
from dicom_node.senders.http_line import HttpLine
from dicom_node.senders.store_response import HttpAnswer, judge_answer, meaning_of
from dicom_node.senders.stored import transfer_syntax
from models.sections import DestinationSettings
from models.settings import Settings

_MEDIA_TYPE: Final = "application/dicom+json"
_CHUNK: Final = 1 << 20
_FOUND: Final = (200, 204)


@dataclass(frozen=True)
class StowSender:
    """The client of one DICOM Web server."""

    client: HttpClient

    @classmethod
    def of(cls, settings: Settings, destination: DestinationSettings) -> Self:
        """Return the sender that the settings describe for a destination with a URL."""
        return cls(HttpClient(Endpoint.of(settings, destination)))

    def send(self, _receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel. After one without an answer the others are not offered."""
        return self.client.each(parcels, self._send_one)

    def _send_one(self, line: HttpLine, headers: Headers, parcel: Parcel) -> SendResult:
        syntax = transfer_syntax(parcel)
        if isinstance(syntax, SendResult):
            return syntax
        try:
            body = Body.of(parcel.path, syntax)
        except OSError as error:
            message = f"the stored object cannot be read: {error.strerror}"
            return SendResult(
                parcel.delivery_id, Verdict.RETRY, error=message, contact=Contact.NONE
            )
        told = {**headers, "Accept": _MEDIA_TYPE, "Content-Type": body.media_type}
        path = f"{self.client.endpoint.address.path}/studies"
        answer = self.client.post(line, parcel, path, told, body.length, body.parts())
        if isinstance(answer, SendResult):
            return answer
        return judge_answer(parcel.delivery_id, parcel.sop_instance_uid, answer)

    def echo(self, _receiver: Receiver) -> str | None:
        """Search for a study that does not exist (QIDO-RS): no patient data comes back."""
        path = self.client.endpoint.address.path
        query = f"{path}/studies?StudyInstanceUID=2.25.{uuid4().int}&limit=1"
        answer = self.client.get(query, _MEDIA_TYPE)
        return answer if isinstance(answer, str) else _problem(answer)


def _problem(answer: HttpAnswer) -> str | None:
    if answer.code in _FOUND:
        return None
    meaning = meaning_of(answer.code)
    advice = meaning.sentence if meaning.verdict is Verdict.RETRY else "a query was refused"
    return f"QIDO-RS was answered {answer.code}: {advice}"


@dataclass(frozen=True)
class Body:
    """A multipart body with one part, the file as it is (PS3.18 8.6.1.2, 10.5.1)."""

    path: Path
    head: bytes
    tail: bytes
    size: int
    boundary: str

    @classmethod
    def of(cls, path: Path, syntax: str) -> Self:
        """Return the body for a file in a transfer syntax. Raises OSError when it is gone."""
        boundary = secrets.token_hex(24)
        kind = "application/dicom"
        if syntax != ExplicitVRLittleEndian:  # the default of the media type, PS3.18 8.7.3.3
            kind += f"; transfer-syntax={syntax}"
        head = f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode("ascii")
        tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        return cls(path, head, tail, path.stat().st_size, boundary)

    @property
    def media_type(self) -> str:
        """The Content-Type of the request."""
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    @property
    def length(self) -> int:
        """The Content-Length."""
        return len(self.head) + self.size + len(self.tail)

    def parts(self) -> Iterator[bytes]:
        """Yield the body from disk, piece by piece."""
        yield self.head
        with self.path.open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece
        yield self.tail
