"""Content of messages for tests: a study with two analysed images and one that was not."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from builders import (
    DX,
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
)

from models.message_sections import MessageSettings
from models.reasons import Reason
from worker.equipment import ObjectContext
from worker.message_content import MessageContent
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.types import Caveat, UnanalysedImage

SECOND = "1.2.840.10.2"
LATERAL = UnanalysedImage("1.2.840.10.3", DX, Reason.LATERAL_VIEW)


def at(second: int = 0) -> ObjectContext:
    """Return a context with a fixed clock in a zone."""
    created = datetime(2026, 1, 2, 3, 4, 5 + second, tzinfo=timezone(timedelta(hours=1)))
    return replace(object_context(), created=created)


def report_image(opacity: float = 0.25, **header: Any) -> ReportImage:
    """Return what a report says of an image; keyword arguments are DICOM's."""
    image = chest_image(ds=chest_dataset(**header))
    analysed = analysed_image(
        image,
        lung_masks(opacity=opacity),
        caveats=(Caveat.UNCERTAIN, Caveat.MIRRORED),
    )
    return ReportImage.of(analysed, build_segmentation(analysed, object_context()))


def two_images(**header: Any) -> list[ReportImage]:
    """Return both images of the study."""
    second = report_image(0.6, SOPInstanceUID=SECOND, StudyTime="1201", **header)
    return [report_image(**header), second]


def content(
    *images: ReportImage,
    rest: tuple[UnanalysedImage, ...] = (LATERAL,),
    context: ObjectContext | None = None,
    **settings: Any,
) -> MessageContent:
    """Return what messages are made of; keyword arguments are settings of `messages`."""
    told = MessageSettings(**settings)
    return MessageContent.of_report(
        images or two_images(), rest, context or at(), told, "1.2.840.10.9"
    )


def without_figures(of: MessageContent, *rest: UnanalysedImage, second: int = 9) -> MessageContent:
    """Return the content of a later revision of a study in which nothing is analysed."""
    return replace(of, images=(), rest=rest, context=at(second), report_uid=None)
