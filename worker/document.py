"""Encapsulated PDF of one study revision (PS3.3 A.45.1): the report as a page for people.

It holds no figure that the SR of the same revision does not hold.
"""

import warnings
from collections.abc import Iterable, Sequence
from typing import Final

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from worker import codes
from worker.equipment import (
    ObjectContext,
    acquisition_equipment,
    content_arguments,
    contributing_equipment,
    finish,
    object_arguments,
)
from worker.page import PageImage, PageStatement, report_pdf
from worker.report import evidence, models_of, report_key
from worker.types import UnanalysedImage

ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
_TITLE: Final = "AI lung opacity report (research use only)"


def build_document(
    images: Sequence[PageImage],
    context: ObjectContext,
    revision: int,
    predecessor: Dataset | None = None,
    unanalysed: Iterable[UnanalysedImage] = (),
) -> Dataset:
    """Return revision `revision` of the study's page; the same input gives the same bytes.

    `predecessor` needs its four UIDs only and is named as the document that this one replaces.
    Raises ValueError without images or when they belong to several studies.
    """
    ordered = sorted(images, key=lambda image: image.report.key)
    context = context.beside(ordered[0].report.header) if ordered else context
    rest = sorted({image for image in unanalysed if image.is_listed})
    reports = [image.report for image in ordered]
    key = (*report_key(reports, rest), str(revision))
    statement = PageStatement(
        f"{context.created:%Y-%m-%d %H:%M}", context.software_version, revision
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        document = _of_study(reports[0].header, key, revision, context)
        document.ContributingEquipmentSequence = [
            *acquisition_equipment(reports[0].header),
            *(contributing_equipment(model, context) for model in models_of(reports)),
            hd.ContributingEquipment.for_highdicom(),
        ]
        document.SourceInstanceSequence = Items([_reference(ds) for ds in evidence(reports)])
        if predecessor is not None:
            document.PredecessorDocumentsSequence = Items([_replaced(predecessor)])
        _encapsulate(document, report_pdf(ordered, rest, statement))
        finish(document, reports[0].header, context)
    return document


def _of_study(
    header: Dataset, key: Sequence[str], revision: int, context: ObjectContext
) -> hd.base.SOPClass:
    """Return the object with patient, study, series and equipment, as all of ours have them."""
    arguments = object_arguments([], context)
    del arguments["contributing_equipment"]  # the base class has no argument for it
    document = hd.base.SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=context.uid("pdf-series", *key),
        series_number=context.objects.pdf_series_number,
        sop_instance_uid=context.uid("pdf", *key),
        sop_class_uid=ENCAPSULATED_PDF,
        instance_number=revision,
        modality="DOC",
        series_description=context.objects.pdf_series_description,
        specific_character_set=header.SpecificCharacterSet,
        **content_arguments(context),
        **arguments,
    )
    document.copy_patient_and_study_information(header)
    return document


def _encapsulate(document: Dataset, pdf: bytes) -> None:
    """Add SC Equipment (PS3.3 C.8.6.1) and Encapsulated Document (C.24.2)."""
    document.ConversionType = "WSD"  # made by a workstation, not from paper
    document.AcquisitionDateTime = None  # type 2: of several images
    document.BurnedInAnnotation = "YES"  # the page names the patient
    document.DocumentTitle = _TITLE
    document.ConceptNameCodeSequence = Items([hd.sr.CodedConcept.from_code(codes.REPORT_TITLE)])
    document.VerificationFlag = "UNVERIFIED"
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)


def _reference(ds: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    return item


def _replaced(predecessor: Dataset) -> Dataset:
    """Return the item of Predecessor Documents Sequence (C.17.2, as in the SR)."""
    series = Dataset()
    series.SeriesInstanceUID = predecessor.SeriesInstanceUID
    series.ReferencedSOPSequence = Items([_reference(predecessor)])
    study = Dataset()
    study.StudyInstanceUID = predecessor.StudyInstanceUID
    study.ReferencedSeriesSequence = Items([series])
    return study
