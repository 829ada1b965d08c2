"""Sound data sets and their hostile variants: the same seed gives the same bytes, always.

A data set is cut into its top-level elements, an operation damages one or several of them, and the
pieces are joined again. Nothing here knows what the reader makes of it.
"""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

CR: Final = "1.2.840.10008.5.1.4.1.1.1"
_ROOT: Final = "1.2.826.0.1.3680043.8.498"
_LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR"})
_LONGER_VRS: Final = _LONG_VRS | {"UT", "UV"}
_VRS: Final = (b"AT", b"FD", b"IS", b"OB", b"OW", b"SQ", b"UI", b"UN", b"US", b"UT", b"ZZ", b"\0\0")
_LENGTHS: Final = (0, 1, 3, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_VALUES: Final = (
    b"",
    b"\0" * 8,
    b"\xff" * 8,
    b"-1",
    b"1e400 ",
    b"NaN ",
    b"9" * 40,
    b"\\" * 64,
    b"\x1b$)C\xff\xfe",
    b"%s%n{0}" * 9,
    b"A" * 70000,
)
_SERIES_UID: Final = 0x0020000E
_PIXEL_DATA: Final = 0x7FE00010
_SEQUENCE_DEPTH: Final = 3000


@dataclass(frozen=True)
class Sound:
    """An image that a node stores and a worker decodes, as its top-level elements in order."""

    name: str
    syntax: UID
    elements: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Mutant:
    """One hostile variant; `seed` and `name` make it again."""

    seed: int
    name: str
    syntax: UID
    sop_instance_uid: str
    data: bytes

    def as_file(self) -> bytes:
        """Return a DICOM file: every seventh one is bare, without preamble and file meta."""
        if self.seed % 7 == 0:
            return self.data
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CR, self.sop_instance_uid
        meta.TransferSyntaxUID = self.syntax
        meta.ImplementationClassUID = f"{_ROOT}.1"
        meta.FileMetaInformationVersion = b"\0\x01"
        buffer = DicomBytesIO()
        write_file_meta_info(buffer, meta)
        return b"\0" * 128 + b"DICM" + buffer.getvalue() + self.data


def sound(name: str, ds: Dataset) -> Sound:
    """Cut `ds` into elements, as a chest CR of a patient; it needs `file_meta`."""
    syntax = UID(ds.file_meta.TransferSyntaxUID)
    plain = Dataset()
    plain.update(ds)
    plain.SOPClassUID, plain.Modality, plain.PatientID = CR, "CR", "MUTANT"
    plain.BodyPartExamined, plain.ViewPosition = "CHEST", "PA"
    plain.SOPInstanceUID = _instance_uid(0)
    plain.StudyInstanceUID, plain.SeriesInstanceUID = f"{_ROOT}.2", f"{_ROOT}.3"
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    write_dataset(buffer, plain)
    return Sound(name, syntax, _cut(buffer.getvalue(), syntax))


def mutant(sources: Sequence[Sound], seed: int) -> Mutant:
    """Return variant number `seed`: one source, one to three operations."""
    rng = random.Random(seed)
    source = sources[seed % len(sources)]
    uid = _instance_uid(seed)
    old, new = _instance_uid(0).encode(), uid.encode()  # of the same length
    elements = [bytearray(raw.replace(old, new)) for _, raw in source.elements]
    tags = [tag for tag, _ in source.elements]
    # Two of three leave the identity alone, so that what lies behind it is met.
    first = rng.choice((0, *2 * [next(n for n, tag in enumerate(tags) if tag > _SERIES_UID)]))
    kept, rest = elements[:first], elements[first:]
    scalpel = _Scalpel(rng, source.syntax, tags[first:])
    names = rng.choices(sorted(OPERATIONS), k=rng.choice((1, 1, 1, 2, 3)))
    for name in names:
        OPERATIONS[name](scalpel, rest)
    data = bytearray(b"".join(kept + rest))
    if source.syntax == DeflatedExplicitVRLittleEndian:
        data = bytearray(_deflated(bytes(data)))
        if rng.random() < 0.5:
            _flip(rng, data, 4)
    if rng.random() < 0.15:
        names.append("cut")
        del data[rng.randrange(len(data)) :]
    syntax = source.syntax
    if rng.random() < 0.08:
        names.append("other syntax")
        syntax = rng.choice(sources).syntax
    return Mutant(seed, f"{source.name}: {', '.join(names)}", syntax, uid, bytes(data) or b"\0")


class _Scalpel:
    """What the operations share: the dice and the encoding."""

    def __init__(self, rng: random.Random, syntax: UID, tags: list[int]) -> None:
        self.rng = rng
        self.explicit = not syntax.is_implicit_VR
        self.order = "<" if syntax.is_little_endian else ">"
        self._tags = tags

    def pick(self, elements: list[bytearray]) -> bytearray:
        """Any element that still has a header."""
        return self.rng.choice([each for each in elements if len(each) >= 8] or [bytearray(8)])

    def pixels(self, elements: list[bytearray]) -> bytearray:
        """The pixel data, or the last element where it is gone."""
        place = self._tags.index(_PIXEL_DATA) if _PIXEL_DATA in self._tags else -1
        return elements[place] if place < len(elements) else elements[-1]

    def length_field(self, element: bytearray) -> tuple[int, str]:
        """Where the length stands and how it is packed (PS3.5 7.1.2, 7.1.3)."""
        if not self.explicit:
            return 4, f"{self.order}I"
        if bytes(element[4:6]).decode("latin-1") in _LONGER_VRS:
            return 8, f"{self.order}I"
        return 6, f"{self.order}H"

    def set_length(self, element: bytearray, length: int) -> None:
        """Overwrite the length field."""
        start, packing = self.length_field(element)
        size = struct.calcsize(packing)
        if len(element) >= start + size:
            struct.pack_into(packing, element, start, length & ((1 << 8 * size) - 1))

    def element(self, group: int, number: int, vr: bytes, value: bytes) -> bytearray:
        """Encode an element of a long VR, its length undefined."""
        head = struct.pack(f"{self.order}HH", group, number)
        head += vr + b"\0\0" if self.explicit else b""
        return bytearray(head + struct.pack(f"{self.order}I", 0xFFFFFFFF) + value)


def _flip(rng: random.Random, data: bytearray, bits: int) -> None:
    for _ in range(bits if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _flip_header(tool: _Scalpel, elements: list[bytearray]) -> None:
    for _ in range(tool.rng.randint(1, 6)):
        _flip(tool.rng, tool.pick(elements), 1)


def _flip_pixels(tool: _Scalpel, elements: list[bytearray]) -> None:
    _flip(tool.rng, tool.pixels(elements), tool.rng.choice((1, 4, 64)))


def _length(tool: _Scalpel, elements: list[bytearray]) -> None:
    tool.set_length(tool.pick(elements), tool.rng.choice(_LENGTHS))


def _vr(tool: _Scalpel, elements: list[bytearray]) -> None:
    tool.pick(elements)[4:6] = tool.rng.choice(_VRS)


def _remove(tool: _Scalpel, elements: list[bytearray]) -> None:
    del elements[tool.rng.randrange(len(elements))]


def _duplicate(tool: _Scalpel, elements: list[bytearray]) -> None:
    elements.insert(tool.rng.randrange(len(elements)), bytearray(tool.pick(elements)))


def _disorder(tool: _Scalpel, elements: list[bytearray]) -> None:
    one, two = (tool.rng.randrange(len(elements)) for _ in range(2))
    elements[one], elements[two] = elements[two], elements[one]


def _value(tool: _Scalpel, elements: list[bytearray]) -> None:
    element = tool.pick(elements)
    start, packing = tool.length_field(element)
    value = tool.rng.choice(_VALUES)
    element[start + struct.calcsize(packing) :] = value
    tool.set_length(element, len(value))


def _numbers(tool: _Scalpel, elements: list[bytearray]) -> None:
    """Give one of the numbers that describe the pixels (group 0028, US) another value."""
    group = struct.pack(f"{tool.order}H", 0x0028)
    found = [each for each in elements if bytes(each[:2]) == group and len(each) == 10]
    if found:
        value = tool.rng.choice((0, 1, 3, 7, 12, 17, 32, 64, 255, 0x7FFF, 0xFFFF))
        struct.pack_into(f"{tool.order}H", tool.rng.choice(found), 8, value)


def _nest(tool: _Scalpel, elements: list[bytearray]) -> None:
    """Insert thousands of sequences in one another, open to the end of the data set."""
    item = struct.pack(f"{tool.order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    one = bytes(tool.element(0x0008, 0x1140, b"SQ", b"")) + item
    deep = bytearray(one * tool.rng.choice((10, _SEQUENCE_DEPTH)))
    elements.insert(tool.rng.randrange(len(elements)), deep)


def _garbage(tool: _Scalpel, elements: list[bytearray]) -> None:
    junk = bytearray(tool.rng.randbytes(tool.rng.choice((1, 7, 64, 5000))))
    elements.insert(tool.rng.randrange(len(elements)), junk)


def _fragments(tool: _Scalpel, elements: list[bytearray]) -> None:
    """Damage the items of the pixel data (PS3.5 A.4), or the length of native ones."""
    pixels, rng = tool.pixels(elements), tool.rng
    kind = rng.choice(("table", "second", "open", "short", "long", "item"))
    if kind == "table":
        pixels[12:20] = struct.pack("<HHI", 0xFFFE, 0xE000, rng.choice(_LENGTHS))
    elif kind == "second":
        pixels[24:28] = struct.pack("<I", rng.choice(_LENGTHS))
    elif kind == "open":
        del pixels[-8:]
    elif kind == "short":
        del pixels[len(pixels) // 2 :]
    elif kind == "long":
        pixels += rng.randbytes(999)
    else:
        place = rng.randrange(len(pixels))
        pixels[place:place] = struct.pack("<HHI", 0xFFFE, rng.choice((0xE000, 0xE00D, 0xE0DD)), 4)


OPERATIONS: Final[dict[str, Callable[[_Scalpel, list[bytearray]], None]]] = {
    "bits of a header": _flip_header,
    "bits of the pixels": _flip_pixels,
    "length": _length,
    "VR": _vr,
    "removed": _remove,
    "duplicated": _duplicate,
    "disorder": _disorder,
    "value": _value,
    "numbers": _numbers,
    "nested": _nest,
    "garbage": _garbage,
    "fragments": _fragments,
}


def _cut(data: bytes, syntax: UID) -> tuple[tuple[int, bytes], ...]:
    """Return (tag, bytes) of each top-level element."""
    explicit = not syntax.is_implicit_VR
    ds = read_dataset(
        BytesIO(data), is_implicit_VR=not explicit, is_little_endian=syntax.is_little_endian
    )
    places = []
    for each in ds._dict.values():
        value = each.value_tell if hasattr(each, "value_tell") else each.file_tell
        long = not explicit or str(each.VR) not in _LONGER_VRS
        places.append((value - (8 if long else 12), int(each.tag)))
    places.sort()
    ends = [start for start, _ in places[1:]] + [len(data)]
    return tuple((tag, data[start:end]) for (start, tag), end in zip(places, ends, strict=True))


def _instance_uid(seed: int) -> str:
    return f"{_ROOT}.9.{10_000_000 + seed}"


def _deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()
