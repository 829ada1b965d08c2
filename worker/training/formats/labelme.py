"""labelme JSON: one file per image, shapes of type polygon, rectangle and circle.

A label may stand on many shapes; they add up. The format knows no holes.
"""

from pathlib import Path

from pydantic import BaseModel, Field, FiniteFloat

from worker.training.formats.documents import read_document
from worker.training.formats.regions import Drawing, Point, check_size, disc, fill, region_of
from worker.types import Mask


class _Shape(BaseModel):
    label: str
    points: list[tuple[FiniteFloat, FiniteFloat]]
    shape_type: str | None = None  # older files: a polygon


class _Document(BaseModel):
    image_height: int = Field(alias="imageHeight")
    image_width: int = Field(alias="imageWidth")
    shapes: list[_Shape]


def read(path: Path, shape: tuple[int, int], _image: Path) -> tuple[Mask, Mask, Mask]:
    """Read (left, right, opacity); raises ValueError with one sentence."""
    document = read_document(path, _Document)
    check_size((document.image_height, document.image_width), shape)
    drawing = Drawing(shape)
    for each in document.shapes:
        drawing.add(region_of(each.label), _mask(each, shape))
    return drawing.masks()


def _mask(each: _Shape, shape: tuple[int, int]) -> Mask:
    kind = each.shape_type or "polygon"
    match kind, each.points:
        case "circle", [centre, edge]:
            return disc(centre, edge, shape)
        case "rectangle", [(left, top), (right, bottom)]:
            corners: list[Point] = [(left, top), (right, top), (right, bottom), (left, bottom)]
            return fill([corners], shape)
        case (("polygon" | "rectangle"), points):
            return fill([points], shape)
    msg = f"{each.label!r} is drawn as a {kind} of {len(each.points)} points, which is no area"
    raise ValueError(msg)
