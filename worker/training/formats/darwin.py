"""Darwin JSON of V7, versions 1.0 and 2.0: one file per image.

The paths of one annotation are filled by the even-odd rule. What is called plainly "Lung" gets its
side by its place: each connected part whose centroid lies in the right half of the picture is the
patient's left lung, as in every upright frontal radiograph. Tags are passed over.
"""

from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat
from scipy import ndimage

from worker.training.formats.documents import read_document
from worker.training.formats.regions import (
    Drawing,
    Point,
    Region,
    check_size,
    fill,
    region_of,
    simple_name,
)
from worker.types import Mask

_EITHER_LUNG: Final = frozenset({"lung", "lungs"})


class _Point(BaseModel):
    x: FiniteFloat
    y: FiniteFloat


_Path = list[_Point]


class _Polygon(BaseModel):
    path: _Path | list[_Path] = Field(default_factory=list)
    additional_paths: list[_Path] = Field(default_factory=list)  # 1.0
    paths: list[_Path] = Field(default_factory=list)  # 2.0

    def points(self) -> list[list[Point]]:
        """Return every path, whatever the version calls it."""
        first = [each for each in self.path if isinstance(each, list)]
        simple = [each for each in self.path if isinstance(each, _Point)]
        paths = [*first, *([simple] if simple else []), *self.additional_paths, *self.paths]
        return [[(point.x, point.y) for point in path] for path in paths]


class _Annotation(BaseModel):
    name: str
    polygon: _Polygon | None = None
    complex_polygon: _Polygon | None = None  # early 1.0
    tag: dict[str, object] | None = None


class _Size(BaseModel):
    width: int
    height: int


class _Item(BaseModel):
    slots: Annotated[list[_Size], Field(min_length=1, max_length=1)]


class _Document(BaseModel):
    annotations: list[_Annotation]
    image: _Size | None = None  # 1.0
    item: _Item | None = None  # 2.0


def read(path: Path, shape: tuple[int, int], _image: Path) -> tuple[Mask, Mask, Mask]:
    """Read (left, right, opacity); raises ValueError with one sentence."""
    document = read_document(path, _Document)
    check_size(_size(document), shape)
    drawing = Drawing(shape)
    for each in document.annotations:
        outline = each.polygon or each.complex_polygon
        if outline is None and each.tag is not None:
            continue
        paths = outline.points() if outline else []
        if not paths:
            msg = f"{each.name!r} is not drawn as a polygon"
            raise ValueError(msg)
        mask = fill(paths, shape)
        if simple_name(each.name) in _EITHER_LUNG:
            _add_by_side(drawing, mask)
        else:
            drawing.add(region_of(each.name), mask)
    return drawing.masks()


def _size(document: _Document) -> tuple[int, int]:
    size = document.item.slots[0] if document.item else document.image
    if size is None:
        msg = "it has neither item nor image: this is no Darwin JSON"
        raise ValueError(msg)
    return size.height, size.width


def _add_by_side(drawing: Drawing, mask: Mask) -> None:
    labels, parts = ndimage.label(mask)
    for part in range(1, parts + 1):
        piece = labels == part
        centroid = float(np.nonzero(piece)[1].mean()) + 0.5
        side = Region.LEFT if centroid > mask.shape[1] / 2 else Region.RIGHT
        drawing.add(side, piece)
