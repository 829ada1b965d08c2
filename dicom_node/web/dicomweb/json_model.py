"""Objects in the DICOM JSON Model (PS3.18 Annex F), long values as the address where they are."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import AMBIGUOUS_VR, BYTES_VR

from dicom_node.query.keys import tag_of
from dicom_node.web.dicomweb.errors import NotHereError
from dicom_node.web.dicomweb.stored_header import StoredHeader

_INLINE_BYTES: Final = 1024
_MAX_DEPTH: Final = 32
_BINARY: Final = frozenset(map(str, (BYTES_VR | AMBIGUOUS_VR) - {"US or SS"}))
_CHARACTER_SET: Final = 0x00080005
_AVAILABLE_SYNTAX: Final = 0x00083002
_UTF_8: Final = "ISO_IR 192"
_TAG_DIGITS: Final = 8


def text_of(stored: StoredHeader, address: str, known: Dataset) -> str:
    """Return one object; values of more than a kilobyte are named below its `address`.

    `known` is what rows say of it: what stands in for a header that cannot be parsed.
    """
    ds = stored.ds if len(stored.ds) else known
    elements = {**_elements(ds, f"{address}/bulkdata"), _AVAILABLE_SYNTAX: _syntax(stored)}
    if _CHARACTER_SET in elements:
        elements[_CHARACTER_SET] = json.dumps({"vr": "CS", "Value": [_UTF_8]})
    for tag, bulk in stored.bulk.items():
        uri = f"{address}/bulkdata/{tag:08X}"
        elements[tag] = json.dumps({"vr": bulk.vr, "BulkDataURI": uri})
    return _object(elements)


def dataset_text(ds: Dataset) -> str:
    """Return a data set of our own, as it is."""
    return _object(_elements(ds, ""))


def bulk_value(stored: StoredHeader, path: Sequence[str]) -> tuple[str, bytes]:
    """Return VR and value inside of the header by the tags and item numbers that lead there.

    Raises NotHereError when there is none.
    """
    ds: Any = stored.ds
    try:
        *places, last = path
        for tag, item in zip(places[::2], places[1::2], strict=True):
            ds = ds[int(tag, 16)].value[int(item) - 1]
        element = ds[int(last, 16)]
        vr, value = str(element.VR), element.value
    except Exception as error:
        msg = "the object has no such value"
        raise NotHereError(msg) from error
    if not isinstance(value, bytes):
        msg = "the value stands in the metadata"
        raise NotHereError(msg)
    return vr, value


def _syntax(stored: StoredHeader) -> str:
    return json.dumps({"vr": "UI", "Value": [str(stored.syntax)]})


def _elements(ds: Dataset, address: str, depth: int = 0) -> dict[int, str]:
    """Return every element as text; one that is broken has its VR alone."""
    found = {}
    for tag in sorted(ds.keys()):
        if tag.element == 0:  # group lengths have no place here
            continue
        try:
            element = ds[tag]
        except Exception:  # noqa: BLE001  a peer's bytes, any error
            found[int(tag)] = json.dumps({"vr": "UN"})
            continue
        found[int(tag)] = _element(element, f"{address}/{int(tag):08X}", depth)
    return found


def _element(element: DataElement, address: str, depth: int) -> str:
    try:
        if element.VR == "SQ":
            return _sequence(element, address, depth)
        return json.dumps(_plain(element, address), allow_nan=False)
    except Exception:  # noqa: BLE001  the same
        return json.dumps({"vr": str(element.VR)})


def _sequence(element: DataElement, address: str, depth: int) -> str:
    if depth >= _MAX_DEPTH or not element.value:
        return '{"vr": "SQ"}'
    items = (
        _object(_elements(item, f"{address}/{number}", depth + 1))
        for number, item in enumerate(element.value, start=1)
    )
    return f'{{"vr": "SQ", "Value": [{", ".join(items)}]}}'


def _plain(element: DataElement, address: str) -> dict[str, Any]:
    is_long = str(element.VR) in _BINARY and len(element.value or b"") > _INLINE_BYTES
    if is_long:
        return {"vr": str(element.VR), "BulkDataURI": address}
    return element.to_json_dict(None, _INLINE_BYTES)


def _object(elements: dict[int, str]) -> str:
    pairs: Iterator[str] = (f'"{tag:08X}": {elements[tag]}' for tag in sorted(elements))
    return f"{{{', '.join(pairs)}}}"


def known_of(**values: str) -> Dataset:
    """Return a data set of what rows know, by keyword."""
    ds = Dataset()
    for keyword, value in values.items():
        ds.add_new(tag_of(keyword), "UI", value)
    return ds
