"""Grayscale Softcopy Presentation State of one image (PS3.3 A.33.1): outlines and figures over it.

Nothing is burned in: a viewer draws it over the radiograph, and can take it away again.
"""

import math
import warnings
from fractions import Fraction
from typing import Final

import highdicom as hd
import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import format_number_as_ds

from worker.equipment import ObjectContext, acquisition_equipment, finish, object_arguments
from worker.grey_scale import GreyScale, LookupTable, Rescale, VoiTable, Window
from worker.outlines import outlines
from worker.segmentation import COLOURS, SEGMENTS, key_of, masks_of
from worker.types import AnalysedImage, Caveat, SideMeasurement

_LAYERS: Final = ("LEFT_LUNG", "RIGHT_LUNG", "OPACITY")
_TEXT_LAYER: Final = "FIGURES"
_TEXT_COLOUR: Final = (245, 245, 245)
_TEXT_BOX: Final = (0.02, 0.86, 0.98, 0.99)  # left, top, right, bottom of the displayed area
_PIXEL: Final = hd.pr.AnnotationUnitsValues.PIXEL
_DISPLAY: Final = hd.pr.AnnotationUnitsValues.DISPLAY
_NOTICE: Final = "AI result, research use only, not for diagnosis"
_MOST_CHARACTERS: Final = 1024  # PS3.5 6.2, VR ST
_WHITE: Final = 65535


def build_presentation_state(
    analysed: AnalysedImage, context: ObjectContext
) -> hd.pr.GrayscaleSoftcopyPresentationState:
    """Return the presentation state of one analysed image; the same input gives the same bytes.

    One layer each for left lung, right lung, opacity and figures. Its grey scale is the one that
    the image was analysed on.
    """
    header, layers = analysed.image.header, _layers()
    context = context.beside(header)
    arguments = object_arguments([analysed.model], context)
    arguments["contributing_equipment"][:0] = acquisition_equipment(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=[header],
            series_instance_uid=context.uid("pr-series", *key_of(analysed)),
            sop_instance_uid=context.uid("pr", *key_of(analysed)),
            series_number=context.objects.pr_series_number,
            instance_number=1,
            content_label="LUNG_OPACITY",
            content_description="AI lung outlines and lung opacity, research use only",
            series_description=context.objects.pr_series_description,
            graphic_layers=layers,
            graphic_annotations=_annotations(analysed, layers, context),
            presentation_lut_transformation=_polarity(analysed),
            **arguments,
        )
        _set_displayed_area(state, analysed.image.row_height_over_width)
        _add_grey_scale(state, analysed.image.grey_scale)
        state.PresentationCreationDate = f"{context.created:%Y%m%d}"
        state.PresentationCreationTime = f"{context.created:%H%M%S}"
        state.BodyPartExamined = "CHEST"  # the gate let nothing else pass
        finish(state, header, context)
    return state


def _layers() -> list[hd.pr.GraphicLayer]:
    named = [*zip(_LAYERS, SEGMENTS, COLOURS, strict=True)]
    named.append((_TEXT_LAYER, "Figures, model and notice", _TEXT_COLOUR))
    return [
        hd.pr.GraphicLayer(
            layer_name=name,
            order=order,
            description=description,
            display_color=hd.color.CIELabColor.from_rgb(*colour),
        )
        for order, (name, description, colour) in enumerate(named, start=1)
    ]


def _annotations(
    analysed: AnalysedImage, layers: list[hd.pr.GraphicLayer], context: ObjectContext
) -> list[hd.pr.GraphicAnnotation]:
    """Return one item per layer that has something on it (PS3.3 C.10.5)."""
    *drawn, written = layers
    items, referenced = [], [analysed.image.header]
    for layer, label, mask in zip(drawn, SEGMENTS, masks_of(analysed), strict=True):
        graphics = [
            hd.pr.GraphicObject(
                graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
                graphic_data=points.astype(np.float32),
                units=_PIXEL,
                tracking_id=label,
                tracking_uid=context.uid("tracking", *key_of(analysed), label),
            )
            for points in outlines(mask)
        ]
        if graphics:
            items.append(
                hd.pr.GraphicAnnotation(
                    referenced_images=referenced, graphic_layer=layer, graphic_objects=graphics
                )
            )
    text = hd.pr.TextObject(
        text_value=_statement(analysed),
        units=_DISPLAY,
        bounding_box=_TEXT_BOX,
        text_justification=hd.pr.TextJustificationValues.LEFT,
    )
    items.append(
        hd.pr.GraphicAnnotation(
            referenced_images=referenced, graphic_layer=written, text_objects=[text]
        )
    )
    return items


def _statement(analysed: AnalysedImage) -> str:
    """Return what is written on the image, the figure first."""
    measured, model = analysed.measurements, analysed.model
    total, right, left = map(_percent, (measured.total, measured.right, measured.left))
    lines = [f"Lung opacity {total} ({measured.severity.value}); right {right}, left {left}"]
    if analysed.image.orientation.assumed:
        lines.append("Sides assumed: the image does not state its orientation")
    if analysed.caveats:
        named = ", ".join(caveat.value.replace("_", " ") for caveat in analysed.caveats)
        lines.append(f"Needs a second look: {named}")
    lines += [f"Model {model.name} {model.version}", _NOTICE]
    return "\r\n".join(lines)[:_MOST_CHARACTERS]


def _percent(side: SideMeasurement) -> str:
    return "no lung found" if side.percent is None else f"{side.percent:.1f} %"


def _polarity(analysed: AnalysedImage) -> hd.PresentationLUTTransformation:
    """Return the Presentation LUT: with IDENTITY a MONOCHROME1 image would be shown inverted.

    The Photometric Interpretation of the image counts for nothing here (PS3.4 N.2.4). An image
    whose own scale was wrong is turned over, as it was before analysis.
    """
    corrected = Caveat.INVERTED in analysed.caveats
    shapes = hd.PresentationLUTShapeValues
    is_inverse = analysed.image.grey_scale.is_inverse != corrected
    return hd.PresentationLUTTransformation(
        presentation_lut_shape=shapes.INVERSE if is_inverse else shapes.IDENTITY
    )


def _set_displayed_area(state: Dataset, row_height_over_width: float) -> None:
    """State the shape of a pixel, which highdicom takes for square (PS3.3 C.10.4)."""
    (area,) = state.DisplayedAreaSelectionSequence
    shape = Fraction(row_height_over_width).limit_denominator(1000)
    area.PresentationPixelAspectRatio = [shape.numerator, shape.denominator]
    del area.PixelOriginInterpretation  # of tiled images


def _add_grey_scale(state: Dataset, grey_scale: GreyScale) -> None:
    """Add Modality LUT (PS3.3 C.11.1) and Softcopy VOI LUT (C.11.8), where there are any."""
    modality, voi = grey_scale.modality, grey_scale.voi
    if isinstance(modality, Rescale):
        state.RescaleIntercept = format_number_as_ds(modality.intercept)
        state.RescaleSlope = format_number_as_ds(modality.slope)
        state.RescaleType = "US"  # unspecified
    elif modality is not None:
        item = _lut_item(modality)
        item.ModalityLUTType = "US"
        state.ModalityLUTSequence = Sequence([item])
    if voi is None:
        return
    shown = Dataset()
    if isinstance(voi, VoiTable):
        scaled = np.clip(np.asarray(voi.table.entries) * (_WHITE / voi.white), 0, _WHITE)
        table = LookupTable(voi.table.first, tuple(np.rint(scaled).astype(int).tolist()))
        shown.VOILUTSequence = Sequence([_lut_item(table)])
    else:
        _add_window(shown, voi.linear)
    if shown:
        state.SoftcopyVOILUTSequence = Sequence([shown])


def _add_window(item: Dataset, window: Window) -> None:
    """Add the window, unless a rescale beyond all numbers made it one that cannot be written."""
    if not (math.isfinite(window.center) and math.isfinite(window.width)):
        return
    item.WindowCenter = format_number_as_ds(window.center)
    item.WindowWidth = format_number_as_ds(window.width)
    item.VOILUTFunction = window.function


def _lut_item(table: LookupTable) -> Dataset:
    """Return a LUT of 8 or 16 bits, whatever the source's descriptor said (PS3.3 C.11.1.1)."""
    entries = np.clip(np.asarray(table.entries), 0, _WHITE)
    bits = 8 if entries.max() < 256 else 16  # noqa: PLR2004  what fits into 8
    count = len(table.entries) % (_WHITE + 1)  # 65536 is written as 0
    vr = "SS" if table.first < 0 else "US"
    item = Dataset()
    item.add(DataElement("LUTDescriptor", vr, [count, table.first, bits]))
    data = entries.astype(f"<u{bits // 8}").tobytes()
    item.add(DataElement("LUTData", "OW", data + b"\0" * (len(data) % 2)))
    return item
