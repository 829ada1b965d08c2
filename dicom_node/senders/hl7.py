"""HL7 v2 over MLLP: sends stored messages one by one and waits for each acknowledgement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from dicom_node.errors import StartError
from dicom_node.senders.base import Parcel, Receiver, SendResult, Verdict
from dicom_node.senders.endpoint import Endpoint
from dicom_node.senders.hl7_answer import Acknowledgement, judge, read_acknowledgement
from dicom_node.senders.http_line import why
from dicom_node.senders.mllp import ENDED, MllpError, MllpLine
from dicom_node.senders.turns import damaged, in_turn, unanswered, unreached, unreadable
from models.sections import DestinationSettings
from models.settings import Settings

_NO_ANSWER: Final = "the connection ended or timed out before an acknowledgement came"
_NO_ACKNOWLEDGEMENT: Final = "what came is no acknowledgement of the message"
_RECEIVING, _CONTROL_ID = (4, 5), 9  # MSH-5, MSH-6 and MSH-10, counted from MSH-1 as 0


@dataclass(frozen=True)
class Hl7Sender:
    """The client of one HL7 receiver; every wait ends after `timeout_seconds`."""

    endpoint: Endpoint

    @classmethod
    def of(cls, settings: Settings, destination: DestinationSettings) -> Self:
        """Return the sender that the settings describe for a destination with an hl7 URL."""
        return cls(Endpoint.of(settings, destination))

    def send(self, _receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel. After one without an answer the others are not offered."""
        try:
            line = self._line()
        except StartError as error:
            yield from (unreached(parcel, str(error)) for parcel in parcels)
            return
        talk = _Talk(self.endpoint, line)
        try:
            yield from in_turn(parcels, talk.send_one)
        finally:
            line.close()

    def echo(self, _receiver: Receiver) -> str | None:
        """Open a connection: HL7 v2 has no message that means nothing."""
        try:
            line = self._line()
        except StartError as error:
            return str(error)
        try:
            line.connect()
            is_closed = line.is_closed_there()
            problem = line.tls_problem() or ("it closes the connection" if is_closed else None)
        except OSError as error:
            problem = why(error)
        finally:
            line.close()
        return self.endpoint.not_reached(problem) if problem else None

    def _line(self) -> MllpLine:
        endpoint = self.endpoint
        return MllpLine(endpoint.address, endpoint.timeout_seconds, endpoint.context())


class _Talk:
    """What is said over one connection, and what was heard before."""

    def __init__(self, endpoint: Endpoint, line: MllpLine) -> None:
        self._endpoint, self._line = endpoint, line
        self._answered: set[str] = set()

    def send_one(self, parcel: Parcel) -> SendResult:
        try:
            messages = messages_in(parcel.path.read_bytes())
        except OSError as error:
            return unreadable(parcel, error)
        if not messages:
            return damaged(parcel, "HL7 message")
        for message in messages:
            result = self._exchange(parcel, self._addressed(message))
            if result.verdict is not Verdict.SENT:
                return result
        return result

    def _exchange(self, parcel: Parcel, message: bytes) -> SendResult:
        """Send one message. What follows an answer that is none of its own is not believed.

        The end of a connection that answered before may cross the message on its way: then it is
        sent once more, over a new one. Who had it knows it again by its control id.
        """
        control_id = _header(message)[_CONTROL_ID].decode()
        try:
            was_open = self._line.connect()
        except OSError as error:
            return unreached(parcel, self._endpoint.not_reached(why(error)))
        try:
            self._line.say(message)
            said = self._acknowledgement(control_id)
        except (OSError, MllpError) as error:
            self._line.close()
            if was_open and isinstance(error, ENDED):
                return self._exchange(parcel, message)
            if problem := self._line.tls_problem():
                return unreached(parcel, self._endpoint.not_reached(problem))
            is_garbage = isinstance(error, MllpError)
            return unanswered(parcel, _NO_ACKNOWLEDGEMENT if is_garbage else _NO_ANSWER)
        self._answered.add(control_id)
        return judge(parcel.delivery_id, said)

    def _acknowledgement(self, control_id: str) -> Acknowledgement:
        """Return the answer to a message. Raises MllpError, OSError.

        In the enhanced mode a second one may come; it is dropped when the next is waited for.
        """
        deadline = self._line.deadline()
        while True:
            said = read_acknowledgement(self._line.hear(deadline))
            if said is not None and said.control_id == control_id:
                return said
            if said is None or said.control_id not in self._answered:
                raise MllpError(_NO_ACKNOWLEDGEMENT)

    def _addressed(self, message: bytes) -> bytes:
        """Return the message with MSH-5 and 6, which the file leaves to the destination."""
        destination = self._endpoint.destination
        names = (destination.receiving_application, destination.receiving_facility)
        head, _, body = message.partition(b"\r")
        fields = head.split(b"|")
        for number, name in zip(_RECEIVING, names, strict=True):
            fields[number] = name.encode()
        return b"|".join(fields) + b"\r" + body


def messages_in(data: bytes) -> list[bytes]:
    """Return the messages of a stored file; none where it holds anything else.

    Every control character within a value is escaped, so a segment ends at a carriage return.
    """
    if not data.startswith(b"MSH|"):
        return []
    first, *others = data.split(b"\rMSH|")
    messages = [first, *(b"MSH|" + each for each in others)]
    ended = [each if each.endswith(b"\r") else each + b"\r" for each in messages]
    return ended if all(len(_header(each)) > _CONTROL_ID for each in ended) else []


def _header(message: bytes) -> list[bytes]:
    return message.partition(b"\r")[0].split(b"|")
