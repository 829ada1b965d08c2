"""Frames and long values out of stored files, compared with what pydicom and numpy make of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import chest_dataset, write_part10
from mutations import Mutant
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
)
from typing_extensions import override

from dicom_node.web.dicomweb.errors import NotHereError, ParameterError
from dicom_node.web.dicomweb.frames import Frames
from dicom_node.web.dicomweb.stored_header import PIXEL_DATA, StoredHeader, open_stored

ROWS, COLUMNS = 5, 7
NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def _numbers(frames: int, dtype: str = "<u2") -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    high = 2 ** (8 * np.dtype(dtype).itemsize)
    return rng.integers(0, high, (frames, ROWS, COLUMNS), np.uint32).astype(dtype)


def _dataset(frames: int, bits: int, data: bytes, syntax: str, **more: Any) -> FileDataset:
    native = syntax if syntax in NATIVE else ExplicitVRLittleEndian
    ds = chest_dataset(pixels=_numbers(1)[0], transfer_syntax=native)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelData = data
    ds["PixelData"].VR = "OW" if bits > 8 and not syntax.startswith("1.2.840.10008.1.2.4") else "OB"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def _frames(path: Path, ds: FileDataset) -> Frames:
    return Frames.of(open_stored(_file(path / "a.dcm", ds)))


def _file(path: Path, ds: FileDataset) -> Path:
    if ds.file_meta.TransferSyntaxUID != ExplicitVRBigEndian:
        return write_part10(path, ds)
    path.write_bytes(Mutant(1, "", ExplicitVRBigEndian, "1.2", _big_endian(ds)).as_file())
    return path


def _big_endian(ds: FileDataset) -> bytes:
    """Return the data set; pydicom does not turn a little-endian one around by itself."""
    buffer, plain = DicomBytesIO(), Dataset()
    buffer.is_implicit_VR = buffer.is_little_endian = False
    plain.update(ds)
    write_dataset(buffer, plain)
    return bytes(buffer.getvalue())


def _read(frames: Frames, wanted: Sequence[int]) -> list[bytes]:
    return [b"".join(each) for each in frames.data(wanted)]


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4"])
@pytest.mark.parametrize("syntax", NATIVE)
def test_native_frames_are_little_endian(tmp_path: Path, syntax: str, dtype: str) -> None:
    numbers = _numbers(3, dtype)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stored = numbers.astype(numbers.dtype.newbyteorder(order))
    ds = _dataset(3, 8 * numbers.dtype.itemsize, stored.tobytes(), syntax)
    frames = _frames(tmp_path, ds)
    assert _read(frames, [3, 1, 2]) == [numbers[n].tobytes() for n in (2, 0, 1)]


def test_bytes_in_big_endian_words_are_turned_around_wherever_a_frame_begins(
    tmp_path: Path,
) -> None:
    numbers = _numbers(3, "<u1")
    whole = numbers.tobytes() + b"\0"
    turned = np.frombuffer(whole, "<u2").byteswap().tobytes()
    ds = _dataset(3, 8, turned, ExplicitVRBigEndian)
    ds["PixelData"].VR = "OW"
    assert _read(_frames(tmp_path, ds), [3, 1, 2]) == [numbers[n].tobytes() for n in (2, 0, 1)]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_no_other_frame_is_read_for_one(tmp_path: Path, syntax: str) -> None:
    asked: list[int | None] = []

    class Watched(StoredHeader):
        @override
        def pieces(self, offset: int, length: int | None) -> Iterator[bytes]:
            asked.append(length)
            return super().pieces(offset, length)

    opened = open_stored(_file(tmp_path / "a.dcm", _dataset(9, 16, bytes(9 * 70), syntax)))
    watched = Watched(opened.path, opened.syntax, opened.start, opened.ds, opened.bulk)
    assert _read(Frames.of(watched), [9, 1]) == [bytes(70)] * 2
    assert asked == [70, 70]


@pytest.mark.parametrize("side", [8, 7])
def test_frames_of_single_bits_begin_with_a_byte(tmp_path: Path, side: int) -> None:
    masks = np.random.default_rng(2).integers(0, 2, (4, side, side), np.uint8)
    data = np.packbits(masks.ravel(), bitorder="little").tobytes()
    ds = _dataset(4, 1, data + b"\0" * (len(data) % 2), ExplicitVRLittleEndian)
    ds.Rows = ds.Columns = side
    found = _read(_frames(tmp_path, ds), [1, 2, 3, 4])
    for number, each in enumerate(found):
        bits = np.unpackbits(np.frombuffer(each, np.uint8), bitorder="little")
        assert np.array_equal(bits[: side * side], masks[number].ravel())
        assert not bits[side * side :].any()


def test_a_subsampled_colour_frame_has_two_bytes_for_a_pixel(tmp_path: Path) -> None:
    data = bytes(range(64)) * 2
    ds = _dataset(2, 8, data, ExplicitVRLittleEndian, SamplesPerPixel=3)
    ds.Rows, ds.Columns, ds.PhotometricInterpretation = 4, 8, "YBR_FULL_422"
    assert _read(_frames(tmp_path, ds), [2]) == [data[64:]]


CODED = [b"\xff\xd8" + each * 30 + b"\xff\xd9" for each in (b"first", b"number 2", b"the last")]


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (3, encapsulate(CODED)),
        (3, encapsulate(CODED, has_bot=False)),
        (3, encapsulate(CODED, fragments_per_frame=3)),
        (3, encapsulate(CODED, fragments_per_frame=3, has_bot=False)),
        (1, encapsulate(CODED[1:2], fragments_per_frame=4)),
        (1, encapsulate(CODED[1:2], fragments_per_frame=4, has_bot=False)),
    ],
)
def test_encapsulated_frames_are_their_fragments(tmp_path: Path, number: int, data: bytes) -> None:
    frames = _frames(tmp_path, _dataset(number, 8, data, str(JPEGLSLossless)))
    wanted = [each + b"\0" * (len(each) % 2) for each in (CODED if number == 3 else CODED[1:2])]
    found = _read(frames, range(1, number + 1))
    assert [each.rstrip(b"\0") for each in found] == [each.rstrip(b"\0") for each in wanted]


def test_an_extended_offset_table_says_where_frames_are(tmp_path: Path) -> None:
    data, offsets, lengths = encapsulate_extended(CODED)
    more = {"ExtendedOffsetTable": offsets, "ExtendedOffsetTableLengths": lengths}
    frames = _frames(tmp_path, _dataset(3, 8, data, str(JPEG2000Lossless), **more))
    assert [each.rstrip(b"\0") for each in _read(frames, [2, 3])] == [
        each.rstrip(b"\0") for each in CODED[1:]
    ]


def test_an_extended_offset_table_beyond_all_frames_is_not_read(tmp_path: Path) -> None:
    data, offsets, lengths = encapsulate_extended(CODED)
    endless = offsets + bytes(8 << 16)
    more = {"ExtendedOffsetTable": endless, "ExtendedOffsetTableLengths": lengths}
    frames = _frames(tmp_path, _dataset(3, 8, data, str(JPEG2000Lossless), **more))
    assert [each.rstrip(b"\0") for each in _read(frames, [1, 3])] == [
        each.rstrip(b"\0") for each in (CODED[0], CODED[2])
    ]


@pytest.mark.parametrize(
    ("number", "fragments", "bits"), [(2, [b"no marker", b"none", b"nor here"], 8), (5, CODED, 8)]
)
def test_fragments_that_nobody_can_tell_apart_are_not_guessed(
    tmp_path: Path, number: int, fragments: list[bytes], bits: int
) -> None:
    data = encapsulate(fragments, has_bot=False)
    frames = _frames(tmp_path, _dataset(number, bits, data, str(JPEGLSLossless)))
    with pytest.raises(NotHereError):
        frames.data([1])


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    frames = _frames(tmp_path, _dataset(3, 16, _numbers(3).tobytes(), ExplicitVRLittleEndian))
    assert frames.chosen("2,1,2") == [2, 1, 2]
    for text in ("0", "4", "1,4"):
        with pytest.raises(NotHereError):
            frames.chosen(text)
    for text in ("", "x", "1,,2", "1-2"):
        with pytest.raises(ParameterError):
            frames.chosen(text)
    short = _dataset(4, 16, _numbers(3).tobytes(), ExplicitVRLittleEndian)
    with pytest.raises(NotHereError):
        _frames(tmp_path, short).data([1])
    without = _dataset(1, 16, b"", ExplicitVRLittleEndian)
    del without.PixelData
    with pytest.raises(NotHereError):
        _frames(tmp_path, without)


def test_a_file_that_is_cut_off_breaks_its_frame_and_not_the_others(tmp_path: Path) -> None:
    path = write_part10(
        tmp_path / "a.dcm", _dataset(3, 16, _numbers(3).tobytes(), ExplicitVRLittleEndian)
    )
    path.write_bytes(path.read_bytes()[:-ROWS])
    first, _, last = Frames.of(open_stored(path)).data([1, 2, 3])
    assert b"".join(first) == _numbers(3)[0].tobytes()
    with pytest.raises(EOFError):
        list(last)


@pytest.mark.parametrize("syntax", NATIVE)
def test_a_header_is_what_pydicom_reads_and_the_pixels_stay_in_the_file(
    tmp_path: Path, syntax: str
) -> None:
    ds = _dataset(1, 16, bytes(200_000), syntax, Rows=250, Columns=400)
    long = b"\1\2" * 50_000
    ds.private_block(0x0029, "US", create=True).add_new(1, "OB", long)
    stored = open_stored(_file(tmp_path / "a.dcm", ds))
    whole = dcmread(tmp_path / "a.dcm")
    for element in whole:
        if element.tag not in {PIXEL_DATA, 0x00291001}:
            assert stored.ds[element.tag].value == element.value
    bulk = stored.bulk[0x00291001]
    assert b"".join(stored.value(bulk)) == long
    assert stored.bulk[PIXEL_DATA].length == 200_000


def test_a_deflated_bomb_and_an_endless_header_are_not_read_to_their_end(tmp_path: Path) -> None:
    ds = _dataset(1, 8, b"\0" * 35, str(DeflatedExplicitVRLittleEndian))
    block = ds.private_block(0x0029, "US", create=True)
    block.add_new(1, "OB", bytes(200 << 20))
    path = write_part10(tmp_path / "a.dcm", ds)
    assert path.stat().st_size < 1 << 20
    stored = open_stored(path)
    assert stored.text("PatientID") == "P-1"
    assert not stored.ds or PIXEL_DATA not in stored.bulk
