"""A stored object opened: its elements, and where the long ones are. No pixel is read for that.

What lies there came from a peer: elements may claim any length, nest without end, or inflate
without end. So no more than some megabytes of a header are ever in memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32
from pynetdicom.dsutils import split_dataset

from dicom_node.web.dicomweb.errors import NotHereError
from dicom_node.web.dicomweb.pieces import PIECE, inflated, of_file, swapped, window

PIXEL_DATA: Final = 0x7FE00010
EXTENDED_OFFSETS: Final = 0x7FE00001
EXTENDED_LENGTHS: Final = 0x7FE00002
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})  # PS3.3 C.7.6.3, C.7.6.24
_INLINE_BYTES: Final = 1 << 16  # a longer value stays in the file
_MAX_BYTES: Final = 32 << 20  # of the header and of one sequence
_UNDEFINED: Final = 0xFFFFFFFF
# Bytes of one number, which big endian turns around.
WORDS: Final = {"OW": 2, "US": 2, "SS": 2, "OF": 4, "OL": 4, "FL": 4, "OD": 8, "OV": 8, "FD": 8}


@dataclass(frozen=True)
class Bulk:
    """A value that stays in the file: at which byte of the data set, and how long."""

    vr: str
    offset: int
    length: int | None  # None: pixels in fragments (PS3.5 A.4)


@dataclass(frozen=True)
class StoredHeader:
    """The elements of one object; `bulk` are those, by tag, that are not in `ds`."""

    path: Path
    syntax: UID
    start: int  # of the data set in the file
    ds: Dataset = field(default_factory=Dataset)
    bulk: Mapping[int, Bulk] = field(default_factory=dict)

    def pieces(self, offset: int, length: int | None) -> Iterator[bytes]:
        """Yield bytes of the data set as they are encoded. Raises OSError, EOFError."""
        if self.syntax != DeflatedExplicitVRLittleEndian:
            return of_file(self.path, self.start + offset, length)
        plain = inflated(of_file(self.path, self.start))
        return plain if length is None else window(plain, offset, length)

    def value(self, bulk: Bulk, word: int | None = None) -> Iterator[bytes]:
        """Yield a value in little endian; `word`: bytes of one number, where its VR says less."""
        pieces = self.pieces(bulk.offset, bulk.length)
        if self.syntax != ExplicitVRBigEndian:
            return pieces
        return swapped(pieces, WORDS.get(bulk.vr, 1) if word is None else word)

    def part(self, bulk: Bulk, start: int, length: int, word: int) -> Iterator[bytes]:
        """Yield bytes of a value of known length as `value` does; no other word of it is read."""
        if self.syntax != ExplicitVRBigEndian:
            return self.pieces(bulk.offset + start, length)
        before = start % word
        whole = -(-(before + length) // word) * word
        first = start - before
        pieces = self.pieces(bulk.offset + first, min(whole, (bulk.length or 0) - first))
        return window(swapped(pieces, word), before, length)

    def number(self, keyword: str, default: int) -> int:
        """Return an integer element; one that is missing or broken is `default`."""
        try:
            return int(self.ds.get(keyword) or default)
        except Exception:  # noqa: BLE001  a peer's bytes, any error
            return default

    def text(self, keyword: str) -> str:
        """Return an element as text; empty when it is missing or broken."""
        try:
            return str(self.ds.get(keyword) or "")
        except Exception:  # noqa: BLE001  the same
            return ""


def open_stored(path: Path) -> StoredHeader:
    """Return what a stored object says of itself; nothing where it cannot be parsed.

    Raises NotHereError when the file is gone, or none of DICOM.
    """
    try:
        meta, start = split_dataset(path)
        syntax = UID(str(meta.TransferSyntaxUID))
    except Exception as error:
        msg = "the stored object cannot be read"
        raise NotHereError(msg) from error
    try:
        return _parse(path, syntax, start)
    except Exception:  # noqa: BLE001  hostile bytes, any error: its rows still say something
        return StoredHeader(path, syntax, start)


def _parse(path: Path, syntax: UID, start: int) -> StoredHeader:
    passed: list[tuple[int, str | None, int]] = []

    def is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        passed[:] = [(int(tag), vr, length)] if tag in _PIXELS else []
        return bool(passed)

    with path.open("rb") as file:
        source, base = _source(file, syntax, start)
        ds = read_dataset(
            cast("BinaryIO", source),
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax.is_little_endian,
            stop_when=is_pixels,
            defer_size=_INLINE_BYTES,
        )
        end = source.tell() - base
        bulk = _set_aside(ds, source, base)
    for tag, vr, length in passed:
        at = end + (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)  # PS3.5 7.1
        bulk[tag] = Bulk(vr or "OW", at, None if length == _UNDEFINED else length)
    return StoredHeader(path, syntax, start, ds, bulk)


def _source(file: BinaryIO, syntax: UID, start: int) -> "tuple[_Limited, int]":
    """Return the data set as something to read from, and where in that it begins."""
    file.seek(start)
    if syntax != DeflatedExplicitVRLittleEndian:
        return _Limited(file), start
    head = BytesIO()
    for piece in inflated(iter(lambda: file.read(PIECE), b"")):
        head.write(piece)
        if head.tell() >= _MAX_BYTES:
            break
    head.seek(0)
    return _Limited(head), 0


def _set_aside(ds: Dataset, source: "_Limited", base: int) -> dict[int, Bulk]:
    """Take the values out that were not read; sequences among them are read after all."""
    bulk: dict[int, Bulk] = {}
    for tag in list(ds.keys()):
        element = cast("object", ds.get_item(tag, keep_deferred=True))
        if not isinstance(element, RawDataElement) or element.value is not None:
            continue
        if not element.length:
            continue  # empty
        vr = element.VR or _dictionary_vr(tag)
        if vr == "SQ" and element.length <= _MAX_BYTES:
            source.seek(element.value_tell)
            ds._dict[tag] = element._replace(value=source.read(element.length))  # noqa: SLF001  raw
            continue
        del ds[tag]
        if element.length != _UNDEFINED:
            bulk[int(tag)] = Bulk(vr, element.value_tell - base, element.length)
    return bulk


def _dictionary_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


class _Limited:
    """A file of which no more than so many bytes are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = 2 * _MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read. Raises NotHereError beyond the limit."""
        if not 0 <= size <= self._left:
            msg = "the header is too long"
            raise NotHereError(msg)
        self._left -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()
