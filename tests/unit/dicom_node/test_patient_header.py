"""Who the patient is: read from a stored header, corrected, and never an exception."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from dicom_node.patient_header import Patient, StoredHeader, read_patient
from models.storage import Store


def _header(key: str, **changes: object) -> StoredHeader:
    values = {"transfer_syntax_uid": str(ExplicitVRLittleEndian), "purged_at": None}
    return StoredHeader(key, **values | {"correction": None} | changes)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("DOE^JANE", "DOE, JANE"),
        ("DOE^JANE^MARY^DR", "DOE, JANE MARY DR"),
        ("DOE", "DOE"),
        ("^JANE", "JANE"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田, 太郎, やまだ, たろう)"),
        ("=山田^太郎", "山田, 太郎"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("", None),
        ("^^", None),
    ],
)
def test_a_name_reads_as_people_write_it(name: str, shown: str | None) -> None:
    assert Patient.of(Dataset(), {"PatientName": name}).name == shown


def test_the_header_of_a_stored_image_says_who_the_patient_is(tmp_path: Path) -> None:
    write_part10(tmp_path / "a.dcm", chest_dataset(PatientBirthDate="19700102", PatientSex="F"))
    assert read_patient(Store(tmp_path), _header("a.dcm")) == Patient(
        "Phantom, Chest", "19700102", "F"
    )


def test_a_correction_stands_over_the_file(tmp_path: Path) -> None:
    write_part10(tmp_path / "a.dcm", chest_dataset(PatientSex="F"))
    header = _header("a.dcm", correction={"PatientName": "ROE^JOHN", "PatientSex": ""})
    found = read_patient(Store(tmp_path), header)
    assert (found.name, found.sex) == ("ROE, JOHN", None)


def test_a_deflated_header_is_read(tmp_path: Path) -> None:
    ds = chest_dataset(PatientSex="F")
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    header = _header("a.dcm", transfer_syntax_uid=str(DeflatedExplicitVRLittleEndian))
    assert read_patient(Store(tmp_path), header).sex == "F"


def test_of_a_file_that_is_gone_or_damaged_nothing_is_known(tmp_path: Path) -> None:
    assert read_patient(Store(tmp_path), _header("aa/gone.dcm")) == Patient()
    gone = _header("aa/gone.dcm", purged_at=datetime.now(UTC))
    assert read_patient(Store(tmp_path), gone) == Patient()
    (tmp_path / "bad.dcm").write_bytes(b"\xff" * 4096)
    assert read_patient(Store(tmp_path), _header("bad.dcm")) == Patient()
