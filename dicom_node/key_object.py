"""Read a received Key Object Selection Document: its title, and which objects it names.

All of it is a peer's text and may be hostile. Only the node's loop reads it, never the C-STORE
handler; what is too large, too deep or broken ends in a sentence.
"""

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import KeyObjectError
from dicom_node.receive import data_set_offset
from models.reasons import REJECTION_TITLES, Reason

_MAX_BYTES: Final = 4 << 20  # some 10000 references
_MAX_REFERENCES: Final = 10_000
_MAX_DEPTH: Final = 8  # of the content tree; TID 2010 has one level
_LAST_TAG: Final = 0x0040A730  # Content Sequence
_SCHEME: Final = "DCM"
_UID_LENGTH: Final = 64  # PS3.5 9.1
_UID_CHARACTERS: Final = frozenset("0123456789.")
_EVIDENCE: Final = (
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
)


@dataclass(frozen=True)
class RejectionNote:
    """What a note rejects, and why. `elsewhere` counts what it names in other studies."""

    reason: Reason
    references: frozenset[str]
    elsewhere: int


def read_rejection_note(
    path: Path, transfer_syntax_uid: str, study_instance_uid: str
) -> RejectionNote | None:
    """Return the rejection note in a stored file; None when its title makes it no such note.

    A reference counts only inside the note's own study: a note about several studies has a copy in
    each (PS3.3 C.17.2.1, Identical Documents Sequence), so none can reach another patient.
    Raises KeyObjectError when it cannot be read, or is a rejection note that names nothing, OSError
    when the file cannot be opened.
    """
    ds = _parse(path, transfer_syntax_uid)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes odd values, maybe patient data
            reason = _title(ds)
            found = {} if reason is None else _references(ds, study_instance_uid)
    except KeyObjectError:
        raise
    except Exception as error:  # noqa: BLE001  hostile bytes, any error
        raise KeyObjectError(_broken(error)) from None
    if reason is None:
        return None
    own = frozenset(uid for uid, study in found.items() if study == study_instance_uid)
    if not own:
        msg = "the rejection note names no object of its own study"
        raise KeyObjectError(msg)
    return RejectionNote(reason, own, len(found) - len(own))


def _parse(path: Path, transfer_syntax_uid: str) -> Dataset:
    syntax = UID(transfer_syntax_uid)
    raw = _read(path, syntax)
    if len(raw) > _MAX_BYTES:
        msg = f"the key object has more than {_MAX_BYTES} bytes"
        raise KeyObjectError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_dataset(
                BytesIO(raw),
                is_implicit_VR=syntax == ImplicitVRLittleEndian,
                is_little_endian=syntax.is_little_endian,
                stop_when=lambda tag, _vr, _length: tag > _LAST_TAG,
            )
    except Exception as error:  # noqa: BLE001  hostile bytes, any error
        raise KeyObjectError(_broken(error)) from None


def _read(path: Path, syntax: UID) -> bytes:
    """Return the data set, inflated; of one that is too large a byte more than is allowed."""
    offset = data_set_offset(path)
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(_MAX_BYTES + 1)
    if syntax != DeflatedExplicitVRLittleEndian:
        return raw
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, _MAX_BYTES + 1)
    except zlib.error as error:
        raise KeyObjectError(_broken(error)) from None


def _broken(error: Exception) -> str:
    """Say what pydicom said by its type alone: its words quote what the peer sent."""
    return f"the key object cannot be parsed ({type(error).__name__})"


def _title(ds: Dataset) -> Reason | None:
    for code in _items(ds, "ConceptNameCodeSequence"):
        if _text(code, "CodingSchemeDesignator") == _SCHEME:
            return REJECTION_TITLES.get(_text(code, "CodeValue"))
    return None


def _references(ds: Dataset, own_study: str) -> dict[str, str]:
    """Return the study of every object that the evidence or the content tree names.

    Both ought to name the same (PS3.3 C.17.2.3); senders exist that fill one of them only.
    """
    found: dict[str, str] = {}
    for study in (item for keyword in _EVIDENCE for item in _items(ds, keyword)):
        uid = _text(study, "StudyInstanceUID")
        for series in _items(study, "ReferencedSeriesSequence"):
            _add(found, series, uid)
    for item in _content(ds):
        _add(found, item, own_study)
    return found


def _add(found: dict[str, str], ds: Dataset, study: str) -> None:
    for item in _items(ds, "ReferencedSOPSequence"):
        uid = _text(item, "ReferencedSOPInstanceUID")
        if 0 < len(uid) <= _UID_LENGTH and _UID_CHARACTERS.issuperset(uid):
            found.setdefault(uid, study)
        if len(found) > _MAX_REFERENCES:
            msg = f"the rejection note names more than {_MAX_REFERENCES} objects"
            raise KeyObjectError(msg)


def _content(ds: Dataset) -> Iterator[Dataset]:
    level = _items(ds, "ContentSequence")
    for _ in range(_MAX_DEPTH):
        yield from level
        level = [below for item in level for below in _items(item, "ContentSequence")]
    if level:
        msg = f"the content tree of the key object is deeper than {_MAX_DEPTH} levels"
        raise KeyObjectError(msg)


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    value = ds.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def _text(ds: Dataset, keyword: str) -> str:
    return str(ds.get(keyword) or "").strip().strip("\0")
