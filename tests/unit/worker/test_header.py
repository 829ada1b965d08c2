"""worker.header: any file to a data set, any data set to a legal header."""

import hashlib
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from models.reasons import Reason
from worker import header
from worker.errors import NotAnalysable


def _reason(path: Path) -> Reason:
    with pytest.raises(NotAnalysable) as caught:
        header.read_data_set(path)
    return caught.value.reason


def test_reads_part10(tmp_path: Path) -> None:
    ds = header.read_data_set(write_part10(tmp_path / "a.dcm"))
    assert ds.Modality == "CR"
    assert "PixelData" in ds


def test_reads_a_bare_data_set_and_names_its_syntax(tmp_path: Path) -> None:
    ds = header.read_data_set(write_part10(tmp_path / "a", preamble=False))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert ds.Rows == 256


def test_leaves_pixels_on_demand(tmp_path: Path) -> None:
    assert "PixelData" not in header.read_data_set(write_part10(tmp_path / "a"), pixels=False)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not DICOM</html>" * 20, b"\x1f\x8b\x08" + b"x" * 300, bytes(200), b"DICM"],
    ids=["empty", "html", "gzip", "zeros", "four bytes"],
)
def test_what_is_no_dicom(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert _reason(path) is Reason.NOT_DICOM


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert _reason(tmp_path / "nowhere") is Reason.UNREADABLE


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_hash_is_that_of_the_encoded_data_set(syntax: str, tmp_path: Path) -> None:
    path = write_part10(tmp_path / "a.dcm", chest_dataset(transfer_syntax=syntax))
    data = path.read_bytes()
    meta_length = int.from_bytes(data[140:144], "little")  # value of (0002,0000)
    assert header.data_set_offset(path) == 144 + meta_length
    expected = hashlib.sha256(data[144 + meta_length :]).hexdigest()
    assert header.data_set_sha256(path) == expected


def test_the_hash_of_a_bare_data_set_is_that_of_the_file(tmp_path: Path) -> None:
    path = write_part10(tmp_path / "a", preamble=False)
    assert header.data_set_offset(path) == 0
    assert header.data_set_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_letters_dicm_inside_a_bare_data_set_are_no_preamble(tmp_path: Path) -> None:
    bare = write_part10(tmp_path / "a", preamble=False).read_bytes()
    path = tmp_path / "b"
    path.write_bytes(bare[:128] + b"DICM" + bare[132:])
    assert header.data_set_offset(path) == 0


def test_only_what_derived_objects_need_is_carried() -> None:
    ds = chest_dataset(
        PatientComments="free text", AdditionalPatientHistory="more", InstitutionName="Hospital"
    )
    ds.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    out = header.normalised_header(ds)
    assert out.PatientName == "Phantom^Chest"
    absent = ("PatientComments", "AdditionalPatientHistory", "InstitutionName", "PixelData")
    assert not any(keyword in out for keyword in absent)
    assert not any(element.tag.is_private for element in out)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 144", "Дождь^Юля"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 100", "Buc^Jérôme"),
    ],
)
def test_text_becomes_utf8(charset: str | list[str], name: str, tmp_path: Path) -> None:
    path = write_part10(
        tmp_path / "a", chest_dataset(SpecificCharacterSet=charset, PatientName=name)
    )
    out = header.normalised_header(header.read_data_set(path))
    assert out.SpecificCharacterSet == "ISO_IR 192"
    assert str(out.PatientName) == name


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyDate", b"1993.02.24", "19930224"),
        ("StudyDate", b"yesterday ", ""),
        ("PatientBirthDate", b"19931399", ""),
        ("StudyTime", b"17:58:16", "175816"),
        ("StudyTime", b"99 ", ""),
        ("PatientSex", b"female", "F"),
        ("PatientSex", b"X ", ""),
        ("PatientAge", b"41", None),
        ("TimezoneOffsetFromUTC", b"-0330 ", "-0330"),
        ("TimezoneOffsetFromUTC", b"+1401 ", None),
        ("TimezoneOffsetFromUTC", b"CET ", None),
        ("BodyPartExamined", b"chest-1 ", "CHEST 1"),
        ("PatientID", b"A\x00B\x1b ", "AB"),
        ("PixelSpacing", b"-5", None),
        ("PixelSpacing", b"0.1\\0", None),
        ("PixelSpacing", b"nan\\nan ", None),
        ("SeriesInstanceUID", b"1.2\\1.3 ", "1.2"),
        ("InstanceNumber", b"9" * 20, None),
    ],
)
def test_odd_values_are_mended_or_emptied(keyword: str, value: bytes, expected: str | None) -> None:
    ds = chest_dataset()
    _set_raw(ds, keyword, value)
    assert header.normalised_header(ds).get(keyword) == expected


def test_type_2_attributes_are_present_and_empty() -> None:
    out = header.normalised_header(Dataset())
    assert out.PatientID == ""
    assert out.StudyDate == ""
    assert out.AccessionNumber == ""


def test_illegal_uids_are_carried() -> None:
    ds = chest_dataset()
    _set_raw(ds, "SOPInstanceUID", b"999.999.01.2")
    assert header.normalised_header(ds).SOPInstanceUID == "999.999.01.2"


def _set_raw(ds: Dataset, keyword: str, value: bytes) -> None:
    """Put bytes into an element as a file would: pydicom judges values that are set."""
    tag = Tag(keyword)
    ds._dict[tag] = RawDataElement(
        tag, dictionary_VR(tag), len(value), value, 0, is_implicit_VR=False, is_little_endian=True
    )


@pytest.mark.parametrize(
    ("text", "legal"),
    [("1.2.3", True), ("1.02", True), ("", False), ("../x", False), ("1" * 65, False)],
)
def test_is_uid(text: str, legal: bool) -> None:  # noqa: FBT001  a table of booleans
    assert header.is_uid(text) is legal


def test_a_hostile_declared_length_costs_what_the_file_holds(data_root: Path) -> None:
    path = data_root / "dicom" / "odd" / "dcm4che_3gb_bulk_data_truncated.dcm"
    assert len(header.read_data_set(path)) > 10


@pytest.mark.parametrize("folder", ["crdx", "other", "odd"])
def test_every_real_file_is_read_or_refused_with_a_reason(folder: str, data_root: Path) -> None:
    for path in sorted((data_root / "dicom" / folder).iterdir()):
        assert _outcome(path) in {"ISO_IR 192", Reason.NOT_DICOM, Reason.UNREADABLE}


def _outcome(path: Path) -> str:
    try:
        return str(header.normalised_header(header.read_data_set(path)).SpecificCharacterSet)
    except NotAnalysable as refusal:
        return refusal.reason
