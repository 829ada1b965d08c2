"""The data sets of Storage Commitment: written by us, and read from peers (PS3.4 J.3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.errors import MalformedCommitmentError

PUSH_MODEL: Final = UID("1.2.840.10008.1.20.1")
WELL_KNOWN_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")  # PS3.4 J.3.5
REQUEST_COMMITMENT: Final = 1  # Action Type ID, PS3.4 J.3.2
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # Event Type IDs, PS3.4 J.3.3

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119
DUPLICATE_TRANSACTION: Final = 0x0131
FAILURE_REASONS: Final[dict[int, str]] = {  # PS3.3 C.14.1.1
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_INSTANCE: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "referenced SOP Class not supported",
    CLASS_CONFLICT: "class / instance conflict",
    DUPLICATE_TRANSACTION: "duplicate transaction UID",
}

_UID_LENGTH: Final = 64  # PS3.5 9.1
_UID_CHARACTERS: Final = frozenset("0123456789.")


@dataclass(frozen=True)
class Reference:
    """One instance that a message names."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Failure:
    """One instance that is not committed, and why (PS3.3 C.14.1.1)."""

    reference: Reference
    reason: int


@dataclass(frozen=True)
class Question:
    """What an N-ACTION asks (PS3.4 J.3.2.1.1)."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Report:
    """What an N-EVENT-REPORT answers (PS3.4 J.3.3.1.1)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]

    @property
    def event_type(self) -> int:
        """The Event Type ID that goes with it."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED


def encode_question(question: Question) -> Dataset:
    """Return the Action Information."""
    ds = Dataset()
    ds.TransactionUID = question.transaction_uid
    ds.ReferencedSOPSequence = [_item(reference) for reference in question.references]
    return ds


def encode_report(report: Report) -> Dataset:
    """Return the Event Information."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    if report.committed:
        ds.ReferencedSOPSequence = [_item(reference) for reference in report.committed]
    if report.failed:
        items = []
        for failure in report.failed:
            item = _item(failure.reference)
            item.FailureReason = failure.reason
            items.append(item)
        ds.FailedSOPSequence = items
    return ds


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    return item


def decode_question(ds: Dataset) -> Question:
    """Read the Action Information of a peer. Raises MalformedCommitmentError."""
    references = tuple(dict.fromkeys(_references(_items(ds, "ReferencedSOPSequence"))))
    if not references:
        msg = "the question names no instance"
        raise MalformedCommitmentError(msg)
    return Question(_uid(ds, "TransactionUID"), references)


def decode_report(ds: Dataset) -> Report:
    """Read the Event Information of a peer. Raises MalformedCommitmentError.

    What it names both as committed and as failed counts as failed.
    """
    failures = _items(ds, "FailedSOPSequence")
    failed = tuple(
        Failure(reference, _reason(item))
        for reference, item in zip(_references(failures), failures, strict=True)
    )
    lost = {failure.reference.sop_instance_uid for failure in failed}
    committed = tuple(
        reference
        for reference in _references(_items(ds, "ReferencedSOPSequence"))
        if reference.sop_instance_uid not in lost
    )
    return Report(_uid(ds, "TransactionUID"), committed, failed)


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    try:
        return list(ds.get(keyword) or [])
    except Exception as error:
        msg = f"{keyword} cannot be read"
        raise MalformedCommitmentError(msg) from error


def _references(items: Iterable[Dataset]) -> Iterator[Reference]:
    for item in items:
        yield Reference(_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))


def _reason(item: Dataset) -> int:
    """Return the Failure Reason; one that is missing or no number is a processing failure."""
    try:
        return int(item.FailureReason) & 0xFFFF
    except Exception:  # noqa: BLE001  a peer's value, any error
        return PROCESSING_FAILURE


def _uid(ds: Dataset, keyword: str) -> str:
    try:
        text = str(ds.get(keyword, "")).replace("\0", "").strip()
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        text = ""
    if not 0 < len(text) <= _UID_LENGTH or not _UID_CHARACTERS.issuperset(text):
        msg = f"{keyword} is missing or is no UID"
        raise MalformedCommitmentError(msg)
    return text
