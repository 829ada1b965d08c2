"""Comprehensive 3D SR of one study: TID 1500 over its analysed images (IHE AIR)."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from highdicom import ContentQualificationValues, sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset

from models.identity import DEVICE_SERIAL_NUMBER, MANUFACTURER, NODE_MODEL_NAME, PRIVATE_SCHEME
from worker import codes
from worker.equipment import (
    ObjectContext,
    algorithm_version,
    contributing_equipment,
    device_uid,
    finish,
    node_equipment,
)
from worker.types import AnalysedImage, Measurements, ModelIdentity, Side, Spacing

PERCENT_DIGITS: Final = 2
AREA_DIGITS: Final = 1
_OPACITY_SEGMENT: Final = 3
_LIBRARY_ATTRIBUTES: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
)


@dataclass(frozen=True)
class ReportImage:
    """One analysed image of the study.

    `header` is the normalised header of the source, `seg` the SEG made from it; its pixel data is
    not needed.
    """

    header: Dataset
    seg: Dataset
    measurements: Measurements
    model: ModelIdentity
    configuration_hash: str
    data_set_sha256: str
    spacing: Spacing | None
    orientation_assumed: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, analysed: AnalysedImage, seg: Dataset) -> Self:
        """Return what the report says of an image that was just analysed."""
        return cls(
            header=analysed.image.header,
            seg=seg,
            measurements=analysed.measurements,
            model=analysed.model,
            configuration_hash=analysed.configuration_hash,
            data_set_sha256=analysed.data_set_sha256,
            spacing=analysed.image.spacing,
            orientation_assumed=analysed.image.orientation.assumed,
            notes=analysed.image.notes,
        )

    @property
    def key(self) -> tuple[str, ...]:
        """What the report's identity derives from, per image."""
        return (
            str(self.header.SOPInstanceUID),
            self.data_set_sha256,
            self.model.sha256,
            self.configuration_hash,
        )


def build_report(
    images: Sequence[ReportImage],
    context: ObjectContext,
    revision: int,
    predecessor: Dataset | None = None,
) -> sr.Comprehensive3DSR:
    """Return revision `revision` of the study's report; the same input gives the same bytes.

    Per image four measurement groups: each lung, the opacity, both lungs. `predecessor` needs its
    four UIDs only and is named as the document that this one replaces.
    Raises ValueError without images or when they belong to several studies.
    """
    studies = {str(image.header.StudyInstanceUID) for image in images}
    if len(studies) != 1:
        msg = "a report covers the analysed images of exactly one study"
        raise ValueError(msg)
    ordered = sorted(images, key=lambda image: image.key)
    parts = [part for image in ordered for part in image.key]
    key = (studies.pop(), *parts, str(revision))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        report = sr.Comprehensive3DSR(
            evidence=_evidence(ordered),
            content=_content(ordered, context),
            series_instance_uid=context.uid("sr-series", *key),
            sop_instance_uid=context.uid("sr", *key),
            series_number=context.objects.sr_series_number,
            instance_number=revision,
            is_complete=True,
            is_final=False,
            is_verified=False,
            previous_versions=None if predecessor is None else [predecessor],
            series_description="AI lung opacity SR (research use only)",
            content_qualification=ContentQualificationValues.RESEARCH,
            coding_schemes=[_private_scheme()],
            contributing_equipment=[
                contributing_equipment(model, context) for model in _models(ordered)
            ],
            content_date=context.created.date(),
            content_time=context.created.time(),
            series_date=context.created.date(),
            series_time=context.created.time(),
            **node_equipment(context),
        )
        finish(report, ordered[0].header, context)
    return report


def _content(images: Sequence[ReportImage], context: ObjectContext) -> sr.MeasurementReport:
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
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PLAIN_CHEST_XRAY,
        imaging_measurements=[group for image in images for group in _groups(image, context)],
        title=codes.REPORT_TITLE,
        referenced_images=[_library_view(image.header) for image in _by_instance(images)],
    )


def _groups(image: ReportImage, context: ObjectContext) -> list[Any]:
    both = _both_lungs(image, context)
    return [_lung(image, 1, "left"), _lung(image, 2, "right"), _opacity(image), both]


def _lung(
    image: ReportImage, segment: int, side: Side
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 of one lung: its area, the opacity percentage of it."""
    measured = image.measurements.side(side)
    numbers = [
        *_area(measured.lung_area_mm2, image.spacing),
        *_percent(measured.percent),
    ]
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(image.seg, segment),
        referenced_segment=_segment_frame(image, segment),
        finding_type=codes.LUNG,
        finding_category=codes.ANATOMICAL_STRUCTURE,
        finding_sites=[_site(side)],
        algorithm_id=_algorithm(image),
        measurements=numbers or None,
        qualitative_evaluations=[_evaluation(codes.LUNG_DEFINITION, codes.WITH_RETROCARDIAC)],
    )


def _opacity(image: ReportImage) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 of the opacity in both lungs: its area."""
    area = _area(image.measurements.total.opacity_area_mm2, image.spacing)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(image.seg, _OPACITY_SEGMENT),
        referenced_segment=_segment_frame(image, _OPACITY_SEGMENT),
        finding_type=codes.OPACITY,
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_sites=[sr.FindingSite(codes.LUNG)],
        algorithm_id=_algorithm(image),
        measurements=area or None,
    )


def _both_lungs(
    image: ReportImage, context: ObjectContext
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of the image: the percentage first, then all that limits it."""
    total = image.measurements.total
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=context.uid("tracking", *image.key, "Both lungs"), identifier="Both lungs"
        ),
        finding_type=codes.OPACITY,
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_sites=[_site("total")],
        algorithm_id=_algorithm(image),
        measurements=_percent(total.percent) + _area(total.opacity_area_mm2, image.spacing),
        qualitative_evaluations=_limits_of(image),
        source_images=[
            sr.SourceImageForMeasurementGroup(image.header.SOPClassUID, image.header.SOPInstanceUID)
        ],
    )
    for note in image.notes:
        text = sr.TextContentItem(
            name=codes.COMMENT, value=note, relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        group[0].ContentSequence.append(text)
    return group


def _limits_of(image: ReportImage) -> list[sr.QualitativeEvaluation]:
    basis = codes.NO_SPACING
    if image.spacing is not None:
        basis = codes.SPACING_METHODS[image.spacing.basis]
    sides = codes.SIDES_ASSUMED if image.orientation_assumed else codes.SIDES_STATED
    return [
        _evaluation(codes.SEVERITY, codes.SEVERITIES[image.measurements.severity]),
        _evaluation(codes.INTENDED_USE, codes.RESEARCH_ONLY),
        _evaluation(codes.SPACING_BASIS, basis),
        _evaluation(codes.SIDES_BASIS, sides),
        _evaluation(codes.LUNG_DEFINITION, codes.WITH_RETROCARDIAC),
    ]


def _evaluation(name: codes.AnyCode, value: codes.AnyCode) -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(name, value)


def _percent(percent: float | None) -> list[sr.Measurement]:
    if percent is None:
        return []
    return [sr.Measurement(codes.OPACITY_PERCENT, round(percent, PERCENT_DIGITS), codes.PERCENT)]


def _area(area_mm2: float | None, spacing: Spacing | None) -> list[sr.Measurement]:
    if area_mm2 is None or spacing is None:
        return []
    method = codes.SPACING_METHODS[spacing.basis]
    value = round(area_mm2, AREA_DIGITS)
    return [sr.Measurement(codes.AREA, value, codes.SQUARE_MM, method=method)]


def _site(side: Side) -> sr.FindingSite:
    return sr.FindingSite(codes.LUNG, laterality=codes.LATERALITY[side])


def _algorithm(image: ReportImage) -> sr.AlgorithmIdentification:
    model = image.model
    return sr.AlgorithmIdentification(
        name=model.name,
        version=algorithm_version(model),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=MANUFACTURER,
        parameters=[
            f"weights_sha256={model.sha256}",
            f"configuration_sha256={image.configuration_hash}",
        ],
    )


def _tracking(seg: Dataset, segment: int) -> sr.TrackingIdentifier:
    item = next(item for item in seg.SegmentSequence if item.SegmentNumber == segment)
    return sr.TrackingIdentifier(uid=item.TrackingUID, identifier=item.TrackingID)


def _segment_frame(image: ReportImage, segment: int) -> sr.ReferencedSegmentationFrame:
    """Return the reference to the SEG frame of one segment (TID 1410).

    Not `from_segmentation`: it writes the SEG's frame number into the source image's reference.
    """
    frame = next(
        number
        for number, item in enumerate(image.seg.PerFrameFunctionalGroupsSequence, start=1)
        if item.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment
    )
    reference = sr.ReferencedSegmentationFrame(
        sop_class_uid=image.seg.SOPClassUID,
        sop_instance_uid=image.seg.SOPInstanceUID,
        frame_number=frame,
        segment_number=segment,
        source_image=sr.SourceImageForSegmentation(
            image.header.SOPClassUID, image.header.SOPInstanceUID
        ),
    )
    # PS3.3 C.18.4: Referenced Frame Number and Referenced Segment Number exclude each other
    del reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    return reference


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


def _evidence(images: Sequence[ReportImage]) -> list[Dataset]:
    return [image.header for image in _by_instance(images)] + [image.seg for image in images]


def _by_instance(images: Iterable[ReportImage]) -> list[ReportImage]:
    """One image per SOP Instance UID: a file command may meet the same UID with other bytes."""
    return list({str(image.header.SOPInstanceUID): image for image in images}.values())


def _models(images: Iterable[ReportImage]) -> list[ModelIdentity]:
    return list(dict.fromkeys(image.model for image in images))


def _private_scheme() -> CodingSchemeIdentificationItem:
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="Chest radiograph opacity, private codes",
        version="1",
        responsible_organization=MANUFACTURER,
    )
