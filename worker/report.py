"""Comprehensive 3D SR of one study: TID 1500 over its analysed images (IHE AIR)."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Final

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset

from models.identity import DEVICE_SERIAL_NUMBER, MANUFACTURER, NODE_MODEL_NAME, PRIVATE_SCHEME
from models.reasons import SENTENCES
from worker import codes
from worker.equipment import (
    ObjectContext,
    content_arguments,
    device_uid,
    finish,
    object_arguments,
)
from worker.report_groups import ReportImage, measurement_groups
from worker.types import ModelIdentity, UnanalysedImage

_LIBRARY_ATTRIBUTES: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
)


def build_report(
    images: Sequence[ReportImage],
    context: ObjectContext,
    revision: int,
    predecessor: Dataset | None = None,
    unanalysed: Iterable[UnanalysedImage] = (),
) -> sr.Comprehensive3DSR:
    """Return revision `revision` of the study's report; the same input gives the same bytes.

    Per image four measurement groups: each lung, the opacity, both lungs; and a fifth where zones
    were graded. The images among `unanalysed` are listed, each with its reason. `predecessor` needs
    its four UIDs only and is named as the document that this one replaces.
    Raises ValueError without images or when they belong to several studies.
    """
    ordered = sorted(images, key=lambda image: image.key)
    context = context.beside(ordered[0].header) if ordered else context
    rest = sorted({image for image in unanalysed if image.is_listed})
    key = (*report_key(ordered, rest), str(revision))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        report = sr.Comprehensive3DSR(
            evidence=evidence(ordered),
            content=_content(ordered, rest, context),
            series_instance_uid=context.uid("sr-series", *key),
            sop_instance_uid=context.uid("sr", *key),
            series_number=context.objects.sr_series_number,
            instance_number=revision,
            is_complete=True,
            is_final=False,
            is_verified=False,
            previous_versions=None if predecessor is None else [predecessor],
            series_description=context.objects.sr_series_description,
            coding_schemes=[_private_scheme()],
            **object_arguments(models_of(ordered), context),
            **content_arguments(context),
        )
        finish(report, ordered[0].header, context)
    return report


def report_key(images: Sequence[ReportImage], rest: Sequence[UnanalysedImage]) -> list[str]:
    """Return what the UIDs of SR and PDF derive from: the study, and what they say of its images.

    With nothing to list they are the same as before there was a list.
    Raises ValueError without images or when they belong to several studies.
    """
    studies = {str(image.header.StudyInstanceUID) for image in images}
    if len(studies) != 1:
        msg = "a report covers the analysed images of exactly one study"
        raise ValueError(msg)
    parts = [part for image in images for part in image.key]
    parts += [part for image in rest for part in (image.sop_instance_uid, image.reason.value)]
    return [studies.pop(), *parts]


def _content(
    images: Sequence[ReportImage], rest: Sequence[UnanalysedImage], context: ObjectContext
) -> sr.MeasurementReport:
    model = images[0].model
    observer = sr.ObserverContext(
        observer_type=sr.CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            # IHE AIR 6.5.3.1: these equal the algorithm's Contributing Equipment item
            uid=device_uid(model, context),
            name=NODE_MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=model.name,
            serial_number=DEVICE_SERIAL_NUMBER,
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PLAIN_CHEST_XRAY,
        imaging_measurements=[
            group for image in images for group in measurement_groups(image, context)
        ],
        title=codes.REPORT_TITLE,
        referenced_images=[_library_view(image.header) for image in _by_instance(images)],
    )
    if rest:
        content[0].ContentSequence.append(_not_analysed(rest))
    return content


def _not_analysed(images: Iterable[UnanalysedImage]) -> sr.ContainerContentItem:
    """TID 1500 rows 12 and 13: what is said of the study as a whole, here one code per image.

    The image is named by UID and not by reference: PS3.3 C.17.2 would have a referenced image among
    the evidence, which stays what the figures were measured on.
    """
    container = sr.ContainerContentItem(
        codes.QUALITATIVE_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence([_reason(image) for image in images])
    return container


def _reason(image: UnanalysedImage) -> sr.CodeContentItem:
    below = sr.RelationshipTypeValues.HAS_PROPERTIES  # PS3.3 A.35.13: CODE to UIDREF and TEXT
    item = sr.CodeContentItem(
        codes.NOT_ANALYSED, codes.reason(image.reason), sr.RelationshipTypeValues.CONTAINS
    )
    item.ContentSequence = sr.ContentSequence(
        [
            sr.UIDRefContentItem(codes.SOP_INSTANCE_UID, image.sop_instance_uid, below),
            sr.TextContentItem(codes.COMMENT, SENTENCES[image.reason], below),
        ]
    )
    return item


def _library_view(header: Dataset) -> Dataset:
    """Return what the image library can describe.

    highdicom reads Patient Orientation and Imager Pixel Spacing of every CR and DX unchecked; for
    Modality OT it writes modality (by SOP Class), rows and columns only.
    """
    if len(header.get("PatientOrientation") or ()) > 1 and header.get("ImagerPixelSpacing"):
        return header
    view = Dataset()
    for keyword in _LIBRARY_ATTRIBUTES:
        view[keyword] = header[keyword]
    view.Modality = "OT"
    return view


def evidence(images: Sequence[ReportImage]) -> list[Dataset]:
    """Return what the figures were measured on: each image once, then the SEGs."""
    return [image.header for image in _by_instance(images)] + [image.seg for image in images]


def _by_instance(images: Iterable[ReportImage]) -> list[ReportImage]:
    """One image per SOP Instance UID: a file command may meet the same UID with other bytes."""
    return list({str(image.header.SOPInstanceUID): image for image in images}.values())


def models_of(images: Iterable[ReportImage]) -> list[ModelIdentity]:
    """Return the models that measured the images, each once."""
    return list(dict.fromkeys(image.model for image in images))


def _private_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="Chest radiograph opacity, private codes",
        version="1",
        responsible_organization=MANUFACTURER,
    )
