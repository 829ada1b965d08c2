"""Corrections put over a header, and the two hashes that tell an update from a conflict."""

from pathlib import Path

import pytest
from builders import analysed_image, chest_dataset, object_context, write_part10
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, JPEGExtended12Bit, RLELossless

from models.settings import load_settings
from worker.correction import corrected_header, corrected_image, header_sha256
from worker.errors import NotAnalysable
from worker.fingerprint import pixel_sha256
from worker.header import normalised_header, read_data_set
from worker.sandbox import Sandbox
from worker.segmentation import build_segmentation

CORRECTION = {"PatientID": "P9", "IssuerOfPatientID": "HOSPITAL", "PatientName": "Doe^Jane"}


def _header(**keywords: object) -> Dataset:
    return normalised_header(chest_dataset(**keywords))


def test_a_correction_is_put_over_a_copy_of_the_header() -> None:
    header = _header(PatientID="P1", IssuerOfPatientID="OLD")
    corrected = corrected_header(header, CORRECTION)
    assert (corrected.PatientID, corrected.PatientName) == ("P9", "Doe^Jane")
    assert corrected.IssuerOfPatientID == "HOSPITAL"
    assert corrected.StudyInstanceUID == header.StudyInstanceUID
    assert (header.PatientID, header.IssuerOfPatientID) == ("P1", "OLD")
    assert corrected_header(header, None) is header


def test_an_issuer_that_is_not_given_is_taken_away() -> None:
    header = _header(IssuerOfPatientID="OLD")
    assert "IssuerOfPatientID" not in corrected_header(header, {"IssuerOfPatientID": ""})
    bare = corrected_header(_header(), {"IssuerOfPatientID": "", "PatientName": ""})
    assert "IssuerOfPatientID" not in bare
    assert bare.PatientName == ""


def test_another_identity_is_another_object_and_the_same_one_the_same() -> None:
    result, context = analysed_image(), object_context()
    assert corrected_image(result, None, 0) is result
    made = [
        build_segmentation(corrected_image(analysed_image(), CORRECTION, revision), context)
        for revision in (0, 1, 1, 2)
    ]
    uids = [str(seg.SOPInstanceUID) for seg in made]
    assert uids[1] == uids[2]
    assert len(set(uids)) == 3
    assert [seg.PatientID for seg in made] == [result.image.header.PatientID, *["P9"] * 3]


@pytest.mark.parametrize(
    ("keyword", "value", "counts"),
    [
        ("PatientID", "P2", True),
        ("PatientName", "Other^Name", True),
        ("AccessionNumber", "A2", True),
        ("StudyInstanceUID", "1.2.3", True),
        ("PatientOrientation", ["R", "F"], True),
        ("ImagerPixelSpacing", [0.2, 0.2], True),
        ("PhotometricInterpretation", "MONOCHROME1", True),
        ("StationName", "ELSEWHERE", False),
        ("ImageType", ["DERIVED", "PRIMARY"], False),
        ("BitsStored", 14, False),
        ("WindowCenter", 100, False),
    ],
)
def test_what_results_carry_or_depend_on_counts(
    keyword: str, value: object, *, counts: bool
) -> None:
    same = header_sha256(_header()) == header_sha256(_header(**{keyword: value}))
    assert same is not counts


def test_a_name_in_another_character_set_is_the_same_name() -> None:
    one = _header(PatientName="Müller^Jörg")
    other = _header(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100")
    assert header_sha256(one) == header_sha256(other)


def _read(path: Path, ds: Dataset) -> Dataset:
    return read_data_set(write_part10(path, ds))


def test_the_encoding_of_pixels_does_not_count_their_values_do(tmp_path: Path) -> None:
    plain = _read(tmp_path / "a.dcm", chest_dataset())
    implicit = _read(tmp_path / "b.dcm", chest_dataset(transfer_syntax=ImplicitVRLittleEndian))
    compressed = chest_dataset()
    compressed.compress(RLELossless, generate_instance_uid=False)
    compressed = _read(tmp_path / "c.dcm", compressed)
    assert len({pixel_sha256(ds) for ds in (plain, implicit, compressed)}) == 1
    changed = chest_dataset().pixel_array.copy()
    changed[0, 0] ^= 1
    other = _read(tmp_path / "d.dcm", chest_dataset(pixels=changed))
    turned = _read(tmp_path / "e.dcm", chest_dataset(pixels=chest_dataset().pixel_array.T.copy()))
    assert len({pixel_sha256(ds) for ds in (plain, other, turned)}) == 3


def test_what_cannot_be_decoded_is_compared_by_its_bytes(tmp_path: Path) -> None:
    def undecodable(data: bytes, name: str) -> str:
        ds = _read(tmp_path / name, chest_dataset())
        ds.PixelData = data
        ds.file_meta.TransferSyntaxUID = JPEGExtended12Bit
        return pixel_sha256(ds)

    assert undecodable(b"abcd", "a") == undecodable(b"abcd", "b") != undecodable(b"abce", "c")


def test_two_frames_are_not_taken_for_the_first_of_them(tmp_path: Path) -> None:
    def frames(last: int) -> str:
        ds = _read(tmp_path / f"{last}.dcm", chest_dataset())
        ds.NumberOfFrames = 2
        ds.PixelData = ds.PixelData + bytes([last]) * len(ds.PixelData)
        return pixel_sha256(ds)

    assert frames(1) != frames(2)


def test_no_picture_equals_nothing() -> None:
    with pytest.raises(NotAnalysable, match="no pixel data"):
        pixel_sha256(chest_dataset(PixelData=None))


def test_the_child_process_reads_both_at_once(tmp_path: Path) -> None:
    path = write_part10(tmp_path / "a.dcm", chest_dataset(PatientID="P1"))
    with Sandbox(load_settings(None)) as sandbox:
        pixels, header = sandbox.fingerprint(path)
        path.write_bytes(b"no DICOM at all")
        with pytest.raises(NotAnalysable):
            sandbox.fingerprint(path)
    assert pixels == pixel_sha256(chest_dataset())
    assert header.PatientID == "P1"
