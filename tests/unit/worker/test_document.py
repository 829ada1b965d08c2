"""worker.document: the page as an object of the study."""

import time
from functools import partial
from typing import Any

import pytest
from builders import DX, MODEL, analysed_image, chest_dataset, chest_image, object_context
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from models.reasons import Reason
from worker.capture import overlay
from worker.document import build_document
from worker.equipment import to_bytes
from worker.page import PageImage
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage, ModelIdentity, UnanalysedImage

_STUDY_KEYWORDS = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyInstanceUID")
_STUDY_KEYWORDS += ("StudyDescription", "ReferringPhysicianName", "ContributingEquipmentSequence")
_STUDY_KEYWORDS += ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "ContentDate")
_STUDY_KEYWORDS += ("SoftwareVersions", "SpecificCharacterSet", "ContentQualification")
LATERAL = UnanalysedImage("1.2.3.4", DX, Reason.LATERAL_VIEW)


def _page(analysed: AnalysedImage | None = None) -> PageImage:
    analysed = analysed or analysed_image()
    seg = build_segmentation(analysed, object_context())
    return PageImage(ReportImage.of(analysed, seg), partial(overlay, analysed))


def _read(*pages: PageImage, revision: int = 1, **rest: Any) -> Dataset:
    document = build_document(pages or [_page()], object_context(), revision, **rest)
    return dcmread(DicomBytesIO(to_bytes(document)))


def test_it_says_what_it_is_and_holds_a_pdf() -> None:
    ds = _read()
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert (ds.Modality, ds.ConversionType, ds.SeriesNumber) == ("DOC", "WSD", 9005)
    assert (ds.BurnedInAnnotation, ds.VerificationFlag) == ("YES", "UNVERIFIED")
    assert ds.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert "research use only" in ds.DocumentTitle
    pdf = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert len(ds.EncapsulatedDocument) % 2 == 0


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"SOPClassUID": DX, "Modality": "DX", "PatientAge": "055Y", "StudyDescription": "Chest"},
        {"PatientName": None, "PatientSex": "", "StudyDate": None, "IssuerOfPatientID": "H"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"},
    ],
)
def test_patient_study_and_equipment_are_those_of_the_report(header: dict[str, Any]) -> None:
    page = _page(analysed_image(chest_image(ds=chest_dataset(**header))))
    document = build_document([page], object_context(), 1)
    report = build_report([page.report], object_context(), 1)
    assert document.group_dataset(0x0010) == report.group_dataset(0x0010)
    for keyword in _STUDY_KEYWORDS:
        assert (keyword, document.get(keyword)) == (keyword, report.get(keyword))
    assert document.SeriesInstanceUID != report.SeriesInstanceUID


def test_it_names_what_it_was_made_of() -> None:
    page = _page()
    named = {item.ReferencedSOPInstanceUID for item in _read(page).SourceInstanceSequence}
    assert named == {page.report.header.SOPInstanceUID, page.report.seg.SOPInstanceUID}


def test_a_revision_names_the_document_that_it_replaces() -> None:
    first = _read()
    second = _read(revision=2, predecessor=first)
    (study,) = second.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (item,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == first.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert item.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert "PredecessorDocumentsSequence" not in first


def test_the_same_input_gives_the_same_bytes_whatever_the_clock_says() -> None:
    page = _page()
    first = to_bytes(build_document([page], object_context(), 1, None, [LATERAL]))
    time.sleep(1.1)
    assert to_bytes(build_document([page], object_context(), 1, None, [LATERAL])) == first


def test_the_order_of_the_images_does_not_matter() -> None:
    first = _page()
    second = _page(analysed_image(chest_image(ds=chest_dataset(SOPInstanceUID="1.2.3"))))
    made = [build_document(it, object_context(), 1) for it in ([first, second], [second, first])]
    assert to_bytes(made[0]) == to_bytes(made[1])


def test_whatever_it_says_otherwise_gives_other_uids() -> None:
    base = _page()
    other = _page(analysed_image(model=ModelIdentity(MODEL.name, MODEL.version, "0" * 64)))
    made = [_read(base), _read(other), _read(base, revision=2), _read(base, unanalysed=[LATERAL])]
    uids = {uid for ds in made for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID)}
    report = build_report([base.report], object_context(), 1)
    assert len(uids - {report.SOPInstanceUID, report.SeriesInstanceUID}) == 2 * len(made)


def test_it_covers_exactly_one_study() -> None:
    other = _page(analysed_image(chest_image(ds=chest_dataset(StudyInstanceUID="1.2.9"))))
    with pytest.raises(ValueError, match="exactly one study"):
        build_document([_page(), other], object_context(), 1)
    with pytest.raises(ValueError, match="exactly one study"):
        build_document([], object_context(), 1)
