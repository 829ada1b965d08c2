"""The quick look at a header says what pydicom says, or nothing."""

import os
import random
from pathlib import Path

import pydicom.config
import pytest
from builders import chest_dataset
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from dicom_node import header
from dicom_node.receive import ReceivedFile, file_meta
from dicom_node.types import Peer, StoreRequest


@pytest.fixture(autouse=True)
def _as_in_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pydicom take values as they are (`dicom_node.services.install`)."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)


_FILES = Path(os.environ.get("DICOM_NODE_TEST_DATA", "../shared/data")) / "dicom"


def _bytes(ds: Dataset, *, is_implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, is_implicit
    plain = Dataset()
    plain.update(ds)
    write_dataset(buffer, plain)
    return bytes(buffer.getvalue())


def _chest(**attributes: object) -> Dataset:
    ds = chest_dataset(PatientID="P1", Manufacturer="Maker", AccessionNumber="A1", **attributes)
    ds.StudyDescription = "x" * 101
    ds.add_new(0x00091001, "UN", b"private " * 40)
    return ds


@pytest.mark.parametrize("is_implicit", [False, True])
def test_it_reads_what_is_plain(is_implicit: bool) -> None:  # noqa: FBT001  a parameter
    ds = _chest()
    syntax = ImplicitVRLittleEndian if is_implicit else JPEG2000Lossless
    found = header.scan(_bytes(ds, is_implicit=is_implicit), syntax)
    assert found is not None
    for keyword, text in found.items():
        assert text.strip(" \0") == str(ds.get(keyword) or "")
    assert {"SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"} <= set(found)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_it_leaves_encodings_that_it_does_not_know(syntax: str) -> None:
    assert header.scan(_bytes(_chest(), is_implicit=False), syntax) is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"SpecificCharacterSet": "ISO_IR 100", "AccessionNumber": "Ä1"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "Manufacturer": "山田"},
        {"StudyDescription": "x", "ReferencedStudySequence": [Dataset()]},
    ],
)
def test_it_leaves_what_is_not_plain(attributes: dict[str, object]) -> None:
    ds = _chest()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    if "ReferencedStudySequence" in attributes:
        ds["ReferencedStudySequence"].is_undefined_length = True
    assert header.scan(_bytes(ds, is_implicit=False), ExplicitVRLittleEndian) is None


def test_a_series_behind_the_first_bytes_is_left() -> None:
    raw = _bytes(_chest(), is_implicit=False)
    for length in range(0, raw.index(b"\x20\x00\x0e\x00") + 12, 7):
        assert header.scan(raw[:length], ExplicitVRLittleEndian) is None


def _received(folder: Path, data: bytes, syntax: str) -> tuple[ReceivedFile, StoreRequest]:
    request = StoreRequest("1.2", "1.3", syntax)
    received = ReceivedFile(folder, file_meta(request, Peer("A", "B", "")))
    received.write(memoryview(data))
    received.finish()
    return received, request


@pytest.mark.filterwarnings("ignore")  # pydicom's, about the damage
@pytest.mark.parametrize("seed", range(150))
def test_damaged_headers_are_judged_as_by_pydicom(seed: int, tmp_path: Path) -> None:
    """Bytes are changed at random: both refuse, or both say the same."""
    chance = random.Random(seed)
    raw = bytearray(_bytes(_chest(), is_implicit=False)[:1200])
    for _ in range(chance.randrange(1, 4)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    found = header.scan(bytes(raw), ExplicitVRLittleEndian)
    received, request = _received(tmp_path, bytes(raw), ExplicitVRLittleEndian)
    received.close()
    if found is None:
        return
    ds = header._parse(received.path, received.data_set_offset, request.transfer_syntax_uid)
    for keyword in found:
        assert header._text(found, keyword, 64) == header._text(ds, keyword, 64)


def test_real_files_are_read_alike() -> None:
    quick = slow = 0
    for path in sorted(_FILES.rglob("*.dcm")):
        raw = path.read_bytes()
        if raw[128:132] != b"DICM" or raw[140:144] == b"":
            continue
        offset = 144 + int.from_bytes(raw[140:144], "little")
        at = raw.find(b"\x02\x00\x10\x00UI", 132, offset)
        if at < 0:
            continue
        syntax = raw[at + 8 : at + 8 + int.from_bytes(raw[at + 6 : at + 8], "little")]
        uid = syntax.decode().strip("\0 ")
        found = header.scan(raw[offset : offset + (1 << 16)], uid)
        if found is None:
            slow += 1
            continue
        quick += 1
        ds = header._parse(path, offset, uid)
        for keyword, _ in header._KEYWORDS.values():
            assert header._text(found, keyword, 64) == header._text(ds, keyword, 64), path.name
    if not quick + slow:
        pytest.skip(f"no DICOM files below {_FILES}")
    assert quick > slow
