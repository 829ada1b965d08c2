"""What the senders to an HTTP server share: one connection per batch, one object per request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final

from dicom_node.errors import StartError
from dicom_node.senders.base import Parcel, SendResult
from dicom_node.senders.endpoint import Endpoint
from dicom_node.senders.headers import headers_of
from dicom_node.senders.http_line import HttpLine, why
from dicom_node.senders.store_response import HttpAnswer
from dicom_node.senders.turns import in_turn, unanswered, unreached

Headers = Mapping[str, str]
_NO_ANSWER: Final = "the connection ended or timed out before an answer came"


@dataclass(frozen=True)
class HttpClient:
    """The client of one server."""

    endpoint: Endpoint

    def each(
        self,
        parcels: Sequence[Parcel],
        send_one: Callable[[HttpLine, Headers, Parcel], SendResult],
    ) -> Iterator[SendResult]:
        """Yield one result per parcel. After one without an answer the others are not offered."""
        try:
            headers, line = headers_of(self.endpoint.destination), self._line()
        except StartError as error:
            yield from (unreached(parcel, str(error)) for parcel in parcels)
            return
        try:
            yield from in_turn(parcels, lambda parcel: send_one(line, headers, parcel))
        finally:
            line.close()

    def post(
        self,
        line: HttpLine,
        parcel: Parcel,
        path: str,
        headers: Headers,
        length: int,
        body: Iterable[bytes],
    ) -> HttpAnswer | SendResult:
        """Return the answer to a request about a parcel, or what its lack means."""
        try:
            line.connect()
        except OSError as error:
            return unreached(parcel, self.endpoint.not_reached(why(error)))
        try:
            return line.ask("POST", path, headers, length, body)
        except (OSError, HTTPException):
            if problem := line.tls_problem():
                return unreached(parcel, self.endpoint.not_reached(problem))
            return unanswered(parcel, _NO_ANSWER)

    def get(self, target: str, media_type: str) -> HttpAnswer | str:
        """Return the answer to a question, or why there is none, as a sentence."""
        try:
            headers, line = headers_of(self.endpoint.destination), self._line()
        except StartError as error:
            return str(error)
        try:
            line.connect()
            return line.ask("GET", target, {**headers, "Accept": media_type})
        except (OSError, HTTPException) as error:
            return self.endpoint.not_reached(line.tls_problem() or why(error))
        finally:
            line.close()

    def _line(self) -> HttpLine:
        endpoint = self.endpoint
        return HttpLine(endpoint.address, endpoint.timeout_seconds, endpoint.context())
