"""worker.report: the SR, read back by highdicom and compared with the SEG and the numbers."""

from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from builders import (
    DX,
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
)
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag

from models.analysis_sections import AnalysisSettings
from worker.codes import LATERALITY, OPACITY_PERCENT, ZONE_GRADE, ZONE_SCORE, ZONE_SITES
from worker.equipment import to_bytes
from worker.measurements import measure
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.types import (
    CAVEAT_SENTENCES,
    SIDES,
    AnalysedImage,
    Caveat,
    ChestImage,
    LungMasks,
    Orientation,
    SideMeasurement,
    Zone,
)


def _report_image(analysed: AnalysedImage) -> ReportImage:
    seg = build_segmentation(analysed, object_context())
    return ReportImage.of(analysed, dcmread(BytesIO(to_bytes(seg)), stop_before_pixels=True))


def _second_image(**overrides: Any) -> ChestImage:
    ds = chest_dataset(SOPInstanceUID="1.2.3.4", SOPClassUID=DX, Modality="DX", StudyTime="1201")
    return chest_image(ds=ds, **overrides)


def _read(report: Dataset) -> hd.sr.Comprehensive3DSR:
    return hd.sr.srread(BytesIO(to_bytes(report)))


def _groups(report: Dataset) -> dict[str, Any]:
    content = _read(report).content
    groups = [
        *content.get_planar_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ]
    return {group.tracking_identifier: group for group in groups}


def _value(group: Any, name: Any) -> float | None:
    found = group.get_measurements(name=name)
    return float(found[0].value) if found else None


def _codes(group: Any) -> dict[str, str]:
    return {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}


def _check_side(group: Any, side: SideMeasurement, area: float | None) -> None:
    assert side.percent is not None
    assert _value(group, OPACITY_PERCENT) == pytest.approx(side.percent, abs=0.005)
    expected = None if area is None else pytest.approx(area, abs=0.05)
    assert _value(group, codes.SCT.AreaOfDefinedRegion) == expected


def test_numbers_are_those_of_the_seg_and_of_the_measurements() -> None:
    analysed = analysed_image()
    groups = _groups(build_report([_report_image(analysed)], object_context(), 1))
    measured = analysed.measurements
    _check_side(groups["Left lung"], measured.left, measured.left.lung_area_mm2)
    _check_side(groups["Right lung"], measured.right, measured.right.lung_area_mm2)
    _check_side(groups["Both lungs"], measured.total, measured.total.opacity_area_mm2)
    seg = hd.seg.segread(BytesIO(to_bytes(build_segmentation(analysed, object_context()))))
    spacing = analysed.image.spacing
    assert spacing is not None
    for label in ("Left lung", "Right lung", "Lung opacity"):
        reference = groups[label].reference_type
        assert reference == codes.DCM.ReferencedSegmentationFrame
        frame = groups[label].referenced_segmentation_frame[0].ReferencedSOPSequence[0]
        pixels = int(seg.pixel_array[frame.ReferencedFrameNumber - 1].sum())
        area = _value(groups[label], codes.SCT.AreaOfDefinedRegion)
        assert area == pytest.approx(pixels * spacing.row_mm * spacing.column_mm, abs=0.05)


def test_the_first_group_a_reader_wants_states_its_limits() -> None:
    image = chest_image(orientation=Orientation(assumed=True), notes=("Odd window.",))
    report = build_report([_report_image(analysed_image(image))], object_context(), 1)
    both = _groups(report)["Both lungs"]
    stated = _codes(both)
    assert stated["INTENDED_USE"] == "RESEARCH_ONLY"
    assert stated["SIDES_BASIS"] == "SIDES_ASSUMED"
    assert stated["SPACING_BASIS"] == "SPACING_PATIENT"
    assert stated["LUNG_DEFINITION"] == "LUNG_WITH_HEART"
    assert stated[codes.SCT.Severity.value] == codes.SCT.Mild.value
    texts = [item.TextValue for item in both[0].ContentSequence if item.ValueType == "TEXT"]
    assert "Odd window." in texts


def test_without_spacing_there_is_no_area() -> None:
    analysed = analysed_image(chest_image(spacing=None))
    groups = _groups(build_report([_report_image(analysed)], object_context(), 1))
    for label in ("Left lung", "Right lung", "Lung opacity", "Both lungs"):
        assert _value(groups[label], codes.SCT.AreaOfDefinedRegion) is None
    assert _codes(groups["Both lungs"])["SPACING_BASIS"] == "SPACING_ABSENT"


def test_zero_opacity_is_reported() -> None:
    masks = lung_masks()
    none = LungMasks(masks.left, masks.right, np.zeros_like(masks.left))
    report = build_report([_report_image(analysed_image(masks=none))], object_context(), 1)
    assert _value(_groups(report)["Both lungs"], OPACITY_PERCENT) == 0.0


def test_a_report_covers_every_image_of_the_study() -> None:
    images = [
        _report_image(analysed_image()),
        _report_image(analysed_image(_second_image(spacing=None))),
    ]
    report = _read(build_report(images, object_context(), 1))
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 6
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    referenced = [
        item.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert len(referenced) == 4


def test_the_order_of_images_does_not_matter() -> None:
    images = [_report_image(analysed_image()), _report_image(analysed_image(_second_image()))]
    one = to_bytes(build_report(images, object_context(), 1))
    assert to_bytes(build_report(images[::-1], object_context(), 1)) == one


def test_a_revision_names_its_predecessor() -> None:
    images = [_report_image(analysed_image())]
    first = build_report(images, object_context(), 1)
    second = build_report(images, object_context(), 2, predecessor=first)
    assert second.SOPInstanceUID != first.SOPInstanceUID
    predecessor = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    named = predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == first.SOPInstanceUID


def test_the_same_uid_with_other_bytes_is_two_images() -> None:
    images = [
        _report_image(analysed_image()),
        _report_image(analysed_image(data_set_sha256="0" * 64)),
    ]
    report = _read(build_report(images, object_context(), 1))
    assert len(report.content.get_planar_roi_measurement_groups()) == 6


def test_images_of_two_studies_are_refused() -> None:
    other = _report_image(analysed_image(chest_image(ds=chest_dataset(seed="2"))))
    with pytest.raises(ValueError, match="one study"):
        build_report([_report_image(analysed_image()), other], object_context(), 1)
    with pytest.raises(ValueError, match="one study"):
        build_report([], object_context(), 1)


def test_algorithm_items_agree() -> None:
    """IHE AIR 6.5.3.1: observer, algorithm and contributing equipment say the same."""
    report = build_report([_report_image(analysed_image())], object_context(), 1)
    contributors = report.ContributingEquipmentSequence
    item = next(it for it in contributors if it.ManufacturerModelName == "test-net")
    text = {
        str(content.ConceptNameCodeSequence[0].CodeMeaning): content
        for content in report.ContentSequence
        if content.ValueType in {"TEXT", "UIDREF"}
    }
    assert text["Device Observer Model Name"].TextValue == item.ManufacturerModelName
    assert item.DeviceUID == text["Device Observer UID"].UID
    group = _groups(report)["Both lungs"]
    texts = [it.TextValue for it in group[0].ContentSequence if it.ValueType == "TEXT"]
    assert item.ManufacturerModelName in texts
    assert item.SoftwareVersions in texts


def test_free_text_of_the_source_stays_behind() -> None:
    ds = chest_dataset(PatientComments="private remark", PatientName="Kept^Name")
    image = chest_image(ds=ds)
    data = to_bytes(build_report([_report_image(analysed_image(image))], object_context(), 1))
    assert b"private remark" not in data
    assert b"Kept^Name" in data


def test_a_side_without_lung_has_no_percentage() -> None:
    image = _report_image(analysed_image())
    left = replace(image.measurements.left, percent=None, lung_area_mm2=None)
    changed = replace(image, measurements=replace(image.measurements, left=left))
    groups = _groups(build_report([changed], object_context(), 1))
    assert _value(groups["Left lung"], OPACITY_PERCENT) is None


def test_each_lung_has_its_own_band() -> None:
    report = build_report([_report_image(analysed_image())], object_context(), 1)
    groups = _groups(report)
    severity = codes.SCT.Severity.value
    assert _codes(groups["Left lung"])[severity] == codes.SCT.Mild.value
    assert _codes(groups["Right lung"])[severity] == codes.SCT.None_.value


def _zoned(masks: LungMasks) -> AnalysedImage:
    measured = measure(masks, None, AnalysisSettings(zone_score=True))
    return analysed_image(chest_image(spacing=None), masks, measurements=measured)


def _at_site(group: Any, name: Any) -> dict[tuple[str, str], float]:
    """Values of the measurements of that name by (finding site, laterality)."""
    found = {}
    for item in group.get_measurements(name=name):
        (site,) = item.finding_sites
        found[site.value.value, site.laterality.value] = float(item.value)
    return found


def test_zones_are_reported_where_they_are_with_their_sums() -> None:
    analysed = _zoned(lung_masks())
    zones = analysed.measurements.zones
    assert zones is not None
    group = _groups(build_report([_report_image(analysed)], object_context(), 1))["Lung zones"]
    sites = {zone: (ZONE_SITES[zone].value, LATERALITY[zone.side].value) for zone in Zone}
    assert _at_site(group, ZONE_GRADE) == {
        sites[zone]: it.grade for zone, it in zones.zones.items()
    }
    assert _at_site(group, OPACITY_PERCENT) == {
        sites[zone]: pytest.approx(it.percent, abs=0.005) for zone, it in zones.zones.items()
    }
    assert sorted(_at_site(group, ZONE_SCORE).values()) == sorted(zones.score(it) for it in SIDES)
    assert _codes(group)["ZONE_METHOD"] == "ZONE_BY_AREA"
    assert "ZONE_SCORE" not in _codes(group)


def test_a_sum_over_a_zone_without_lung_is_withheld_with_the_reason() -> None:
    masks = lung_masks()
    rows = np.flatnonzero(masks.left.any(axis=1))
    third = rows.size // 3
    masks.left[rows[0] + third : rows[0] + 2 * third + 1] = False
    group = _groups(build_report([_report_image(_zoned(masks))], object_context(), 1))["Lung zones"]
    assert len(_at_site(group, ZONE_GRADE)) == 5
    assert list(_at_site(group, ZONE_SCORE)) == [
        (codes.SCT.Lung.value, codes.SCT.Right.value),
    ]
    assert _codes(group)["ZONE_SCORE"] == "ZONE_WITHHELD"


def test_without_the_setting_there_is_no_zone_group() -> None:
    report = build_report([_report_image(analysed_image())], object_context(), 1)
    assert "Lung zones" not in _groups(report)


def _texts(group: Any, name: str) -> list[str]:
    return [
        item.TextValue
        for item in group[0].ContentSequence
        if item.ValueType == "TEXT" and item.name.value == name
    ]


@pytest.mark.parametrize("caveat", Caveat)
def test_a_caveat_stands_in_the_group_that_a_reader_wants(caveat: Caveat) -> None:
    analysed = analysed_image(caveats=(caveat,))
    group = _groups(build_report([_report_image(analysed)], object_context(), 1))["Both lungs"]
    assert _codes(group)["CAVEAT"] == f"CAVEAT_{caveat.name}"
    assert _texts(group, "CAVEAT") == [CAVEAT_SENTENCES[caveat]]


def test_each_of_several_caveats_has_its_sentence_and_none_has_none() -> None:
    for caveats in (tuple(Caveat), ()):
        analysed = analysed_image(caveats=caveats)
        group = _groups(build_report([_report_image(analysed)], object_context(), 1))["Both lungs"]
        assert _texts(group, "CAVEAT") == [CAVEAT_SENTENCES[caveat] for caveat in caveats]


HOSTILE = [b"A" * 400, b"A\\B\\C", b"x=y=z=w=v", b"a^b^c^d^e^f^g", b"\xff\xfe\x00", b"1e400", b"-5"]
COPIED = (
    "PatientName PatientID IssuerOfPatientID StudyID AccessionNumber ReferringPhysicianName "
    "StudyDescription Manufacturer BodyPartExamined PatientOrientation StudyDate StudyTime "
    "PatientSex PatientAge PatientBirthDate PixelSpacing ImagerPixelSpacing InstanceNumber "
    "LossyImageCompression LossyImageCompressionRatio SpecificCharacterSet"
)


@pytest.mark.parametrize("keyword", COPIED.split())
def test_hostile_values_never_break_an_object(keyword: str) -> None:
    for value in HOSTILE:
        ds = chest_dataset()
        tag = Tag(keyword)
        ds._dict[tag] = RawDataElement(
            tag,
            dictionary_VR(tag),
            len(value),
            value,
            0,
            is_implicit_VR=False,
            is_little_endian=True,
        )
        image = _report_image(analysed_image(chest_image(ds=ds)))
        assert _groups(build_report([image], object_context(), 1)).keys() >= {"Both lungs"}
