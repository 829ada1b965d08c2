"""The identifier of a query, made again of what the audit kept of it."""

from typing import Any, Final

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_BYTES: Final = {"US": 2, "SS": 2, "UL": 4, "SL": 4}  # of integers that are no text


def identifier_of(event: dict[str, Any]) -> tuple[bytes, str]:
    """Return the data set of a query, and its transfer syntax: level, keys, values that it had.

    Of UIDs the audit keeps that of a single study; other UID keys are there without a value.
    """
    details, patient = event["details"] or {}, event["patient"] or {}
    values: dict[str, Any] = dict.fromkeys(map(str, details.get("keys", ())), "")
    values |= {str(key): str(value) for key, value in patient.items()}
    if event["study_instance_uid"]:
        values["StudyInstanceUID"] = event["study_instance_uid"]
    if details.get("level"):
        values["QueryRetrieveLevel"] = str(details["level"])
    ds = Dataset()
    ds.add(_element("SpecificCharacterSet", "ISO_IR 192"))
    for keyword, value in values.items():
        if tag_for_keyword(keyword) is not None:
            ds.add(_element(keyword, value))
    return encode(ds, is_implicit_vr=False, is_little_endian=True) or b"", ExplicitVRLittleEndian


def _element(keyword: str, value: str) -> DataElement:
    """Return an element with a value that a peer made up: it is shown, not judged.

    Of a value that its VR has no form for (`1*` as IS) the key is left.
    """
    tag = tag_for_keyword(keyword) or 0
    vr = dictionary_VR(tag)
    try:
        held = _number(value, vr) if vr in _BYTES else value
        return DataElement(tag, vr, held, validation_mode=config.IGNORE)
    except (ValueError, TypeError, ArithmeticError):
        return DataElement(tag, vr, "", validation_mode=config.IGNORE)


def _number(value: str, vr: str) -> int | str:
    """Return a value of a binary VR. Raises ValueError, OverflowError where it has no such form."""
    if not value:
        return value
    int(value).to_bytes(_BYTES[vr], signed=vr.startswith("S"))
    return int(value)
