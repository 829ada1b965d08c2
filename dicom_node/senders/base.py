"""What a sender promises: one result per artifact, never an exception for the peer's sake."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Verdict(StrEnum):
    """What one attempt means for the delivery."""

    SENT = "sent"
    RETRY = "retry"
    REJECTED = "rejected"


class Contact(StrEnum):
    """How far an attempt came; it says whose fault a failure is."""

    NONE = "none"  # not to the destination: the stored object cannot be read
    UNREACHED = "unreached"  # the object was not offered: no association, or it had ended
    OFFERED = "offered"  # no answer came: the object may have arrived
    ANSWERED = "answered"  # the destination answered about this object


@dataclass(frozen=True)
class Receiver:
    """Where to send."""

    name: str
    ae_title: str
    host: str
    port: int


@dataclass(frozen=True)
class Parcel:
    """One stored DICOM object to send as it is."""

    delivery_id: int
    path: Path
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class SendResult:
    """The outcome of one parcel. `status` is the DIMSE status, when there was one.

    `class_refused` says of a rejected one that the receiver takes no object of its SOP Class.
    `retry_after_seconds` is the pause that the receiver itself asks for.
    """

    delivery_id: int
    verdict: Verdict
    status: int | None = None
    error: str | None = None
    class_refused: bool = False
    contact: Contact = Contact.ANSWERED
    retry_after_seconds: float | None = None


class Sender(Protocol):
    """Sends parcels to one receiver."""

    def send(self, receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Yield one result per parcel, as each is known."""
        ...

    def echo(self, receiver: Receiver) -> str | None:
        """Return None when the receiver answers a verification, else what went wrong."""
        ...
