"""worker.segmentation: the SEG object, read back by highdicom."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
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
    chest_pixels,
    lung_masks,
    object_context,
)

from models.identity import MANUFACTURER, NODE_MODEL_NAME
from worker.equipment import ObjectContext, date_of_source, to_bytes
from worker.header import normalised_header
from worker.segmentation import SEGMENTS, build_segmentation
from worker.types import LungMasks, ModelIdentity

SOURCES: list[dict[str, Any]] = [
    {},
    {"SOPClassUID": DX, "Modality": "DX", "FrameOfReferenceUID": "1.2.3"},
    {"PatientOrientation": None, "ImagerPixelSpacing": None},
    {"PixelSpacing": [0.2, 0.2]},
    {"PatientID": None, "PatientName": None, "StudyDate": None, "AccessionNumber": None},
    {"PatientSex": None, "StudyID": None, "ReferringPhysicianName": None, "StudyTime": None},
    {"LossyImageCompression": "01", "LossyImageCompressionRatio": 8},
]


def _read(data: bytes) -> hd.seg.Segmentation:
    return hd.seg.segread(BytesIO(data))


@pytest.mark.parametrize("attributes", SOURCES, ids=str)
def test_reads_back_with_the_same_masks(attributes: dict[str, Any]) -> None:
    analysed = analysed_image(chest_image(ds=chest_dataset(**attributes)))
    seg = _read(to_bytes(build_segmentation(analysed, object_context())))
    header = analysed.image.header
    frames = seg.get_pixels_by_source_instance([header.SOPInstanceUID])[0]
    masks = analysed.masks
    for number, mask in enumerate((masks.left, masks.right, masks.opacity)):
        assert np.array_equal(frames[..., number].astype(bool), mask)
    assert seg.StudyInstanceUID == header.StudyInstanceUID
    assert seg.SeriesInstanceUID != header.SeriesInstanceUID
    assert "FrameOfReferenceUID" not in seg


def test_segments_carry_side_and_tracking() -> None:
    seg = build_segmentation(analysed_image(), object_context())
    assert tuple(item.SegmentLabel for item in seg.SegmentSequence) == SEGMENTS
    sides = [
        item.SegmentedPropertyTypeCodeSequence[0]
        .get("SegmentedPropertyTypeModifierCodeSequence", [{}])[0]
        .get("CodeMeaning")
        for item in seg.SegmentSequence
    ]
    assert sides == ["Left", "Right", None]
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 3


def test_an_empty_opacity_keeps_its_frame() -> None:
    masks = lung_masks()
    analysed = analysed_image(masks=LungMasks(masks.left, masks.right, np.zeros_like(masks.left)))
    assert build_segmentation(analysed, object_context()).NumberOfFrames == 3


def test_opacity_is_clipped_to_the_lungs() -> None:
    masks = lung_masks()
    analysed = analysed_image(masks=LungMasks(masks.left, masks.right, np.ones_like(masks.left)))
    seg = _read(to_bytes(build_segmentation(analysed, object_context())))
    opacity = seg.pixel_array[2].astype(bool)
    assert np.array_equal(opacity, masks.left | masks.right)


def test_equipment_is_ours_and_the_model_contributes() -> None:
    seg = build_segmentation(analysed_image(), object_context())
    assert (seg.Manufacturer, seg.ManufacturerModelName) == (MANUFACTURER, NODE_MODEL_NAME)
    contributors = {it.ManufacturerModelName: it for it in seg.ContributingEquipmentSequence}
    assert contributors["test-net"].DeviceUID.startswith("2.25.")
    assert seg.ContentQualification == "RESEARCH"


def test_the_same_input_gives_the_same_bytes() -> None:
    first = to_bytes(build_segmentation(analysed_image(), object_context()))
    assert to_bytes(build_segmentation(analysed_image(), object_context())) == first


def test_uids_derive_from_input_model_and_configuration_only() -> None:
    base = build_segmentation(analysed_image(), object_context()).SOPInstanceUID
    other_version = ObjectContext(
        created=object_context().created, objects=object_context().objects, software_version="9"
    )
    assert build_segmentation(analysed_image(), other_version).SOPInstanceUID == base
    changed = [
        analysed_image(data_set_sha256="0" * 64),
        analysed_image(configuration_hash="0" * 64),
        analysed_image(model=ModelIdentity("test-net", "1.0", "0" * 64)),
        analysed_image(chest_image(ds=chest_dataset(seed="2"))),
    ]
    uids = {build_segmentation(it, object_context()).SOPInstanceUID for it in changed}
    assert len(uids | {base}) == 5


def test_uids_stand_under_the_configured_root() -> None:
    seg = build_segmentation(analysed_image(), object_context("1.2.826.0.1.3680043.10.7"))
    ours = [seg.SOPInstanceUID, seg.SeriesInstanceUID]
    ours += [item.TrackingUID for item in seg.SegmentSequence]
    assert all(uid.startswith("1.2.826.0.1.3680043.10.7.") and len(uid) <= 64 for uid in ours)


def test_an_illegal_source_uid_is_carried() -> None:
    image = chest_image()
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        image.header.SOPInstanceUID = "999.999.01.2"
    seg = build_segmentation(analysed_image(image), object_context())
    assert b"999.999.01.2" in to_bytes(seg)


@pytest.mark.parametrize(
    ("zone", "date", "time"),
    [
        ("+0530", "20260102", "083405"),
        ("-0330", "20260101", "233405"),
        (None, "20260102", "050405"),
    ],
)
def test_times_are_in_the_zone_of_the_source(zone: str | None, date: str, time: str) -> None:
    here = timezone(timedelta(hours=2))
    context = replace(object_context(), created=datetime(2026, 1, 2, 5, 4, 5, tzinfo=here))
    source = chest_image(ds=chest_dataset(TimezoneOffsetFromUTC=zone))
    seg = build_segmentation(analysed_image(source), context)
    assert seg.get("TimezoneOffsetFromUTC") == zone
    for kind in ("Series", "Content", "InstanceCreation"):
        assert (seg.get(f"{kind}Date"), seg.get(f"{kind}Time")) == (date, time)
    assert seg.StudyDate == source.header.StudyDate


def test_the_date_of_a_source_is_its_latest() -> None:
    headers = [
        normalised_header(chest_dataset(ContentDate="20260103", ContentTime="0102")),
        normalised_header(chest_dataset()),
    ]
    assert f"{date_of_source(headers):%Y%m%d%H%M%S}" == "20260103010200"
    none = normalised_header(chest_dataset(StudyDate=None))
    assert date_of_source([none]).year == 1970


@pytest.mark.parametrize(("rows", "columns"), [(96, 80), (93, 77)])
@pytest.mark.parametrize("is_opaque", [True, False])
def test_frames_of_any_size_follow_one_another_bit_by_bit(
    rows: int, columns: int, *, is_opaque: bool
) -> None:
    pixels = chest_pixels(rows, columns)
    found = lung_masks(rows, columns)
    opacity = found.opacity if is_opaque else np.zeros_like(found.left)
    masks = LungMasks(found.left, found.right, opacity)
    image = chest_image(pixels=pixels, ds=chest_dataset(pixels=pixels))
    seg = _read(to_bytes(build_segmentation(analysed_image(image, masks), object_context())))
    assert (seg.Rows, seg.Columns, seg.NumberOfFrames) == (rows, columns, 3)
    assert seg.SegmentsOverlap == ("YES" if opacity.any() else "NO")
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    assert len(seg.PixelData) % 2 == 0
    assert np.array_equal(
        bits[: 3 * rows * columns].reshape(3, rows, columns).astype(np.bool_),
        np.stack([masks.left, masks.right, masks.opacity]),
    )
    assert image.header.Rows == rows  # the header of the image itself is as it was
