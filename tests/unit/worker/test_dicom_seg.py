"""worker.training.formats.dicom_seg: a SEG of this image, by whomever, becomes its masks."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from builders import (
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
    write_part10,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, RLELossless

from worker import codes
from worker.decode import _load
from worker.gate import Limits
from worker.segmentation import build_segmentation
from worker.training.cases import Case
from worker.training.formats import LabelFormat, read_labels
from worker.types import Mask

SHAPE = (256, 240)
Change = Callable[[Dataset], object]


def image_file(folder: Path, **attributes: Any) -> Path:
    return write_part10(folder / "image.dcm", chest_dataset(**attributes))


def seg_file(folder: Path, change: Change | None = None) -> Path:
    """The SEG that this node writes of the image, then changed."""
    seg = build_segmentation(analysed_image(), object_context())
    if change is not None:
        change(seg)
    seg.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def read(folder: Path, change: Change | None = None) -> tuple[Mask, Mask, Mask]:
    labels = seg_file(folder, change)
    return read_labels(LabelFormat.DICOM_SEG, labels, SHAPE, image_file(folder))


def assert_drawn(masks: tuple[Mask, Mask, Mask]) -> None:
    drawn = lung_masks()
    for one, other in zip(masks, (drawn.left, drawn.right, drawn.opacity), strict=True):
        assert other.any()
        assert np.array_equal(one, other)


def other_seg(folder: Path, **arguments: Any) -> Path:
    """A SEG as another program writes it: one segment after the other, empty frames left out."""
    drawn = lung_masks()
    names = arguments.pop("names")
    kind = arguments.pop("kind", hd.seg.SegmentationTypeValues.BINARY)
    pixels = np.stack([drawn.left, drawn.right, drawn.opacity], axis=-1)[np.newaxis]
    pixels = pixels.astype(np.float32) * 0.75 if "FRAC" in kind.value else pixels.astype(np.uint8)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.ANATOMICAL_STRUCTURE,
            segmented_property_type=code,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, (label, code) in enumerate(names, start=1)
    ]
    seg = hd.seg.Segmentation(
        source_images=[chest_image().header],
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid="1.2.3.4",
        sop_instance_uid="1.2.3.5",
        series_number=1,
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="n",
        software_versions="1",
        device_serial_number="1",
        **arguments,
    )
    seg.save_as(folder / "seg.dcm")
    return folder / "seg.dcm"


def test_our_own_seg_reads_back_exactly(tmp_path: Path) -> None:
    assert_drawn(read(tmp_path))


BY_LABEL = [
    ("Left lung", dicom_codes.SCT.Lung),
    ("right_lung", dicom_codes.SCT.Lung),
    ("Consolidation", dicom_codes.SCT.Tissue),
]
BY_CODE = [
    ("Segment 1", Code("44029006", "SCT", "Left lung structure")),
    ("Segment 2", Code("3341006", "SCT", "Right lung structure")),
    ("Segment 3", dicom_codes.DCM.GroundGlassOpacity),
]
FRACTIONAL = hd.seg.SegmentationTypeValues.FRACTIONAL


@pytest.mark.parametrize(
    "arguments",
    [
        {"names": BY_LABEL},
        {"names": BY_CODE},
        {"names": BY_CODE, "kind": FRACTIONAL},
        {"names": BY_CODE, "kind": FRACTIONAL, "max_fractional_value": 100},
        {"names": BY_CODE, "kind": FRACTIONAL, "transfer_syntax_uid": RLELossless},
    ],
    ids=["labels", "codes", "fractional", "of 100", "compressed"],
)
def test_segs_of_other_programs_are_read(arguments: dict[str, Any], tmp_path: Path) -> None:
    labels = other_seg(tmp_path, **arguments)
    assert_drawn(read_labels(LabelFormat.DICOM_SEG, labels, SHAPE, image_file(tmp_path)))


def test_a_small_fraction_is_outside(tmp_path: Path) -> None:
    labels = other_seg(tmp_path, names=BY_CODE, kind=FRACTIONAL, max_fractional_value=255)
    seg = hd.seg.segread(labels)
    seg.PixelData = bytes(value * 127 // 255 for value in seg.PixelData)
    seg.save_as(labels)
    masks = read_labels(LabelFormat.DICOM_SEG, labels, SHAPE, image_file(tmp_path))
    assert not any(mask.any() for mask in masks)


def test_old_snomed_codes_mean_the_same(tmp_path: Path) -> None:
    def change(seg: Dataset) -> None:
        for item, side in zip(seg.SegmentSequence, ("G-A101", "G-A100"), strict=False):
            type_ = item.SegmentedPropertyTypeCodeSequence[0]
            modifier = type_.SegmentedPropertyTypeModifierCodeSequence[0]
            for code, value in ((type_, "T-28000"), (modifier, side)):
                code.CodeValue, code.CodingSchemeDesignator = value, "SRT"
            item.SegmentLabel = "lung"

    assert_drawn(read(tmp_path, change))


def test_frames_of_another_image_are_passed_over(tmp_path: Path) -> None:
    def change(seg: Dataset) -> None:
        group = seg.PerFrameFunctionalGroupsSequence[2]
        group.DerivationImageSequence = deepcopy(group.DerivationImageSequence)
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = "1.2.3"

    left, right, opacity = read(tmp_path, change)
    assert left.any()
    assert right.any()
    assert not opacity.any()


def test_frames_without_a_source_belong_to_the_one_image_of_the_seg(tmp_path: Path) -> None:
    assert_drawn(read(tmp_path, without_sources))


def without_sources(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def of_two_images(seg: Dataset) -> None:
    without_sources(seg)
    another = Dataset()
    another.ReferencedSOPInstanceUID = "1.2.3"
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence.append(another)


def of_another_image(seg: Dataset) -> None:
    without_sources(seg)
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2"


def unknown_segment(seg: Dataset) -> None:
    item = seg.SegmentSequence[2]
    item.SegmentLabel = "Heart"
    item.SegmentedPropertyTypeCodeSequence = Sequence([codes_of(dicom_codes.SCT.Heart)])


def codes_of(code: Code) -> Dataset:
    return hd.sr.CodedConcept.from_code(code)


def unsided_lung(seg: Dataset) -> None:
    item = seg.SegmentSequence[0]
    item.SegmentLabel = "Lung"
    del item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence


def cut_off(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[:100]


def fewer_groups(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence[2]


def undescribed(seg: Dataset) -> None:
    del seg.SegmentSequence[2]


MISTAKES: list[tuple[Change, str]] = [
    (of_another_image, "refers to another image"),
    (of_two_images, "refers to several images"),
    (unknown_segment, "'Heart' is drawn, which is none of"),
    (unsided_lung, "'Lung' is drawn, which is none of"),
    (cut_off, "pixels cannot be decoded"),
    (fewer_groups, "has 3 frames and describes 2"),
    (undescribed, "a segment that is not described"),
    (lambda seg: setattr(seg, "SOPClassUID", CTImageStorage), "it is no DICOM SEG"),
    (lambda seg: setattr(seg, "SegmentationType", "LABELMAP"), "neither BINARY nor FRACTIONAL"),
    (lambda seg: setattr(seg, "Rows", 128), "128 x 240 pixels, the image has 256 x 240"),
]


@pytest.mark.parametrize(("change", "sentence"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_a_mistake_is_one_sentence(change: Change, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, change)


def test_a_seg_needs_the_dicom_image_it_was_drawn_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the image of the case is none"):
        read_labels(LabelFormat.DICOM_SEG, seg_file(tmp_path), SHAPE, tmp_path / "image.png")
    (tmp_path / "seg.dcm").write_text("no DICOM", encoding="utf-8")
    with pytest.raises(ValueError, match=r"DICOM|read"):
        read_labels(LabelFormat.DICOM_SEG, tmp_path / "seg.dcm", SHAPE, image_file(tmp_path))


def test_an_image_that_lies_on_its_side_comes_upright_with_its_masks(tmp_path: Path) -> None:
    """Rows run to the patient's feet, columns to his right: turn and mirror."""
    ds = chest_dataset(PatientOrientation=["F", "R"], pixels=np.zeros((256, 240), np.uint16))
    stored = np.arange(256 * 240, dtype=np.uint16).reshape(256, 240) % 4096
    ds.PixelData = stored.tobytes()
    case = Case(
        name="a",
        image=write_part10(tmp_path / "image.dcm", ds),
        labels=seg_file(tmp_path),
        format=LabelFormat.DICOM_SEG,
        has_lung=True,
        has_opacity=True,
    )
    drawn = lung_masks()
    turned = [mask.T[:, ::-1] for mask in (drawn.left, drawn.right, drawn.opacity)]
    for one, other in zip(case.masks(), turned, strict=True):
        assert np.array_equal(one, other)
    shown = case.pixels()
    assert shown.shape == (240, 256)
    order = np.corrcoef(shown.ravel(), stored.T[:, ::-1].ravel().astype(float))
    assert order[0, 1] > 0.99


def test_pixels_of_a_dicom_case_are_those_the_node_analyses(data_root: Path) -> None:
    path = data_root / "dicom" / "crdx" / "cr_chest_pa_fuji9000_expl.dcm"
    image = _load(path, Limits())
    assert image.orientation.to_upright(image.pixels).shape == Case("a", path).pixels().shape
    assert np.array_equal(image.orientation.to_upright(image.pixels), Case("a", path).pixels())
