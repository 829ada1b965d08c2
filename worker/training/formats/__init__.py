"""Readers of drawn lungs and opacity, one module per file format, each with `read`.

`read(path, shape, image)` returns boolean (left, right, opacity) of `shape` (rows, columns), on the
grid of the image as stored; `image` is the file that was drawn on. It raises ValueError with one
sentence when the labels are unreadable, unknown, or those of another image.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from worker.training.formats import bitmask, coco, darwin, labelme
from worker.types import Mask

Reader = Callable[[Path, tuple[int, int], Path], tuple[Mask, Mask, Mask]]


class LabelFormat(StrEnum):
    """How labels are written; the values stand in manifests."""

    NONE = "none"
    BITMASK = "bitmask"
    LABELME = "labelme"
    COCO = "coco"
    DARWIN = "darwin"
    DICOM_SEG = "dicom-seg"


_READERS: Final[dict[LabelFormat, Reader]] = {
    LabelFormat.BITMASK: bitmask.read,
    LabelFormat.LABELME: labelme.read,
    LabelFormat.COCO: coco.read,
    LabelFormat.DARWIN: darwin.read,
}


def read_labels(
    labels: LabelFormat, path: Path, shape: tuple[int, int], image: Path
) -> tuple[Mask, Mask, Mask]:
    """Read one file of labels through the reader of its format; raises ValueError as that does."""
    if labels is LabelFormat.DICOM_SEG:
        from worker.training.formats import dicom_seg  # noqa: PLC0415  needs highdicom

        return dicom_seg.read(path, shape, image)
    if labels not in _READERS:
        msg = f"labels of format {labels} cannot be read"
        raise ValueError(msg)
    return _READERS[labels](path, shape, image)
