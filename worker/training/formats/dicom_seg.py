"""DICOM SEG (PS3.3 A.51), BINARY or FRACTIONAL, drawn on the DICOM image of the case.

A segment is known by its Segmented Property Type and the modifier for the side, as this node writes
them, else by its label. A fraction of a half or more is inside. Frames of other images are passed
over; a SEG with none of this image is refused.
"""

from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.sr.codedict import codes as dicom_codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from worker import codes
from worker.codestream import DECODE_ERRORS
from worker.errors import NotAnalysable
from worker.header import get_items, get_numbers, get_text, read_data_set
from worker.training.formats.regions import Drawing, Region, check_size, region_of
from worker.training.pictures import is_dicom
from worker.types import Mask

_LUNGS: Final = (codes.LUNG, dicom_codes.SCT.LungStructure)
_SIDED: Final = (
    (Code("44029006", "SCT", "Left lung structure"), Region.LEFT),
    (Code("3341006", "SCT", "Right lung structure"), Region.RIGHT),
)
_SIDES: Final = (
    (codes.LATERALITY["left"], Region.LEFT),
    (codes.LATERALITY["right"], Region.RIGHT),
)
_OPACITIES: Final = (
    codes.OPACITY,
    dicom_codes.DCM.AbnormalOpacity,
    dicom_codes.DCM.GroundGlassOpacity,
    Code("95436008", "SCT", "Lung consolidation"),
)
_TYPES: Final = frozenset({"BINARY", "FRACTIONAL"})
_FULL: Final = 255.0


def read(path: Path, shape: tuple[int, int], image: Path) -> tuple[Mask, Mask, Mask]:
    """Read (left, right, opacity) of the image; raises ValueError with one sentence."""
    seg = _data_set(path, pixels=True)
    if get_text(seg, "SOPClassUID") != SegmentationStorage:
        msg = "it is no DICOM SEG"
        raise ValueError(msg)
    kind = get_text(seg, "SegmentationType").upper()
    if kind not in _TYPES:
        msg = f"its Segmentation Type is {kind!r}, neither BINARY nor FRACTIONAL"
        raise ValueError(msg)
    rows, columns = (*get_numbers(seg, "Rows"), *get_numbers(seg, "Columns"), 0, 0)[:2]
    check_size((int(rows), int(columns)), shape)
    regions = {_number(item, "SegmentNumber"): item for item in get_items(seg, "SegmentSequence")}
    drawing = Drawing(shape)
    for number, inside in _frames(seg, _sop_instance_uid(image)):
        if number not in regions:
            msg = "a frame belongs to a segment that is not described"
            raise ValueError(msg)
        if inside.any():
            drawing.add(_region(regions[number]), inside)
    return drawing.masks()


def _data_set(path: Path, *, pixels: bool) -> Dataset:
    try:
        return read_data_set(path, pixels=pixels)
    except NotAnalysable as error:
        raise ValueError(error.detail) from error


def _sop_instance_uid(image: Path) -> str:
    if not is_dicom(image):
        msg = "a DICOM SEG refers to a DICOM image, and the image of the case is none"
        raise ValueError(msg)
    return get_text(_data_set(image, pixels=False), "SOPInstanceUID")


def _frames(seg: Dataset, uid: str) -> list[tuple[int, Mask]]:
    """Return (segment number, mask) of each frame that refers to the image."""
    groups = get_items(seg, "PerFrameFunctionalGroupsSequence")
    shared = next(iter(get_items(seg, "SharedFunctionalGroupsSequence")), Dataset())
    stored = _stored(seg, len(groups))
    whole = _whole_references(seg)
    frames = []
    for group, frame in zip(groups, stored, strict=True):
        references = _references(group) or _references(shared) or whole
        if uid not in references:
            continue
        if len(references) > 1:
            msg = "a frame refers to several images"
            raise ValueError(msg)
        items = get_items(group, "SegmentIdentificationSequence") or get_items(
            shared, "SegmentIdentificationSequence"
        )
        numbers = [_number(item, "ReferencedSegmentNumber") for item in items]
        frames.append((numbers[0] if numbers else 0, frame))
    if not frames:
        msg = "it refers to another image"
        raise ValueError(msg)
    return frames


def _stored(seg: Dataset, frames: int) -> Mask:
    """Decode to (frames, rows, columns), true where at least half is inside."""
    try:
        decoded = pixel_array(seg)
    except DECODE_ERRORS as error:
        msg = "its pixels cannot be decoded"
        raise ValueError(msg) from error
    stored = decoded[np.newaxis] if decoded.ndim == 2 else decoded  # noqa: PLR2004  one frame
    if len(stored) != frames:
        msg = f"it has {len(stored)} frames and describes {frames}"
        raise ValueError(msg)
    full = 1.0
    if get_text(seg, "SegmentationType").upper() == "FRACTIONAL":
        full = (*get_numbers(seg, "MaximumFractionalValue"), _FULL)[0]
    inside: Mask = stored.astype(np.float32) * 2 >= full
    return inside


def _references(group: Dataset) -> set[str]:
    return {
        get_text(source, "ReferencedSOPInstanceUID")
        for derivation in get_items(group, "DerivationImageSequence")
        for source in get_items(derivation, "SourceImageSequence")
    }


def _whole_references(seg: Dataset) -> set[str]:
    return {
        get_text(instance, "ReferencedSOPInstanceUID")
        for series in get_items(seg, "ReferencedSeriesSequence")
        for instance in get_items(series, "ReferencedInstanceSequence")
    }


def _region(segment: Dataset) -> Region:
    """Return what a segment is, by its codes, else by its label."""
    for item in get_items(segment, "SegmentedPropertyTypeCodeSequence"):
        type_ = _code(item)
        if type_ in _OPACITIES:
            return Region.OPACITY
        modifiers = get_items(item, "SegmentedPropertyTypeModifierCodeSequence")
        told = [type_, *map(_code, modifiers if type_ in _LUNGS else ())]
        # Compared one by one: equal codes of SRT and SCT have unequal hashes.
        for code, region in (*_SIDED, *_SIDES):
            if code in told:
                return region
    return region_of(get_text(segment, "SegmentLabel"))


def _code(item: Dataset) -> Code:
    value, scheme, meaning = (
        get_text(item, keyword)
        for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
    )
    return Code(value, scheme, meaning)


def _number(item: Dataset, keyword: str) -> int:
    return int((*get_numbers(item, keyword), 0)[0])
