"""worker.secondary_capture: the picture as an object of the study."""

import time
from typing import Any

import numpy as np
import pytest
from builders import DX, MODEL, analysed_image, chest_dataset, chest_image, object_context
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from models.reasons import Reason
from worker.capture import statement_pixels
from worker.equipment import to_bytes
from worker.errors import NotAnalysable
from worker.gate import Limits, check_header
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage, ModelIdentity, Orientation

_STUDY_KEYWORDS = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyInstanceUID")
_STUDY_KEYWORDS += ("StudyDescription", "ReferringPhysicianName", "ContributingEquipmentSequence")
_STUDY_KEYWORDS += ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber")
_STUDY_KEYWORDS += ("SoftwareVersions", "SpecificCharacterSet", "ContentQualification")


def _analysed(**header: Any) -> AnalysedImage:
    return analysed_image(chest_image(ds=chest_dataset(**header)))


def _read(analysed: AnalysedImage) -> Dataset:
    data = to_bytes(build_secondary_capture(analysed, object_context()))
    return dcmread(DicomBytesIO(data))


def test_the_pixels_are_the_picture() -> None:
    analysed = _analysed()
    assert np.array_equal(_read(analysed).pixel_array, statement_pixels(analysed))


def test_it_says_what_kind_of_image_it_is() -> None:
    ds = _read(_analysed())
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert (ds.Modality, ds.ConversionType, ds.SeriesNumber) == ("OT", "WSD", 9003)
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY"]
    assert list(ds.PatientOrientation) == ["L", "F"]
    assert "not for diagnosis" in ds.DerivationDescription
    assert "PixelSpacing" not in ds


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"SOPClassUID": DX, "Modality": "DX", "PatientAge": "055Y", "StudyDescription": "Chest"},
        {"PatientName": None, "PatientSex": "", "StudyDate": None, "IssuerOfPatientID": "H"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"},
    ],
)
def test_patient_study_and_equipment_are_those_of_the_segmentation(header: dict[str, Any]) -> None:
    analysed = _analysed(**header)
    capture = build_secondary_capture(analysed, object_context())
    seg = build_segmentation(analysed, object_context())
    assert capture.group_dataset(0x0010) == seg.group_dataset(0x0010)
    for keyword in _STUDY_KEYWORDS:
        assert (keyword, capture.get(keyword)) == (keyword, seg.get(keyword))
    assert capture.SeriesInstanceUID != seg.SeriesInstanceUID


def test_it_names_its_source() -> None:
    analysed = _analysed()
    (item,) = _read(analysed).SourceImageSequence
    header = analysed.image.header
    assert item.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert item.ReferencedSOPClassUID == header.SOPClassUID


def test_the_same_input_gives_the_same_bytes_whatever_the_clock_says() -> None:
    analysed = _analysed()
    first = to_bytes(build_secondary_capture(analysed, object_context()))
    time.sleep(1.1)
    assert to_bytes(build_secondary_capture(analysed, object_context())) == first


def test_another_model_configuration_or_data_set_gives_other_uids() -> None:
    image = chest_image()
    made = [
        analysed_image(image),
        analysed_image(image, model=ModelIdentity(MODEL.name, MODEL.version, "0" * 64)),
        analysed_image(image, configuration_hash="0" * 64),
        analysed_image(image, data_set_sha256="0" * 64),
    ]
    objects = [build_secondary_capture(each, object_context("1.2.3")) for each in made]
    uids = {uid for ds in objects for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID)}
    assert len(uids) == 2 * len(made)
    assert all(uid.startswith("1.2.3.") for uid in uids)


@pytest.mark.parametrize(("source", "stated"), [(None, "YES"), ("YES", "YES"), ("NO", "NO")])
def test_burned_in_text_may_name_the_patient_unless_the_source_denies_it(
    source: str | None, stated: str
) -> None:
    assert _read(_analysed(BurnedInAnnotation=source)).BurnedInAnnotation == stated


def test_lossy_compression_of_the_source_is_kept() -> None:
    header = {"LossyImageCompressionRatio": 8, "LossyImageCompressionMethod": "ISO_10918_1"}
    ds = _read(_analysed(LossyImageCompression="01", **header))
    assert ds.LossyImageCompression == "01"
    assert {keyword: ds[keyword].value for keyword in header} == header
    assert _read(_analysed()).LossyImageCompression == "00"


def test_assumed_sides_are_not_stated() -> None:
    image = chest_image(orientation=Orientation(assumed=True))
    assert not _read(analysed_image(image)).PatientOrientation


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, Reason.OWN_RESULT),
        ({"Manufacturer": "a PACS that writes its own name"}, Reason.MODALITY),
        ({"Manufacturer": "", "Modality": "CR"}, Reason.NOT_GRAYSCALE),
    ],
)
def test_it_is_never_analysed(changes: dict[str, str], reason: Reason) -> None:
    ds = _read(_analysed())
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    with pytest.raises(NotAnalysable) as caught:
        check_header(ds, Limits(secondary_capture=True))
    assert caught.value.reason is reason
