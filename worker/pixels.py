"""A decoded radiograph to a ChestImage: grey scale, spacing, orientation.

The grey scale follows PS3.4 N.2: stored values, Modality LUT, VOI LUT, then one inversion. All of
it is worked out on the 2^BitsStored possible stored values and applied to the pixels as one table.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.utils import pixel_array as pydicom_pixel_array

from models.reasons import Reason
from worker.codestream import DECODE_ERRORS, check_stream
from worker.errors import NotAnalysable
from worker.grey_scale import (
    LINEAR_EXACT,
    SIGMOID,
    Floats,
    GreyScale,
    LookupTable,
    Percentiles,
    Rescale,
    VoiTable,
    Window,
    histogram,
    looked_up,
    places,
)
from worker.header import (
    READ_ERRORS,
    get_items,
    get_numbers,
    get_text,
    get_values,
    normalised_header,
)
from worker.types import ChestImage, Orientation, Spacing, SpacingBasis

Stored = NDArray[np.integer[Any]]

# PS3.5 A.4: codecs that pydicom's plugins lack or fail on (12-bit JPEG Extended above all).
_JPEG: Final = ("50", "51", "53", "55", "57", "70")
_FALLBACKS: Final[dict[str, Callable[[bytes], NDArray[np.generic]]]] = {
    **{f"1.2.840.10008.1.2.4.{last}": imagecodecs.jpeg_decode for last in _JPEG},
    **{f"1.2.840.10008.1.2.4.{last}": imagecodecs.jpegxl_decode for last in ("110", "111", "112")},
}

_WHITE: Final = 65535
_PERCENTILES: Final = (0.1, 99.9)
_CONTRAST_PERCENTILES: Final = (2.0, 98.0)
_MIN_CONTRAST: Final = 0.1
_MAX_SATURATED: Final = 0.7
_MAX_PADDED: Final = 0.95
_MAX_ASPECT: Final = 5.0
_PLAUSIBLE_WIDTH_MM: Final = (100.0, 1000.0)
_POSSIBLE_PIXEL_MM: Final = (0.001, 10.0)
# PS3.3 C.11.1.1: a LUT Descriptor is US or SS, and 0 stands for the most entries.
_MOST_ENTRIES: Final = 65536
_FIRSTS: Final = (-32768, 65535)

NOTE_PERCENTILES: Final = "No usable VOI LUT or window: grey scale set from percentiles."
NOTE_MODALITY: Final = "Modality LUT or rescale is unusable: stored values used."
NOTE_NO_SPACING: Final = "Pixel spacing is impossible for a radiograph and was not used."
NOTE_FOR_PROCESSING: Final = "Analysed from a For Processing image."
NOTE_ASPECT: Final = "Pixel Aspect Ratio is illegal: square pixels assumed."
NOTE_SPACING: Final = "The recorded pixel spacing is implausible for a chest: check the areas."
NOTE_PADDING: Final = "Pixel Padding Value covers nearly the whole image: ignored."

_FOR_PROCESSING: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"


class _UnusableError(Exception):
    """A step of the grey scale is there and cannot be applied."""


@dataclass(frozen=True)
class _Grey:
    """Display values 0..1 of every possible stored value, and how many pixels have it."""

    values: Floats
    counts: NDArray[np.int64]


def decode_pixels(ds: Dataset) -> Stored:
    """Return the stored values (rows, columns) of a single-frame grey image.

    Raises NotAnalysable NO_DECODER when no codec knows the transfer syntax, CORRUPT_PIXELS when
    the stream is cut, malformed or of another size than declared. MemoryError passes.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    if get_numbers(ds, "BitsAllocated") not in {(8.0,), (16.0,)}:
        raise NotAnalysable(Reason.CORRUPT_PIXELS, "Bits Allocated is neither 8 nor 16.")
    check_stream(ds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # surplus padding and odd VRs are no reason to refuse
            array = pydicom_pixel_array(ds, index=0)
    except DECODE_ERRORS as error:
        array = _decode_with_fallback(ds, syntax, error)
    declared = (int(ds.Rows), int(ds.Columns))
    if array.shape != declared or array.dtype.kind not in "ui" or array.dtype.itemsize > 2:  # noqa: PLR2004  bytes
        raise NotAnalysable(Reason.CORRUPT_PIXELS)
    return _within_bits_stored(ds, array, native=not ds.file_meta.TransferSyntaxUID.is_compressed)


def chest_image(ds: Dataset, stored: Stored) -> ChestImage:
    """Put decoded pixels on the display scale and read their geometry; never raises on odd tags."""
    header = normalised_header(ds)
    pixels, grey_scale, notes = _displayed(ds, stored)
    spacing = spacing_of(ds)
    orientation = orientation_of(ds)
    ratio, aspect_notes = _aspect(ds, spacing)
    notes += aspect_notes
    if spacing is not None and not _is_possible(spacing):
        spacing = None
        notes.append(NOTE_NO_SPACING)
    if spacing is not None and not _is_plausible(spacing, pixels.shape):
        notes.append(NOTE_SPACING)
    if get_text(ds, "SOPClassUID") == _FOR_PROCESSING:
        notes.append(NOTE_FOR_PROCESSING)
    return ChestImage(pixels, header, spacing, orientation, ratio, tuple(notes), grey_scale)


def display_scale(ds: Dataset, stored: Stored) -> tuple[NDArray[np.uint16], list[str]]:
    """Return uint16 pixels, 0..65535 with bright = dense, on the grid of `stored`, and notes."""
    pixels, _, notes = _displayed(ds, stored)
    return pixels, notes


def _displayed(ds: Dataset, stored: Stored) -> tuple[NDArray[np.uint16], GreyScale, list[str]]:
    """Return the pixels of `display_scale`, the steps that led there, and notes."""
    notes: list[str] = []
    bits = int(get_numbers(ds, "BitsStored")[0])
    lowest = -(1 << (bits - 1)) if stored.dtype.kind == "i" else 0
    domain = np.arange(lowest, lowest + (1 << bits))
    index = places(stored, lowest)
    counts = histogram(index, domain.size)
    padding = _padding(ds, domain)
    if counts[padding].sum() > _MAX_PADDED * index.size:
        padding = np.zeros_like(padding)
        notes.append(NOTE_PADDING)
    counts[padding] = 0
    values = domain.astype(np.float64)
    try:
        modality = _modality(ds, domain)
    except _UnusableError:
        modality = None
        notes.append(NOTE_MODALITY)
    if modality is not None:
        values = modality.apply(values)
    voi: Window | Percentiles | VoiTable | None = _voi(ds, values, counts)
    if voi is None:
        voi = _between_percentiles(_Grey(values, counts))
        notes.append(NOTE_PERCENTILES)
    grey_scale = GreyScale(modality, voi, _is_inverse(ds))
    display = voi.apply(values)
    if grey_scale.is_inverse:
        display = 1.0 - display
    display[padding] = 0.0
    table = np.rint(np.clip(display, 0.0, 1.0) * _WHITE).astype(np.uint16)
    return looked_up(table, index), grey_scale, notes


def spacing_of(ds: Dataset) -> Spacing | None:
    """Return the size of a pixel and where it is true (PS3.3 10.7.1), or None when nobody says."""
    pixel = _pair(ds, "PixelSpacing")
    imager = _pair(ds, "ImagerPixelSpacing")
    magnification = get_numbers(ds, "EstimatedRadiographicMagnificationFactor")
    if pixel is not None:
        differs = imager is not None and not np.allclose(pixel, imager, rtol=1e-3)
        calibrated = differs or get_text(ds, "PixelSpacingCalibrationType")
        basis = SpacingBasis.CALIBRATED if calibrated else SpacingBasis.DETECTOR_PLANE
        return Spacing(*pixel, basis)
    if imager is not None:
        if len(magnification) == 1 and magnification[0] >= 1:
            row, column = (size / magnification[0] for size in imager)
            return Spacing(row, column, SpacingBasis.MAGNIFICATION_CORRECTED)
        return Spacing(*imager, SpacingBasis.DETECTOR_PLANE)
    film = _pair(ds, "NominalScannedPixelSpacing")
    return None if film is None else Spacing(*film, SpacingBasis.FILM_SCAN)


def orientation_of(ds: Dataset) -> Orientation:
    """Read Patient Orientation (PS3.3 C.7.6.1.1.1); absent or illegible: upright, assumed."""
    directions = [text[:1].upper() for text in get_values(ds, "PatientOrientation")]
    if len(directions) != 2:  # noqa: PLR2004  along a row, along a column
        return Orientation(assumed=True)
    row, column = directions
    if row in {"L", "R"} and column not in {"H", "F"}:
        return Orientation(flip_columns=row == "R", assumed=True)  # the sides are stated
    transpose = row in {"H", "F"}
    if transpose:
        row, column = column, row
    if row not in {"L", "R"} or column not in {"H", "F"}:
        return Orientation(assumed=True)
    return Orientation(transpose, flip_rows=column == "H", flip_columns=row == "R")


def _decode_with_fallback(ds: Dataset, syntax: str, error: Exception) -> NDArray[np.generic]:
    decode = _FALLBACKS.get(syntax)
    if decode is None:
        unknown = isinstance(error, NotImplementedError)
        raise NotAnalysable(Reason.NO_DECODER if unknown else Reason.CORRUPT_PIXELS) from error
    try:
        array = np.asarray(decode(next(generate_frames(ds.PixelData, number_of_frames=1))))
    except (*DECODE_ERRORS, StopIteration) as second:
        raise NotAnalysable(Reason.CORRUPT_PIXELS) from second
    # 8-bit JPEG may stand in an image that declares 16 bits allocated.
    return array.astype(np.promote_types(array.dtype, f"u{int(ds.BitsAllocated) // 8}"))


def _within_bits_stored(ds: Dataset, array: NDArray[np.generic], *, native: bool) -> Stored:
    """Remove what stands outside Bits Stored: old overlays (native), codec overshoot (lossy)."""
    allocated = array.dtype.itemsize * 8
    bits = get_numbers(ds, "BitsStored")
    if len(bits) != 1 or not 1 < bits[0] <= allocated:
        raise NotAnalysable(Reason.CORRUPT_PIXELS, "Bits Stored does not fit Bits Allocated.")
    unused = allocated - int(bits[0])
    signed = get_numbers(ds, "PixelRepresentation") == (1.0,)
    kind = np.dtype(f"{'i' if signed else 'u'}{array.dtype.itemsize}")
    if not native:
        lowest = -(1 << (int(bits[0]) - 1)) if signed else 0
        wide = np.clip(array.astype(np.int32), lowest, lowest + (1 << int(bits[0])) - 1)
        return wide.astype(kind)
    high = get_numbers(ds, "HighBit") or (bits[0] - 1,)
    above = max(0, min(unused, allocated - 1 - int(high[0])))
    shifted: Stored = array.astype(kind)
    shifted <<= kind.type(above)
    shifted >>= kind.type(unused)
    return shifted


def _padding(ds: Dataset, domain: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which stored values mean `no image here` (PS3.3 C.7.5.1.1.2)."""
    first = get_numbers(ds, "PixelPaddingValue")
    if len(first) != 1:
        return np.zeros(domain.size, dtype=np.bool_)
    last = get_numbers(ds, "PixelPaddingRangeLimit")
    ends = [first[0], last[0] if len(last) == 1 else first[0]]
    # The VR (US or SS) is often not that of Pixel Representation: compare modulo 2^16.
    ends = [end - 65536 if end > domain[-1] and domain[0] < 0 else end for end in ends]
    ends = [end + 65536 if end < 0 <= domain[0] else end for end in ends]
    return np.asarray((domain >= min(ends)) & (domain <= max(ends)), dtype=np.bool_)


def _modality(ds: Dataset, domain: NDArray[np.int64]) -> Rescale | LookupTable | None:
    """Return Modality LUT Sequence, else rescale (PS3.3 C.11.1); None where there is neither.

    Raises _UnusableError when what is there is unusable.
    """
    tables = get_items(ds, "ModalityLUTSequence")
    if tables:
        table = _table(ds, tables[0], signed=bool(domain[0] < 0))
        if table is None:
            raise _UnusableError
        return table
    slope, intercept = get_numbers(ds, "RescaleSlope"), get_numbers(ds, "RescaleIntercept")
    if not slope and not intercept:
        return None
    if len(slope) != 1 or len(intercept) != 1 or slope[0] == 0:
        raise _UnusableError
    return Rescale(slope[0], intercept[0])


def _table(ds: Dataset, item: Dataset, *, signed: bool) -> LookupTable | None:
    """Read one LUT item (PS3.3 C.11.1.1, C.11.2.1.1) of any depth; None when it is unusable."""
    descriptor = [int(number) for number in get_numbers(item, "LUTDescriptor")]
    if len(descriptor) != 3:  # noqa: PLR2004  entries, first value mapped, bits
        return None
    entries, first = descriptor[0] or _MOST_ENTRIES, descriptor[1]
    if signed and first > 32767:  # noqa: PLR2004  its VR was read as US instead of SS
        first -= 65536
    if not (1 <= entries <= _MOST_ENTRIES and _FIRSTS[0] <= first <= _FIRSTS[1]):
        return None
    data = _lut_data(ds, item, entries)
    if data.size < entries or data.min() == data.max():
        return None
    return LookupTable(first, tuple(data[:entries].astype(np.int64).tolist()))


def _lut_data(ds: Dataset, item: Dataset, entries: int) -> Floats:
    try:
        data = item.LUTData
        if isinstance(data, bytes):
            order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
            kind = "u1" if len(data) < 2 * entries else f"{order}u2"
            data = np.frombuffer(data[: len(data) // 2 * 2], kind)
        return np.atleast_1d(np.asarray(data, np.float64))
    except READ_ERRORS:
        return np.zeros(1)


def _voi(ds: Dataset, values: Floats, counts: NDArray[np.int64]) -> Window | VoiTable | None:
    """VOI LUT Sequence, else the first window (PS3.3 C.11.2), when it shows the image at all."""
    for candidate in (_voi_table(ds, values), _window(ds)):
        if candidate is not None and _shows_something(_Grey(candidate.apply(values), counts)):
            return candidate
    return None


def _voi_table(ds: Dataset, values: Floats) -> VoiTable | None:
    tables = get_items(ds, "VOILUTSequence")
    table = _table(ds, tables[0], signed=bool(values.min() < 0)) if tables else None
    white = 0.0 if table is None else float(table.apply(values).max())
    return VoiTable(table, white) if table is not None and white > 0 else None


def _window(ds: Dataset) -> Window | None:
    centers, widths = get_numbers(ds, "WindowCenter"), get_numbers(ds, "WindowWidth")
    if not centers or not widths:
        return None
    function = get_text(ds, "VOILUTFunction").upper()
    if function in {SIGMOID, LINEAR_EXACT} and widths[0] > 0:
        return Window(centers[0], widths[0], function)
    return Window(centers[0], widths[0]) if widths[0] > 1 else None


def _shows_something(grey: _Grey) -> bool:
    """Refuse windows that render the image black or white, such as a CT window on a DX."""
    low, high = _percentiles(grey, _CONTRAST_PERCENTILES)
    total = max(1, int(grey.counts.sum()))
    black = grey.counts[grey.values <= 0].sum() / total
    white = grey.counts[grey.values >= 1].sum() / total
    return bool(high - low >= _MIN_CONTRAST and max(black, white) <= _MAX_SATURATED)


def _between_percentiles(grey: _Grey) -> Percentiles:
    low, high = _percentiles(grey, _PERCENTILES)
    return Percentiles(low, max(high - low, 1e-9))


def _percentiles(grey: _Grey, percents: tuple[float, float]) -> tuple[float, float]:
    order = np.argsort(grey.values, kind="stable")
    cumulated = np.cumsum(grey.counts[order])
    ranks = np.asarray(percents) / 100.0 * max(1, int(cumulated[-1]))
    places = np.minimum(np.searchsorted(cumulated, ranks), order.size - 1)
    low, high = grey.values[order[places]]
    return float(low), float(high)


def _is_inverse(ds: Dataset) -> bool:
    """Say whether low values are to be shown bright.

    DX says it twice, CR once (PS3.3 C.8.11.3.1.2): it is one inversion.
    """
    shape = get_text(ds, "PresentationLUTShape").upper()
    return get_text(ds, "PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE"


def _pair(ds: Dataset, keyword: str) -> tuple[float, float] | None:
    """Row and column spacing in mm, or None unless both are positive."""
    numbers = get_numbers(ds, keyword)
    if len(numbers) != 2 or min(numbers) <= 0:  # noqa: PLR2004  row, column
        return None
    return numbers[0], numbers[1]


def _aspect(ds: Dataset, spacing: Spacing | None) -> tuple[float, list[str]]:
    """Height of a pixel over its width: from the spacing, else Pixel Aspect Ratio (C.7.6.3.1.7)."""
    if spacing is not None:
        ratio = spacing.row_mm / spacing.column_mm
    elif get_text(ds, "PixelAspectRatio"):
        numbers = get_numbers(ds, "PixelAspectRatio")
        if len(numbers) != 2 or min(numbers) <= 0:  # noqa: PLR2004  vertical, horizontal
            return 1.0, [NOTE_ASPECT]
        ratio = numbers[0] / numbers[1]
    else:
        return 1.0, []
    return (ratio, []) if 1 / _MAX_ASPECT <= ratio <= _MAX_ASPECT else (1.0, [NOTE_ASPECT])


def _is_possible(spacing: Spacing) -> bool:
    """Say whether a detector can have such pixels; areas from others would be nonsense."""
    low, high = _POSSIBLE_PIXEL_MM
    return low <= spacing.row_mm <= high and low <= spacing.column_mm <= high


def _is_plausible(spacing: Spacing, shape: tuple[int, ...]) -> bool:
    low, high = _PLAUSIBLE_WIDTH_MM
    return all(
        low <= size <= high for size in (spacing.row_mm * shape[0], spacing.column_mm * shape[1])
    )
