"""worker.presentation: outlines, figures and grey scale over the radiograph."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import DX, MODEL, analysed_image, chest_dataset, chest_image, lung_masks
from builders import object_context as context
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from worker.equipment import to_bytes
from worker.grey_scale import (
    SIGMOID,
    GreyScale,
    LookupTable,
    Percentiles,
    Rescale,
    VoiTable,
    Window,
)
from worker.presentation import build_presentation_state
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage, Caveat, LungMasks, ModelIdentity, Orientation

_KEYWORDS = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyInstanceUID")
_KEYWORDS += ("StudyDescription", "ReferringPhysicianName", "ContributingEquipmentSequence")
_KEYWORDS += ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SeriesDate")
_KEYWORDS += ("SoftwareVersions", "SpecificCharacterSet", "ContentQualification")


def _read(analysed: AnalysedImage) -> Dataset:
    return dcmread(DicomBytesIO(to_bytes(build_presentation_state(analysed, context()))))


def _shown(grey_scale: GreyScale, **changes: Any) -> Dataset:
    return _read(analysed_image(chest_image(grey_scale=grey_scale), **changes))


def _on_layers(ds: Dataset) -> dict[str, list[Dataset]]:
    return {
        item.GraphicLayer: list(item.get("GraphicObjectSequence", []))
        for item in ds.GraphicAnnotationSequence
    }


def test_each_region_has_a_layer_with_the_colour_and_the_tracking_uid_of_its_segment() -> None:
    analysed = analysed_image()
    ds, seg = _read(analysed), build_segmentation(analysed, context())
    *layers, text = ds.GraphicLayerSequence
    drawn = _on_layers(ds)
    assert text.GraphicLayer == "FIGURES"
    for layer, segment in zip(layers, seg.SegmentSequence, strict=True):
        colour = layer.GraphicLayerRecommendedDisplayCIELabValue
        assert list(colour) == list(segment.RecommendedDisplayCIELabValue)
        assert layer.GraphicLayerDescription == segment.SegmentLabel
        (line,) = drawn[layer.GraphicLayer]
        assert (line.TrackingID, line.TrackingUID) == (segment.TrackingID, segment.TrackingUID)


def test_outlines_are_closed_lines_around_the_masks_in_pixels_of_the_source() -> None:
    analysed = analysed_image()
    (line,) = _on_layers(_read(analysed))["LEFT_LUNG"]
    points = np.asarray(line.GraphicData).reshape(-1, 2)
    rows, columns = np.nonzero(analysed.masks.left)
    assert (line.GraphicType, line.GraphicAnnotationUnits) == ("POLYLINE", "PIXEL")
    assert line.NumberOfGraphicPoints == len(points)
    assert np.array_equal(points[0], points[-1])
    assert points.min(axis=0) == pytest.approx([columns.min(), rows.min()], abs=0.6)
    assert points.max(axis=0) == pytest.approx([columns.max() + 1, rows.max() + 1], abs=0.6)


def test_opacity_outside_the_lungs_is_not_drawn() -> None:
    masks = lung_masks()
    outside = LungMasks(masks.left, masks.right, ~(masks.left | masks.right))
    assert "OPACITY" not in _on_layers(_read(analysed_image(masks=outside)))


def test_the_text_says_figure_model_and_that_it_is_research() -> None:
    image = chest_image(orientation=Orientation(assumed=True))
    ds = _read(analysed_image(image, caveats=(Caveat.ONE_LUNG,)))
    (text,) = ds.GraphicAnnotationSequence[-1].TextObjectSequence
    assert text.UnformattedTextValue.split("\r\n") == [
        "Lung opacity 9.7 % (mild); right 0.0 %, left 19.4 %",
        "Sides assumed: the image does not state its orientation",
        "Needs a second look: one lung",
        "Model test-net 1.0",
        "AI result, research use only, not for diagnosis",
    ]


@pytest.mark.parametrize(
    ("is_inverse", "caveats", "shape"),
    [
        (False, (), "IDENTITY"),
        (True, (), "INVERSE"),
        (False, (Caveat.INVERTED,), "INVERSE"),
        (True, (Caveat.INVERTED,), "IDENTITY"),
    ],
)
def test_the_polarity_is_that_of_the_analysed_picture(
    is_inverse: bool,  # noqa: FBT001  a table
    caveats: tuple[Caveat, ...],
    shape: str,
) -> None:
    ds = _shown(GreyScale(is_inverse=is_inverse), caveats=caveats)
    assert ds.PresentationLUTShape == shape


def test_rescale_and_window_are_copied() -> None:
    ds = _shown(GreyScale(Rescale(2.0, -100.5), Window(900.0, 1200.0, SIGMOID)))
    (voi,) = ds.SoftcopyVOILUTSequence
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType) == (2.0, -100.5, "US")
    assert (voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction) == (900.0, 1200.0, "SIGMOID")


@pytest.mark.parametrize("scale", [Percentiles(math.nan, 1.0), Percentiles(0.0, math.inf)])
def test_a_window_beyond_all_numbers_is_left_out(scale: Percentiles) -> None:
    """RescaleSlope 1e305 makes one."""
    ds = _shown(GreyScale(Rescale(1e305, 0.0), scale))
    assert ds.RescaleSlope == 1e305
    assert "SoftcopyVOILUTSequence" not in ds


@pytest.mark.parametrize(
    ("first", "entries", "descriptor"),
    [
        (0, (1, 200, 255), [3, 0, 8]),
        (-5, (0, 300, 4095), [3, -5, 16]),
        (0, tuple(range(65536)), [0, 0, 16]),
        (-30000, tuple(range(40000)), [40000, -30000, 16]),
    ],
)
def test_a_modality_lut_is_copied(
    first: int, entries: tuple[int, ...], descriptor: list[int]
) -> None:
    (item,) = _shown(GreyScale(LookupTable(first, entries))).ModalityLUTSequence
    assert list(item.LUTDescriptor) == descriptor
    kind = "u1" if descriptor[2] == 8 else "<u2"
    assert np.frombuffer(item.LUTData, kind)[: len(entries)].tolist() == list(entries)


def test_a_voi_lut_is_spread_over_its_bits() -> None:
    """A descriptor of 16 bits over entries up to 4095 would be shown dark."""
    table = VoiTable(LookupTable(7, (0, 2047, 4095)), 4095.0)
    (item,) = _shown(GreyScale(voi=table)).SoftcopyVOILUTSequence[0].VOILUTSequence
    assert list(item.LUTDescriptor) == [3, 7, 16]
    assert np.frombuffer(item.LUTData, "<u2").tolist() == [0, 32759, 65535]


def test_pixels_that_are_not_square_are_shown_as_they_are() -> None:
    (area,) = _read(analysed_image(chest_image(row_height_over_width=1.25)))[
        "DisplayedAreaSelectionSequence"
    ]
    assert list(area.PresentationPixelAspectRatio) == [5, 4]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [240, 256]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"SOPClassUID": DX, "Modality": "DX", "PatientAge": "055Y", "StudyDescription": "Chest"},
        {"PatientName": None, "PatientSex": "", "StudyDate": None, "IssuerOfPatientID": "H"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada=山田"},
        {"Manufacturer": None},
    ],
)
def test_patient_study_and_equipment_are_those_of_the_segmentation(header: dict[str, Any]) -> None:
    analysed = analysed_image(chest_image(ds=chest_dataset(**header)))
    state = build_presentation_state(analysed, context())
    seg = build_segmentation(analysed, context())
    assert state.group_dataset(0x0010) == seg.group_dataset(0x0010)
    for keyword in _KEYWORDS:
        assert (keyword, state.get(keyword)) == (keyword, seg.get(keyword))
    assert state.SeriesInstanceUID != seg.SeriesInstanceUID
    assert (state.Modality, state.SeriesNumber) == ("PR", 9004)


def test_it_refers_to_its_source() -> None:
    analysed = analysed_image()
    (series,) = _read(analysed).ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    header = analysed.image.header
    assert series.SeriesInstanceUID == header.SeriesInstanceUID
    assert image.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert image.ReferencedSOPClassUID == header.SOPClassUID


def test_the_same_input_gives_the_same_bytes() -> None:
    first, again = (to_bytes(build_presentation_state(analysed_image(), context())) for _ in "12")
    assert first == again


def test_nothing_of_the_clock_is_in_it() -> None:
    ds = _read(analysed_image())
    dates = {
        str(each.value) for each in ds.iterall() if each.VR == "DA" and "Birth" not in each.name
    }
    times = {str(each.value) for each in ds.iterall() if each.VR == "TM"}
    assert (dates, times) == ({"20260101", "20260102"}, {"120000", "030405"})
    assert not [each for each in ds.iterall() if each.VR == "DT"]


def test_another_model_configuration_or_data_set_gives_other_uids() -> None:
    base = analysed_image()
    made = [
        base,
        replace(base, model=ModelIdentity(MODEL.name, MODEL.version, "0" * 64)),
        replace(base, configuration_hash="0" * 64),
        replace(base, data_set_sha256="0" * 64),
    ]
    objects = [build_presentation_state(each, context("1.2.3")) for each in made]
    uids = {uid for ds in objects for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID)}
    assert len(uids) == 2 * len(made)
    assert all(uid.startswith("1.2.3.") for uid in uids)
