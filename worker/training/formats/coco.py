"""COCO JSON: one file for many images, found by file name; polygons and run lengths.

The polygons of one annotation add up: the format draws holes with run lengths only. Those run down
the columns, as numbers or in the text coding of the COCO API (5 bits and a sign to a character,
each count from the third on as the difference to the one before the last).
"""

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat

from worker.training.formats.documents import read_document
from worker.training.formats.regions import Drawing, check_size, fill, region_of
from worker.types import Mask

_BASE: Final = 48  # "0"
_MORE, _SIGN, _BITS = 0x20, 0x10, 5


class _Image(BaseModel):
    id: int
    file_name: str
    height: int
    width: int


class _Category(BaseModel):
    id: int
    name: str


class _RunLengths(BaseModel):
    size: tuple[int, int]
    counts: list[int] | str


class _Annotation(BaseModel):
    id: int | None = None
    image_id: int
    category_id: int
    segmentation: _RunLengths | list[list[FiniteFloat]] = Field(default_factory=list)


class _Document(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def read(path: Path, shape: tuple[int, int], image: Path) -> tuple[Mask, Mask, Mask]:
    """Read (left, right, opacity) of the image of that name; raises ValueError."""
    stat = path.stat()
    document = _parsed(path, stat.st_mtime_ns, stat.st_size)
    entry = _entry(document, image)
    check_size((entry.height, entry.width), shape)
    names = {category.id: category.name for category in document.categories}
    drawing = Drawing(shape)
    for each in document.annotations:
        if each.image_id != entry.id:
            continue
        if each.category_id not in names:
            msg = f"annotation {each.id} has the category {each.category_id}, which is not defined"
            raise ValueError(msg)
        drawing.add(region_of(names[each.category_id]), _mask(each, shape))
    return drawing.masks()


@lru_cache(maxsize=2)
def _parsed(path: Path, _changed: int, _size: int) -> _Document:
    """Parse a file once for all of its images, as long as it does not change."""
    return read_document(path, _Document)


def _entry(document: _Document, image: Path) -> _Image:
    """Find the image by its name, with as many folders as the file states."""
    found = [each for each in document.images if _ends_with(image, each.file_name)]
    longest = max((len(_parts(each.file_name)) for each in found), default=0)
    best = [each for each in found if len(_parts(each.file_name)) == longest]
    if len(best) != 1:
        number = "more than one image" if best else "no image"
        msg = f"it holds {number} with the file name {image.name!r}"
        raise ValueError(msg)
    return best[0]


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _ends_with(image: Path, name: str) -> bool:
    parts = _parts(name)
    return bool(parts) and image.parts[-len(parts) :] == parts


def _mask(each: _Annotation, shape: tuple[int, int]) -> Mask:
    if isinstance(each.segmentation, _RunLengths):
        return _decode(each.segmentation, shape)
    if not each.segmentation:
        msg = f"annotation {each.id} has no segmentation"
        raise ValueError(msg)
    mask = np.zeros(shape, dtype=np.bool_)
    for flat in each.segmentation:
        if len(flat) % 2:
            msg = f"annotation {each.id} has a polygon with an odd number of coordinates"
            raise ValueError(msg)
        mask |= fill([list(zip(flat[::2], flat[1::2], strict=True))], shape)
    return mask


def _decode(runs: _RunLengths, shape: tuple[int, int]) -> Mask:
    check_size(runs.size, shape)
    counts = _counts(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if min(counts, default=0) < 0 or sum(counts) != shape[0] * shape[1]:
        msg = "its run lengths do not add up to the pixels of the image"
        raise ValueError(msg)
    values = np.arange(len(counts)) % 2 == 1
    mask: Mask = np.repeat(values, counts).reshape(shape, order="F")
    return mask


def _counts(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - _BASE
        if not 0 <= bits < 2 * _MORE:
            msg = f"its run lengths hold the character {sign!r}"
            raise ValueError(msg)
        value |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))  # noqa: PLR2004  see above
        value = shift = 0
    if shift:
        msg = "its run lengths are cut off"
        raise ValueError(msg)
    return counts
