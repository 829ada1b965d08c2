"""A Part 10 file, however odd, to a data set; a data set to the header that our objects need."""

import hashlib
import mmap
import re
import struct
import unicodedata
import warnings
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import format_number_as_ds

from models.reasons import Reason
from worker.errors import NotAnalysable

# What pydicom raises on hostile data sets, each seen on a real file: a list and not Exception,
# so that a mistake of ours still shows. MemoryError is not here: it has its own outcome.
READ_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

_PREAMBLE: Final = 128
_LONG_VRS: Final = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UT", b"UN", b"UC"})
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_MAX: Final = 64

# PS3.3 C.7.1 to C.8.11: what SEG and SR copy or derive from, by kind of value.
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TEXTS: Final = {
    "PatientName": 324,
    "PatientID": 64,
    "IssuerOfPatientID": 64,
    "StudyID": 16,
    "AccessionNumber": 16,
    "ReferringPhysicianName": 324,
    "StudyDescription": 64,
    "Manufacturer": 64,
    "ManufacturerModelName": 64,
}
_CODES: Final = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PhotometricInterpretation",
    "PresentationIntentType",
    "LossyImageCompression",
    "BurnedInAnnotation",
    "PixelSpacingCalibrationType",
    "ImageLaterality",
)
_MULTI_CODES: Final = ("ImageType", "PatientOrientation", "LossyImageCompressionMethod")
_ZONE: Final = re.compile(r"\+(0[0-9]|1[0-3])[0-5][0-9]|\+1400|-(0[0-9]|1[01])[0-5][0-9]|-1200")
_DATES: Final = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_TIMES: Final = ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime")
_INTEGERS: Final = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SeriesNumber",
    "InstanceNumber",
)
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_DECIMALS: Final = ("EstimatedRadiographicMagnificationFactor", "LossyImageCompressionRatio")
_CODE_SEQUENCES: Final = ("ViewCodeSequence", "AnatomicRegionSequence")
_TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
)


def read_data_set(path: Path, *, pixels: bool = True) -> Dataset:
    """Read a DICOM file, with or without Part 10 header; `file_meta` names a transfer syntax.

    The file is mapped, not read, so that a declared length of 3 GB costs what the file holds.
    Raises NotAnalysable NOT_DICOM or UNREADABLE.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            offset = _data_set_offset(view)
            with warnings.catch_warnings():
                # Odd files make pydicom warn with their values, which may be patient data.
                warnings.simplefilter("ignore")
                ds = dcmread(cast("BinaryIO", view), force=True, stop_before_pixels=not pixels)
    except READ_ERRORS as error:
        reason = Reason.NOT_DICOM if _is_empty(path) else Reason.UNREADABLE
        raise NotAnalysable(reason) from error
    if offset is None and not any(get_text(ds, keyword) for keyword in _UIDS):
        raise NotAnalysable(Reason.NOT_DICOM)
    _name_transfer_syntax(ds)
    return ds


def data_set_offset(path: Path) -> int:
    """Return where the data set starts in the file: after the file meta, or 0 without one.

    Raises NotAnalysable UNREADABLE when the file cannot be opened, NOT_DICOM when it is empty.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _data_set_offset(view) or 0
    except (OSError, ValueError) as error:
        reason = Reason.NOT_DICOM if _is_empty(path) else Reason.UNREADABLE
        raise NotAnalysable(reason) from error


def data_set_sha256(path: Path) -> str:
    """SHA-256 of the encoded data set, as a C-STORE would carry it. Raises as `data_set_offset`."""
    offset = data_set_offset(path)
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_text(ds: Dataset, keyword: str) -> str:
    """Return an attribute as text, `""` when it is absent, empty or unreadable.

    Several values stand joined by a backslash, as in the file.
    """
    return "\\".join(get_values(ds, keyword))


def get_values(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an attribute as stripped text; empty when absent or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes the odd value, maybe patient data
            value = ds.get(keyword)
            if value is None or isinstance(value, Sequence):
                return ()
            several = value if isinstance(value, list | tuple) or _is_multi(value) else [value]
            texts = tuple(_clean(str(item)) for item in several)
    except READ_ERRORS:
        return ()
    return texts if any(texts) else ()


def get_numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the finite numeric values of an attribute; empty when one of them is no number."""
    try:
        numbers = tuple(float(text) for text in get_values(ds, keyword))
    except ValueError:
        return ()
    return numbers if all(abs(number) < float("inf") for number in numbers) else ()


def get_items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence; empty when it is absent or unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes the odd value, maybe patient data
            value = ds.get(keyword)
            return tuple(value) if isinstance(value, Sequence) else ()
    except READ_ERRORS:
        return ()


def is_uid(text: str) -> bool:
    """Say whether a text can stand as a UID and as part of a file name.

    Leading zeros break PS3.5 9.1 and are accepted: real archives hold such UIDs.
    """
    return len(text) <= _UID_MAX and _UID.fullmatch(text) is not None


def normalised_header(ds: Dataset) -> Dataset:
    """Return the attributes that derived objects need, in UTF-8 and with legal values.

    Everything else, free text and private elements above all, stays behind. Type 2 attributes of
    the derived IODs are present and may be empty. Illegal UIDs are carried: a PACS knows the image
    by them. Never raises on an odd value: it is emptied.
    """
    out = Dataset()
    with warnings.catch_warnings():
        # An illegal UID is carried on purpose.
        warnings.simplefilter("ignore")
        _copy_texts(ds, out)
        _copy_numbers(ds, out)
        _copy_code_sequences(ds, out)
        for keyword in _TYPE_2:
            if keyword not in out:
                setattr(out, keyword, "")
    return out


def _copy_texts(ds: Dataset, out: Dataset) -> None:
    out.SpecificCharacterSet = "ISO_IR 192"
    # A UID has one value; of several, the first that says something.
    copied = {keyword: next(filter(None, get_values(ds, keyword)), "") for keyword in _UIDS}
    for keyword, longest in _TEXTS.items():
        copied[keyword] = get_text(ds, keyword).replace("\\", " ")[:longest]
    for keyword in _CODES:
        copied[keyword] = _code_string(get_text(ds, keyword))
    for keyword in _DATES:
        copied[keyword] = _date(get_text(ds, keyword))
    for keyword in _TIMES:
        copied[keyword] = _time(get_text(ds, keyword))
    sex = get_text(ds, "PatientSex").upper()[:1]
    copied["PatientSex"] = sex if sex in {"M", "F", "O"} else ""
    zone = get_text(ds, "TimezoneOffsetFromUTC")
    copied["TimezoneOffsetFromUTC"] = zone if _ZONE.fullmatch(zone) else ""
    age = get_text(ds, "PatientAge").upper()
    copied["PatientAge"] = age if re.fullmatch(r"[0-9]{3}[DWMY]", age) else ""
    for keyword, text in copied.items():
        if text:
            setattr(out, keyword, text)
    for keyword in _MULTI_CODES:
        values = [_code_string(text) for text in get_values(ds, keyword)]
        if values:
            setattr(out, keyword, values)


def _copy_numbers(ds: Dataset, out: Dataset) -> None:
    for keyword in _INTEGERS:
        numbers = get_numbers(ds, keyword)
        if len(numbers) == 1 and numbers[0].is_integer() and 0 <= numbers[0] < 2**31:  # IS, US
            setattr(out, keyword, int(numbers[0]))
    for keyword in (*_SPACINGS, *_DECIMALS):
        numbers = get_numbers(ds, keyword)
        paired = keyword not in _SPACINGS or len(numbers) == 2  # noqa: PLR2004  row, column
        if numbers and min(numbers) > 0 and paired:
            setattr(out, keyword, [format_number_as_ds(number) for number in numbers])


def _copy_code_sequences(ds: Dataset, out: Dataset) -> None:
    for keyword in _CODE_SEQUENCES:
        items = []
        for item in get_items(ds, keyword):
            code = Dataset()
            for name, longest in (
                ("CodeValue", 16),
                ("CodingSchemeDesignator", 16),
                ("CodeMeaning", 64),
            ):
                setattr(code, name, get_text(item, name)[:longest])
            items.append(code)
        if items:
            setattr(out, keyword, Sequence(items))


def _data_set_offset(view: mmap.mmap) -> int | None:
    """Offset of the data set; None when the file has neither preamble nor file meta."""
    start = _PREAMBLE + 4
    if view[_PREAMBLE:start] != b"DICM":
        start = 0
    if view[start : start + 2] != b"\x02\x00":
        # `DICM` may stand by chance inside a data set without preamble (group 0008 comes first).
        return start if start and view[:2] != b"\x08\x00" else None
    while view[start : start + 2] == b"\x02\x00" and start + 8 <= len(view):
        # PS3.10 7.1: the file meta is Explicit VR Little Endian (PS3.5 7.1.2)
        if view[start + 4 : start + 6] in _LONG_VRS:
            length = struct.unpack("<I", view[start + 8 : start + 12].ljust(4, b"\0"))[0]
            start += 12 + length
        else:
            start += 8 + struct.unpack("<H", view[start + 6 : start + 8])[0]
    return min(start, len(view))


def _name_transfer_syntax(ds: Dataset) -> None:
    """Record the encoding that pydicom guessed where the file does not name one."""
    meta = getattr(ds, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return
    implicit, little = ds.original_encoding
    syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    ds.file_meta = meta or FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else syntax


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:
        return False


def _is_multi(value: object) -> bool:
    return type(value).__name__ == "MultiValue"


def _clean(text: str) -> str:
    """Drop control characters (PS3.5 6.1.3), which real headers carry as padding."""
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cc").strip()


def _code_string(text: str) -> str:
    """Return a legal CS value (PS3.5 6.2): upper case, digits, space and underscore."""
    return re.sub(r"[^A-Z0-9 _]", " ", text.upper()).strip()[:16].strip()


def _date(text: str) -> str:
    """Return a legal DA: `yyyy.mm.dd` of ACR-NEMA is mended, what is no date is dropped."""
    digits = re.sub(r"[.\-/]", "", text)[:8]
    try:
        datetime.strptime(digits, "%Y%m%d")  # noqa: DTZ007  a DA has no time zone
    except ValueError:
        return ""
    return digits if re.fullmatch(r"[0-9]{8}", digits) else ""


def _time(text: str) -> str:
    """Return a legal TM, without fractions beyond a second's; what is no time is dropped."""
    match = re.match(r"([01][0-9]|2[0-3])([0-5][0-9])?([0-5][0-9])?", text.replace(":", ""))
    return "".join(part or "" for part in match.groups()) if match else ""
