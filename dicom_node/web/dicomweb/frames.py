"""Frames of a stored object: plain little-endian pixels, or the fragments as they are stored.

PS3.18 10.4.1.1.6, PS3.5 8 and A.4. Nothing is decoded.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from dicom_node.web.dicomweb.errors import NotHereError, ParameterError
from dicom_node.web.dicomweb.media_types import NATIVE
from dicom_node.web.dicomweb.pieces import of_file
from dicom_node.web.dicomweb.stored_header import (
    EXTENDED_LENGTHS,
    EXTENDED_OFFSETS,
    PIXEL_DATA,
    Bulk,
    StoredHeader,
)

_MAX_FRAMES: Final = 1 << 16  # and fragments, of one object
_ITEM: Final = struct.Struct("<HHL")
_IS_ITEM: Final = (0xFFFE, 0xE000)
_END_OF_IMAGE: Final = b"\xff\xd9"  # JPEG and JPEG-LS EOI, JPEG 2000 EOC
_SUBSAMPLED: Final = "YBR_FULL_422"


@dataclass(frozen=True)
class Fragment:
    """One fragment: where its bytes begin in the file, how many."""

    start: int
    length: int


@dataclass(frozen=True)
class Frames:
    """The frames of one object. Raises NotHereError where it has none, or is broken."""

    stored: StoredHeader
    bulk: Bulk
    number: int

    @classmethod
    def of(cls, stored: StoredHeader) -> "Frames":
        """Return the frames of an object."""
        bulk = stored.bulk.get(PIXEL_DATA)
        if bulk is None:
            msg = "the object has no frames"
            raise NotHereError(msg)
        number = stored.number("NumberOfFrames", 1)
        if not 0 < number <= _MAX_FRAMES:
            msg = "the number of frames of the object is none"
            raise NotHereError(msg)
        return cls(stored, bulk, number)

    def chosen(self, text: str) -> list[int]:
        """Return the frame numbers that a list in a path names, as they stand there."""
        try:
            wanted = [int(each) for each in text.split(",")]
        except ValueError as error:
            msg = "the list of frames is none: numbers from 1, with commas between them"
            raise ParameterError(msg) from error
        if not all(1 <= each <= self.number for each in wanted):
            msg = f"the object has frames 1 to {self.number}"
            raise NotHereError(msg)
        return wanted

    def data(self, wanted: Sequence[int]) -> list[Iterator[bytes]]:
        """Return the bytes of these frames, each when it is asked for."""
        if self.bulk.length is None:
            fragments = self._fragments()
            return [self._joined(fragments[number - 1]) for number in wanted]
        if self.stored.syntax not in NATIVE:
            msg = "the pixels of the object are not in the transfer syntax that it names"
            raise NotHereError(msg)
        bits = self._bits_per_frame()
        if self.number * bits > self.bulk.length * 8:
            msg = "the object has fewer pixels than its elements say"
            raise NotHereError(msg)
        return [self._plain((number - 1) * bits, bits) for number in wanted]

    def _bits_per_frame(self) -> int:
        stored = self.stored
        samples = stored.number("SamplesPerPixel", 1)
        if stored.text("PhotometricInterpretation") == _SUBSAMPLED:
            samples = 2  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
        pixels = stored.number("Rows", 0) * stored.number("Columns", 0)
        bits = pixels * samples * stored.number("BitsAllocated", 0)
        if bits <= 0:
            msg = "the elements of the object say nothing of the size of a frame"
            raise NotHereError(msg)
        return bits

    def _plain(self, first: int, bits: int) -> Iterator[bytes]:
        allocated = self.stored.number("BitsAllocated", 0)
        word = max(2, allocated // 8) if self.bulk.vr == "OW" else 1
        begin, offset = divmod(first, 8)
        pieces = self.stored.part(self.bulk, begin, (offset + bits + 7) // 8, word)
        return pieces if not offset and not bits % 8 else _shifted(pieces, offset, bits)

    def _joined(self, fragments: Iterable[Fragment]) -> Iterator[bytes]:
        for each in fragments:
            yield from of_file(self.stored.path, each.start, each.length)

    def _fragments(self) -> list[list[Fragment]]:
        """Return the fragments of each frame (PS3.5 A.4)."""
        with self.stored.path.open("rb") as file:
            table, fragments = _scan(file, self.stored.start + self.bulk.offset)
            if not fragments:
                msg = "the pixels of the object are broken"
                raise NotHereError(msg)
            found = self._grouped(file, table, fragments)
        if len(found) < self.number or not all(found[: self.number]):
            msg = "it cannot be told which fragments belong to which frame"
            raise NotHereError(msg)
        return found

    def _grouped(
        self, file: BinaryIO, table: Sequence[int], fragments: list[Fragment]
    ) -> list[list[Fragment]]:
        if self.number == 1:
            return [fragments]
        offsets = self._long_numbers(EXTENDED_OFFSETS) or list(table)
        if offsets:
            first = fragments[0].start
            return _by_offset(fragments, [first + offset for offset in offsets])
        if len(fragments) == self.number:
            return [[each] for each in fragments]
        return _by_end(file, fragments)

    def _long_numbers(self, tag: int) -> list[int]:
        """Return the values of an OV element; none when it is not there, or has too many."""
        if EXTENDED_LENGTHS not in self.stored.ds and EXTENDED_LENGTHS not in self.stored.bulk:
            return []
        if (bulk := self.stored.bulk.get(tag)) is not None:
            if bulk.length is None or bulk.length > 8 * _MAX_FRAMES:
                return []
            data = b"".join(self.stored.value(bulk))
        else:
            element = self.stored.ds.get(tag)
            data = element.value if element is not None else b""
        return [each[0] for each in struct.iter_unpack("<Q", data[: len(data) - len(data) % 8])]


def _scan(file: BinaryIO, start: int) -> tuple[list[int], list[Fragment]]:
    """Return the Basic Offset Table, and where the fragments are; their bytes are not read."""
    file.seek(start)
    found: list[Fragment] = []
    while len(head := file.read(_ITEM.size)) == _ITEM.size:
        group, element, length = _ITEM.unpack(head)
        if (group, element) != _IS_ITEM or len(found) > _MAX_FRAMES:
            break
        found.append(Fragment(file.tell(), length))
        file.seek(length, 1)
    if not found:
        return [], []
    table, *fragments = found
    if table.length % 4 or table.length > 4 * _MAX_FRAMES:
        return [], fragments
    file.seek(table.start)
    data = file.read(table.length)
    whole = data[: len(data) - len(data) % 4]
    return [each[0] for each in struct.iter_unpack("<L", whole)], fragments


def _by_offset(fragments: Sequence[Fragment], starts: Sequence[int]) -> list[list[Fragment]]:
    """Group fragments by the frame that begins last in front of them."""
    found: list[list[Fragment]] = [[] for _ in starts]
    frame = 0
    for each in fragments:
        while frame + 1 < len(starts) and each.start >= starts[frame + 1]:
            frame += 1
        found[frame].append(each)
    return found


def _by_end(file: BinaryIO, fragments: Iterable[Fragment]) -> list[list[Fragment]]:
    """Group fragments by the end of a code stream, where nothing else says which frame is whose."""
    found: list[list[Fragment]] = [[]]
    for each in fragments:
        found[-1].append(each)
        file.seek(max(each.start, each.start + each.length - 10))
        if _END_OF_IMAGE in file.read(min(10, each.length)):
            found.append([])
    return found if found[-1] else found[:-1]


def _shifted(pieces: Iterator[bytes], offset: int, bits: int) -> Iterator[bytes]:
    """Yield a frame of single bits from the first bit of a byte on (PS3.5 8.1.1)."""
    number = int.from_bytes(b"".join(pieces), "little") >> offset
    number &= (1 << bits) - 1
    yield number.to_bytes((bits + 7) // 8, "little")
