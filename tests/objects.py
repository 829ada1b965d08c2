"""Every shape that our objects take: one per source header, grey scale, note, caveat, setting."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from itertools import cycle
from typing import Any

import numpy as np
from builders import (
    DX,
    MODEL,
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
)
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker import codes
from worker.capture import overlay
from worker.document import build_document
from worker.equipment import to_bytes
from worker.grey_scale import SIGMOID, GreyScale, LookupTable, Rescale, VoiTable, Window
from worker.measurements import measure
from worker.page import PageImage
from worker.presentation import build_presentation_state
from worker.rejection import build_rejection_note
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.types import (
    AnalysedImage,
    Caveat,
    Classification,
    LungMasks,
    Orientation,
    Spacing,
    SpacingBasis,
    UnanalysedImage,
)

_EMPTY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")
_EMPTY += ("StudyTime", "AccessionNumber", "ReferringPhysicianName", "Manufacturer")
_EMPTY += ("PatientOrientation", "ImagerPixelSpacing", "BodyPartExamined", "ViewPosition")
_HEADERS: tuple[dict[str, Any], ...] = (
    {},
    {"SOPClassUID": DX, "Modality": "DX", "FrameOfReferenceUID": "1.2.3", "seed": "dx"},
    dict.fromkeys(_EMPTY, ""),
    {"BurnedInAnnotation": "NO", "seed": "clean"},
    {"IssuerOfPatientID": "HOSPITAL", "PatientAge": "055Y", "StudyDescription": "Chest PA"},
    {"TimezoneOffsetFromUTC": "+0530", "seed": "zone"},
    {"PixelSpacing": [0.2, 0.2], "ReferringPhysicianName": "Phantom^Referrer"},
    {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 8,
        "LossyImageCompressionMethod": "ISO_10918_1",
    },
)


_RAMP = LookupTable(-8, tuple(range(0, 4096, 16)))
_GREY_SCALES = (
    GreyScale(Rescale(2.0, -100.0), Window(900.0, 1200.0)),
    GreyScale(_RAMP, Window(0.0, 10.0, SIGMOID), is_inverse=True),
    GreyScale(None, VoiTable(_RAMP, 4080.0)),
)


def _of_headers() -> Iterator[AnalysedImage]:
    for header in _HEADERS:
        yield analysed_image(chest_image(ds=chest_dataset(**header)))


def _analysed() -> Iterator[AnalysedImage]:
    yield from _of_headers()
    for basis in SpacingBasis:
        yield analysed_image(chest_image(spacing=Spacing(0.2, 0.2, basis)))
    masks, settings = lung_masks(), AnalysisSettings(zone_score=True)
    lost = LungMasks(masks.left, np.zeros_like(masks.right), masks.opacity & masks.left)
    bare = LungMasks(masks.left, masks.right, np.zeros_like(masks.left))
    full = LungMasks(masks.left, masks.right, masks.left | masks.right)
    half = LungMasks(masks.left, masks.right, masks.left)
    for each in (masks, lost, bare, full, half):
        yield analysed_image(masks=each, measurements=measure(each, None, settings))
    yield analysed_image(
        chest_image(spacing=None, notes=("A note.",), orientation=Orientation(assumed=True)),
        caveats=tuple(Caveat),
        classification=Classification(MODEL, ("opacity",), (0.5,)),
    )


@cache
def segmentations() -> tuple[Dataset, ...]:
    """Return SEG objects as they are sent, without pixels."""
    return tuple(_sent(build_segmentation(each, object_context())) for each in _analysed())


@cache
def captures() -> tuple[Dataset, ...]:
    """Return Secondary Captures as they are sent, without pixels."""
    return tuple(_sent(build_secondary_capture(each, object_context())) for each in _analysed())


@cache
def presentations() -> tuple[Dataset, ...]:
    """Return presentation states as they are sent."""
    shown = (analysed_image(chest_image(grey_scale=each)) for each in _GREY_SCALES)
    states = (build_presentation_state(each, object_context()) for each in (*_analysed(), *shown))
    return tuple(map(_sent, states))


@cache
def documents() -> tuple[Dataset, ...]:
    """Return encapsulated documents as they are sent; the last one replaces another."""
    pages = [
        PageImage(
            ReportImage.of(each, build_segmentation(each, object_context())), partial(overlay, each)
        )
        for each in _of_headers()
    ]
    first = [_sent(build_document([page], object_context(), 1)) for page in pages]
    return (*first, _sent(build_document(pages[:1], object_context(), 2, first[0])))


@cache
def notes() -> tuple[Dataset, ...]:
    """Return our rejection notes as they are sent: about SEG, picture and report, and about one."""
    reasons = cycle(codes.REJECTIONS)
    named = [*zip(segmentations(), captures(), reports(), strict=False)]
    named += [segmentations()[:1], reports()[:1]]
    return tuple(
        _sent(build_rejection_note(each, next(reasons), 1, object_context())) for each in named
    )


@cache
def reports() -> tuple[Dataset, ...]:
    """Return SR objects as they are sent; the last one replaces another."""
    images = [
        ReportImage.of(analysed, seg)
        for analysed, seg in zip(_analysed(), segmentations(), strict=True)
    ]
    first = [_sent(build_report([image], object_context(), 1)) for image in images]
    left = replace(images[0].measurements.left, percent=None, lung_area_mm2=None, severity=None)
    sided = replace(images[0], measurements=replace(images[0].measurements, left=left))
    rest = [
        UnanalysedImage(f"1.2.{number}", DX, reason)
        for number, reason in enumerate(Reason, start=1)
    ]
    second = build_report([sided], object_context(), 2, predecessor=first[0], unanalysed=rest)
    return (*first, _sent(second))


def _sent(ds: Dataset) -> Dataset:
    return dcmread(BytesIO(to_bytes(ds)), stop_before_pixels=True)
