"""Rejection notes as a PACS or a modality sends them, built by hand."""

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from models.identity import make_uid

KO = "1.2.840.10008.5.1.4.1.1.88.59"
QUALITY, SAFETY, WORKLIST, RETENTION = "113001", "113037", "113038", "113039"
OF_INTEREST = "113000"


def rejection_note(images: Sequence[Dataset], title: str = QUALITY, **overrides: Any) -> Dataset:
    """A Key Object Selection Document about `images`, in the study of the first one.

    Keyword arguments are DICOM keywords, None removes an attribute; `seed=` makes another UID.
    """
    seed = str(overrides.pop("seed", "1"))
    first = images[0]
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    values = {
        "SOPClassUID": KO,
        "SOPInstanceUID": make_uid("", "note", seed, title),
        "StudyInstanceUID": first.StudyInstanceUID,
        "SeriesInstanceUID": make_uid("", "note series", seed),
        "Modality": "KO",
        "PatientID": first.PatientID,
        "PatientName": first.PatientName,
        "StudyDate": "20260101",
        "Manufacturer": "Archive Maker",
        "SeriesNumber": 9,
        "InstanceNumber": 1,
        "ContentDate": "20260102",
        "ContentTime": "120000",
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [code(title)],
        "ContinuityOfContent": "SEPARATE",
        "CurrentRequestedProcedureEvidenceSequence": [_evidence(image) for image in images],
        "ContentSequence": [_content(image) for image in images],
    }
    for keyword, value in (values | overrides).items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def code(value: str, scheme: str = "DCM") -> Dataset:
    """One code item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "a title"
    return item


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _evidence(image: Dataset) -> Dataset:
    study, series = Dataset(), Dataset()
    series.SeriesInstanceUID = image.SeriesInstanceUID
    series.ReferencedSOPSequence = [_reference(image)]
    study.StudyInstanceUID = image.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    return study


def _content(image: Dataset) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "IMAGE"
    item.ReferencedSOPSequence = [_reference(image)]
    return item
