"""The measurement groups of one image in the report (TID 1410, TID 1501)."""

from dataclasses import dataclass
from typing import Any, Final, Self

from highdicom import sr
from pydicom.dataset import Dataset

from models.identity import MANUFACTURER
from worker import codes
from worker.equipment import ObjectContext, algorithm_version
from worker.types import (
    CAVEAT_SENTENCES,
    SIDES,
    AnalysedImage,
    Caveat,
    Classification,
    Measurements,
    ModelIdentity,
    Severity,
    Side,
    Spacing,
    Zone,
    ZoneMeasurement,
    ZoneScore,
)

PERCENT_DIGITS: Final = 2
AREA_DIGITS: Final = 1
_OPACITY_SEGMENT: Final = 3


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
    caveats: tuple[Caveat, ...] = ()
    classification: Classification | None = None

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
            caveats=analysed.caveats,
            classification=analysed.classification,
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


def measurement_groups(image: ReportImage, context: ObjectContext) -> list[Any]:
    """Return the groups of one image: each lung, the opacity, both lungs, and graded zones."""
    both = _both_lungs(image, context)
    zones = image.measurements.zones
    graded = [] if zones is None else [_zones(image, zones, context)]
    return [_lung(image, 1, "left"), _lung(image, 2, "right"), _opacity(image), both, *graded]


def _lung(
    image: ReportImage, segment: int, side: Side
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 of one lung: its area, the opacity percentage of it and the band of that."""
    measured = image.measurements.side(side)
    numbers = [
        *_area(measured.lung_area_mm2, image.spacing),
        *_percent(measured.percent),
    ]
    band = [] if measured.severity is None else [_severity(measured.severity)]
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(image.seg, segment),
        referenced_segment=_segment_frame(image, segment),
        finding_type=codes.LUNG,
        finding_category=codes.ANATOMICAL_STRUCTURE,
        finding_sites=[_site(side)],
        algorithm_id=_algorithm(image),
        measurements=numbers or None,
        qualitative_evaluations=[
            *band,
            _evaluation(codes.LUNG_DEFINITION, codes.WITH_RETROCARDIAC),
        ],
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
    group = _image_group(
        image,
        context,
        "Both lungs",
        _percent(total.percent) + _area(total.opacity_area_mm2, image.spacing),
        _limits_of(image),
    )
    texts = [(codes.CAVEAT, CAVEAT_SENTENCES[it]) for it in image.caveats]
    texts += [(codes.COMMENT, note) for note in image.notes]
    if image.classification is not None:
        texts.append((codes.EXPERIMENT, _statement(image.classification)))
    for name, value in texts:
        text = sr.TextContentItem(name, value, sr.RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(text)
    return group


def _statement(classification: Classification) -> str:
    """Return what the experimental classifier says, and which one it was."""
    model = classification.model
    return f"{classification.text} (model {model.name} {algorithm_version(model)})"


def _zones(
    image: ReportImage, zones: ZoneScore, context: ObjectContext
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 of the six zones: share and grade of each, and the sums that are whole."""
    numbers = [number for zone, it in zones.zones.items() for number in _zone(zone, it)]
    scores = {side: zones.score(side) for side in SIDES}
    for side, score in scores.items():
        if score is not None:
            sites = [_site(side)]
            numbers.append(
                sr.Measurement(codes.ZONE_SCORE, score, codes.NO_UNITS, finding_sites=sites)
            )
    stated = [_evaluation(codes.ZONE_METHOD, codes.ZONE_BY_AREA)]
    if scores["total"] is None:
        stated.append(_evaluation(codes.ZONE_SCORE, codes.ZONE_WITHHELD))
    return _image_group(image, context, "Lung zones", numbers, stated)


def _zone(zone: Zone, measured: ZoneMeasurement) -> list[sr.Measurement]:
    if measured.percent is None or measured.grade is None:
        return []
    sites = [sr.FindingSite(codes.ZONE_SITES[zone], laterality=codes.LATERALITY[zone.side])]
    percent = round(measured.percent, PERCENT_DIGITS)
    return [
        sr.Measurement(codes.OPACITY_PERCENT, percent, codes.PERCENT, finding_sites=sites),
        sr.Measurement(codes.ZONE_GRADE, measured.grade, codes.NO_UNITS, finding_sites=sites),
    ]


def _image_group(
    image: ReportImage,
    context: ObjectContext,
    label: str,
    numbers: list[sr.Measurement],
    evaluations: list[sr.QualitativeEvaluation],
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 about the opacity in both lungs of one image."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=context.uid("tracking", *image.key, label), identifier=label
        ),
        finding_type=codes.OPACITY,
        finding_category=codes.ABNORMAL_STRUCTURE,
        finding_sites=[_site("total")],
        algorithm_id=_algorithm(image),
        measurements=numbers,
        qualitative_evaluations=evaluations,
        source_images=[
            sr.SourceImageForMeasurementGroup(image.header.SOPClassUID, image.header.SOPInstanceUID)
        ],
    )


def _limits_of(image: ReportImage) -> list[sr.QualitativeEvaluation]:
    basis = codes.NO_SPACING
    if image.spacing is not None:
        basis = codes.SPACING_METHODS[image.spacing.basis]
    sides = codes.SIDES_ASSUMED if image.orientation_assumed else codes.SIDES_STATED
    return [
        _severity(image.measurements.severity),
        *(_evaluation(codes.CAVEAT, codes.caveat(it)) for it in image.caveats),
        _evaluation(codes.INTENDED_USE, codes.RESEARCH_ONLY),
        _evaluation(codes.SPACING_BASIS, basis),
        _evaluation(codes.SIDES_BASIS, sides),
        _evaluation(codes.LUNG_DEFINITION, codes.WITH_RETROCARDIAC),
    ]


def _severity(band: Severity) -> sr.QualitativeEvaluation:
    return _evaluation(codes.SEVERITY, codes.SEVERITIES[band])


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
