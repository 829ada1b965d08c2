"""Parcels one after the other: after one without an answer the others are not offered."""

from collections.abc import Callable, Iterator, Sequence

from dicom_node.senders.base import Contact, Parcel, SendResult, Verdict


def in_turn(
    parcels: Sequence[Parcel], send_one: Callable[[Parcel], SendResult]
) -> Iterator[SendResult]:
    """Yield one result per parcel."""
    problem: str | None = None
    for parcel in parcels:
        if problem is not None:
            yield unreached(parcel, problem)
            continue
        result = send_one(parcel)
        if result.contact in {Contact.UNREACHED, Contact.OFFERED}:
            problem = result.error
        yield result


def unreached(parcel: Parcel, error: str) -> SendResult:
    """Return the result of a parcel that was not offered."""
    return SendResult(parcel.delivery_id, Verdict.RETRY, error=error, contact=Contact.UNREACHED)


def unanswered(parcel: Parcel, error: str) -> SendResult:
    """Return the result of a parcel that was offered, and may have arrived."""
    return SendResult(parcel.delivery_id, Verdict.RETRY, error=error, contact=Contact.OFFERED)


def unreadable(parcel: Parcel, error: OSError) -> SendResult:
    """Return the result of a parcel whose file cannot be read now."""
    message = f"the stored result cannot be read: {error.strerror}"
    return SendResult(parcel.delivery_id, Verdict.RETRY, error=message, contact=Contact.NONE)


def damaged(parcel: Parcel, what: str) -> SendResult:
    """Return the result of a parcel whose file is not what it should be: nobody would take it."""
    message = f"the stored result is no {what}"
    return SendResult(parcel.delivery_id, Verdict.REJECTED, error=message, contact=Contact.NONE)
