"""BINARY SEG of one image: left lung, right lung, opacity (PS3.3 A.51)."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from models.identity import MANUFACTURER
from worker import codes
from worker.equipment import (
    ObjectContext,
    algorithm_version,
    content_arguments,
    finish,
    object_arguments,
)
from worker.types import AnalysedImage, Mask, ModelIdentity

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

SEGMENTS: Final = ("Left lung", "Right lung", "Lung opacity")
_PLACEHOLDER: Final = (1, 8)
_BITS_PER_BYTE: Final = 8
COLOURS: Final = ((0, 114, 178), (0, 158, 115), (213, 94, 0))  # Okabe-Ito, colour-blind safe


def build_segmentation(analysed: AnalysedImage, context: ObjectContext) -> hd.seg.Segmentation:
    """Return the SEG of one analysed image; the same input gives the same bytes.

    Three segments, one frame each, empty frames kept, opacity inside the lungs. No Frame of
    Reference: each frame derives from the one source image (PS3.3 A.51.5.1).
    """
    header = analysed.image.header
    context = context.beside(header)
    # highdicom looks six times through every pixel that it is given: it gets frames of one byte,
    # and those of the image take their place.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        seg = hd.seg.Segmentation(
            source_images=[_with_size(header, _PLACEHOLDER)],
            pixel_array=np.zeros((1, *_PLACEHOLDER, len(SEGMENTS)), np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(analysed, context),
            series_instance_uid=context.uid("seg-series", *key_of(analysed)),
            sop_instance_uid=context.uid("seg", *key_of(analysed)),
            series_number=context.objects.seg_series_number,
            instance_number=1,
            omit_empty_frames=False,
            content_label="LUNG_OPACITY",
            content_description="AI lung fields and lung opacity, research use only",
            series_description=context.objects.seg_series_description,
            **object_arguments([analysed.model], context),
            **content_arguments(context),
        )
        _put_frames(seg, masks_of(analysed))
        _amend(seg, header, context)
    return seg


def masks_of(analysed: AnalysedImage) -> tuple[Mask, Mask, Mask]:
    """Return the masks of SEGMENTS in their order; opacity counts inside the lungs only."""
    masks = analysed.masks
    return masks.left, masks.right, masks.opacity & (masks.left | masks.right)


def _with_size(header: Dataset, shape: tuple[int, int]) -> Dataset:
    """Return the header of an image of another size."""
    view = Dataset()
    view.update(header)
    del view.Rows, view.Columns  # the elements are shared: setting their value would change both
    view.Rows, view.Columns = shape
    return view


def _put_frames(seg: hd.seg.Segmentation, frames: tuple[Mask, Mask, Mask]) -> None:
    """Put the frames in, with what highdicom would say of them (PS3.3 C.8.20.2)."""
    left, right, opacity = frames
    overlap = opacity.any() or (left & right).any()  # opacity lies inside the lungs
    seg.SegmentsOverlap = hd.seg.SegmentsOverlapValues["YES" if overlap else "NO"].value
    seg.Rows, seg.Columns = left.shape
    seg.PixelData = _packed(frames)


def _packed(frames: Sequence[Mask]) -> bytes:
    """Return frames as 1-bit pixels, one after the other without a gap (PS3.5 8.2, D.4)."""
    if frames[0].size % _BITS_PER_BYTE:
        joined = np.concatenate([frame.ravel() for frame in frames])
        data = np.packbits(joined, bitorder="little").tobytes()
    else:
        data = b"".join(np.packbits(frame, bitorder="little").tobytes() for frame in frames)
    # An even length (PS3.5 8.1.1). 00H would be right; highdicom's 30H stays, which nobody reads:
    # an object that is made again after an update must not differ under its UID.
    return data + b"0" * (len(data) % 2)


def key_of(analysed: AnalysedImage) -> tuple[str, ...]:
    """Return what an object's identity derives from: inputs, model and configuration."""
    header = analysed.image.header
    return (
        str(header.get("StudyInstanceUID", "")),
        str(header.get("SOPInstanceUID", "")),
        analysed.data_set_sha256,
        analysed.model.sha256,
        analysed.configuration_hash,
    )


def algorithm_identification(model: ModelIdentity) -> hd.AlgorithmIdentificationSequence:
    """Return the item that names the model as source of a segment."""
    return hd.AlgorithmIdentificationSequence(
        name=model.name,
        version=algorithm_version(model),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        source=MANUFACTURER,
    )


def _descriptions(
    analysed: AnalysedImage, context: ObjectContext
) -> list[hd.seg.SegmentDescription]:
    kinds: tuple[tuple[Code, Code, Code | None], ...] = (
        (codes.ANATOMICAL_STRUCTURE, codes.LUNG, codes.LATERALITY["left"]),
        (codes.ANATOMICAL_STRUCTURE, codes.LUNG, codes.LATERALITY["right"]),
        (codes.ABNORMAL_STRUCTURE, codes.OPACITY, None),
    )
    algorithm = algorithm_identification(analysed.model)
    described = []
    for number, (label, kind) in enumerate(zip(SEGMENTS, kinds, strict=True), start=1):
        category, type_, laterality = kind
        item = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=type_,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_id=label,
            tracking_uid=context.uid("tracking", *key_of(analysed), label),
            anatomic_regions=None if laterality else [codes.LUNG],
            display_color=hd.color.CIELabColor.from_rgb(*COLOURS[number - 1]),
        )
        if laterality is not None:  # SegmentDescription has no argument for it
            modifier = hd.sr.CodedConcept.from_code(laterality)
            type_item = item.SegmentedPropertyTypeCodeSequence[0]
            type_item.SegmentedPropertyTypeModifierCodeSequence = [modifier]
        described.append(item)
    return described


def _amend(seg: hd.seg.Segmentation, header: Dataset, context: ObjectContext) -> None:
    """Make good what highdicom writes for images in space and omits for projections."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    if "PixelMeasuresSequence" in shared:
        # No slice thickness in a projection, so highdicom could not read its own object back.
        del shared.PixelMeasuresSequence
    seg.PatientOrientation = header.get("PatientOrientation") or None  # type 2C, C.7.6.1
    seg.BodyPartExamined = "CHEST"  # the gate let nothing else pass
    seg.ContentCreatorName = None  # type 2, content identification macro
    uid = context.uid("dimension-organization", str(seg.SOPInstanceUID))
    seg.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for item in seg.DimensionIndexSequence:
        item.DimensionOrganizationUID = uid
    finish(seg, header, context)
