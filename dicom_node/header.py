"""Read who and what a received data set is, without ever touching its pixels.

All of it is a peer's text and may be hostile: elements may claim lengths far beyond the file, nest
thousands deep, or inflate without end.
"""

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from dicom_node.errors import DataSetMismatchError, NotUnderstoodError
from dicom_node.exam_time import exam_time
from dicom_node.receive import ReceivedFile
from dicom_node.types import Identity, StoreRequest

_LAST_TAG: Final = 0x0020000E  # Series Instance UID; everything below is in front of it
# The identity nearly always stands in the first part; long private elements may push it back.
_HEADER_BYTES: Final = (4 << 20, 64 << 20)
_HEAD_BYTES: Final = (1 << 16, *_HEADER_BYTES[:1])  # of stored objects, read again and again
_UID_LENGTH: Final = 64  # PS3.5 9.1
_UID_CHARACTERS: Final = frozenset("0123456789.")
_IMPLICIT = ImplicitVRLittleEndian
_NOT_PLAIN: Final = frozenset({str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)})
_IMPLICIT_HEAD, _LENGTH = struct.Struct("<HHL"), struct.Struct("<L")  # PS3.5 7.1
_LONGEST_ELEMENT_HEAD: Final = 12
_VRS: Final = frozenset({None, *(vr.value.encode() for vr in STANDARD_VR)})
_LONG_VRS: Final = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)
_KEYWORDS: Final = {
    tag: (keyword, dictionary_VR(tag).encode())
    for keyword in (
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        *("Modality", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyDate"),
        *("PresentationIntentType", "Manufacturer", "ManufacturerModelName"),
        *("StudyTime", "TimezoneOffsetFromUTC"),
    )
    if (tag := tag_for_keyword(keyword)) is not None
}


def _head_of(path: Path, offset: int, transfer_syntax: UID, length: int) -> BytesIO:
    """Return the first `length` bytes of the data set, inflated where it is deflated."""
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(length)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, length)
    return BytesIO(raw)


def _parse(path: Path, offset: int, transfer_syntax_uid: str) -> Dataset:
    syntax = UID(transfer_syntax_uid)
    ds, failure = None, None
    for length in _HEADER_BYTES:
        try:
            ds = read_dataset(
                _head_of(path, offset, syntax, length),
                is_implicit_VR=syntax == _IMPLICIT,
                is_little_endian=syntax.is_little_endian,
                stop_when=lambda tag, _vr, _length: tag > _LAST_TAG,
            )
        except Exception as error:  # noqa: BLE001  hostile bytes, any error
            failure = type(error).__name__
        if ds is not None and "SeriesInstanceUID" in ds:
            break
        if path.stat().st_size - offset <= length:
            break
    if ds is None:
        msg = f"the data set cannot be parsed ({failure})"
        raise NotUnderstoodError(msg)
    return ds


def read_head(path: Path, offset: int, transfer_syntax_uid: str, last_tag: int) -> Dataset:
    """Return the elements up to `last_tag` of a stored data set; none of them when it is damaged.

    Raises OSError when the file cannot be read.
    """
    syntax, ds = UID(transfer_syntax_uid), Dataset()
    passed: list[int] = []  # what stands behind `last_tag`: then nothing in front of it is missing

    def is_behind(tag: int, _vr: str | None, _length: int) -> bool:
        passed.extend([tag] if tag > last_tag else [])
        return tag > last_tag

    for length in _HEAD_BYTES:
        try:
            ds = read_dataset(
                _head_of(path, offset, syntax, length),
                is_implicit_VR=syntax == _IMPLICIT,
                is_little_endian=syntax.is_little_endian,
                stop_when=is_behind,
            )
        except OSError:
            raise
        except Exception:  # noqa: BLE001, S112  hostile bytes, any error
            continue
        if passed or path.stat().st_size - offset <= length:
            break
    return ds


def _text(ds: Dataset | Mapping[str, str], keyword: str, length: int) -> str | None:
    """Return an element as stripped text of at most `length` characters; None when empty."""
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        return None
    text = "" if value is None else str(value).replace("\0", "").strip()
    return text[:length] or None


def _uid(ds: Dataset | Mapping[str, str], keyword: str) -> str:
    text = _text(ds, keyword, _UID_LENGTH + 1)
    if text is None or len(text) > _UID_LENGTH or not _UID_CHARACTERS.issuperset(text):
        msg = f"{keyword} is missing or is no UID"
        raise NotUnderstoodError(msg)
    return text


def identity_of(received: ReceivedFile, request: StoreRequest) -> Identity:
    """Return the identity of what was just received: as a rule its first bytes are enough.

    Raises as `read_identity`, and SpoolFullError.
    """
    found = scan(received.head, request.transfer_syntax_uid)
    if found is not None:
        return _identity(found, request)
    received.require_written()
    return read_identity(received.path, received.data_set_offset, request)


def scan(head: bytes, transfer_syntax_uid: str) -> dict[str, str] | None:
    """Return the identity's attributes by keyword from the first bytes of a plain data set.

    None where it takes more than a walk over little-endian elements of known lengths: items of
    undefined length, text that is not ASCII, several values, disorder, an identity that ends behind
    `head`.
    pydicom, which knows all of that, needs ten times as long.
    """
    if transfer_syntax_uid in _NOT_PLAIN:
        return None
    is_implicit = transfer_syntax_uid == _IMPLICIT
    found: dict[str, str] = {}
    at, end, last = 0, len(head) - _LONGEST_ELEMENT_HEAD, 0
    while at < end:
        group, element, length = _IMPLICIT_HEAD.unpack_from(head, at)
        tag, at = group << 16 | element, at + _IMPLICIT_HEAD.size
        if tag > _LAST_TAG:
            return found
        vr = None if is_implicit else head[at - 4 : at - 2]
        if tag <= last or vr not in _VRS:
            return None
        last = tag
        if vr in _LONG_VRS:
            length, at = _LENGTH.unpack_from(head, at)[0], at + _LENGTH.size
        elif vr is not None:
            length >>= 16
        if tag in _KEYWORDS:
            text = _plain_text(head[at : at + length])
            if text is None or vr not in {None, _KEYWORDS[tag][1]}:
                return None
            found[_KEYWORDS[tag][0]] = text
        at += length
    return None


def _plain_text(value: bytes) -> str | None:
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() and "\\" not in text else None


def read_identity(path: Path, offset: int, request: StoreRequest) -> Identity:
    """Return the identity of the data set at `offset` of `path`.

    Raises NotUnderstoodError when it cannot be parsed or lacks a UID, DataSetMismatchError when
    its SOP Class or Instance UID is not what the command announced (PS3.4 B.2.3).
    """
    return _identity(_parse(path, offset, request.transfer_syntax_uid), request)


def _identity(ds: Dataset | Mapping[str, str], request: StoreRequest) -> Identity:
    identity = Identity(
        sop_class_uid=_uid(ds, "SOPClassUID"),
        sop_instance_uid=_uid(ds, "SOPInstanceUID"),
        study_instance_uid=_uid(ds, "StudyInstanceUID"),
        series_instance_uid=_uid(ds, "SeriesInstanceUID"),
        modality=_text(ds, "Modality", 16),
        patient_id=_text(ds, "PatientID", 64),
        issuer_of_patient_id=_text(ds, "IssuerOfPatientID", 64),
        accession_number=_text(ds, "AccessionNumber", 64),
        study_date=_text(ds, "StudyDate", 8),
        presentation_intent=_text(ds, "PresentationIntentType", 16),
        manufacturer=_text(ds, "Manufacturer", 64),
        manufacturer_model_name=_text(ds, "ManufacturerModelName", 64),
        exam_at=exam_time(
            *(_text(ds, each, 16) for each in ("StudyDate", "StudyTime", "TimezoneOffsetFromUTC"))
        ),
    )
    if (identity.sop_class_uid, identity.sop_instance_uid) != (
        request.sop_class_uid,
        request.sop_instance_uid,
    ):
        msg = "SOP Class or SOP Instance UID differ from the C-STORE command"
        raise DataSetMismatchError(msg)
    return identity
