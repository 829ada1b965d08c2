"""The beginning of a Part 10 file, and the answer about what was stored."""

from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from pathlib import Path

import pydicom.config
import pytest
from builders import chest_dataset, write_part10
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info

from dicom_node.errors import NotUnderstoodError
from dicom_node.types import StoreRequest
from dicom_node.web.dicomweb.part10 import read_meta
from dicom_node.web.dicomweb.store_response import (
    Failed,
    Kept,
    Outcome,
    module_of,
    status_of_all,
)
from dicom_node.web.dicomweb.stored_header import open_stored
from dicom_node.web.dicomweb.targets import Target

REQUEST = StoreRequest("1.2.840.10008.5.1.4.1.1.1", "1.2.3", "1.2.840.10008.1.2.1")


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 131, 1 << 20])
def test_the_data_set_begins_where_the_meta_information_ends(tmp_path: Path, size: int) -> None:
    ds = chest_dataset()
    path = write_part10(tmp_path / "a.dcm", ds)
    pieces = _pieces(path.read_bytes(), size)
    request, first = read_meta(pieces)
    assert (request.sop_class_uid, request.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert first + b"".join(pieces) == path.read_bytes()[open_stored(path).start :]


def _meta(**values: str) -> bytes:
    meta, buffer = FileMetaDataset(), BytesIO()
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword) or 0
        meta.add(DataElement(tag, "UI", value, validation_mode=pydicom.config.IGNORE))
    write_file_meta_info(buffer, meta, enforce_standard=False)
    return bytes(128) + b"DICM" + buffer.getvalue()


FULL = {
    "MediaStorageSOPClassUID": REQUEST.sop_class_uid,
    "MediaStorageSOPInstanceUID": REQUEST.sop_instance_uid,
    "TransferSyntaxUID": REQUEST.transfer_syntax_uid,
}


def test_a_group_length_is_not_needed() -> None:
    request, first = read_meta(iter([_meta(**FULL), b"\x08\0\x05\0CS\x04\0ABCD"]))
    assert request == REQUEST
    assert first == b"\x08\0\x05\0CS\x04\0ABCD"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 500,
        bytes(128) + b"DICM",
        _meta(**FULL),
        _meta(**{**FULL, "TransferSyntaxUID": ""}) + bytes(20),
        _meta(**{**FULL, "MediaStorageSOPInstanceUID": "1.2.x"}) + bytes(20),
        _meta(**{**FULL, "MediaStorageSOPInstanceUID": "1." * 40}) + bytes(20),
        bytes(128) + b"DICM" + b"\x02\0\x01\0OB\0\0\xff\xff\xff\xff" + bytes(100),
    ],
)
def test_what_is_no_part_10_file_is_refused(data: bytes) -> None:
    with pytest.raises(NotUnderstoodError):
        read_meta(_pieces(data, 50))


KEPT = Kept(REQUEST, "1.2", Target("1.2", "1.2.1", "1.2.3"))


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([KEPT, KEPT], HTTPStatus.OK),
        ([KEPT, Failed(0xA700, REQUEST)], HTTPStatus.ACCEPTED),
        ([Failed(0xA900, REQUEST), Failed(0xA700)], HTTPStatus.CONFLICT),
        ([Failed(0xA700), Failed(0x0110)], HTTPStatus.SERVICE_UNAVAILABLE),
    ],
)
def test_status(outcomes: list[Outcome], status: HTTPStatus) -> None:
    assert status_of_all(outcomes) == status


def test_the_module_names_what_was_kept_and_why_what_was_not() -> None:
    outcomes = [KEPT, Kept(REQUEST, "1.2", None), Failed(0xA900, REQUEST), Failed(0xC000)]
    ds = module_of(outcomes, "http://node/dicom-web")
    assert ds.RetrieveURL == "http://node/dicom-web/studies/1.2"
    first, second = ds.ReferencedSOPSequence
    assert first.RetrieveURL.endswith("/studies/1.2/series/1.2.1/instances/1.2.3")
    assert not second.RetrieveURL
    (failed,) = ds.FailedSOPSequence
    assert (failed.FailureReason, failed.ReferencedSOPInstanceUID) == (0xA900, "1.2.3")
    (other,) = ds.OtherFailuresSequence
    assert (other.FailureReason, len(other)) == (0xC000, 1)
    assert not module_of([KEPT, Kept(REQUEST, "1.9", None)], "").RetrieveURL  # two studies
