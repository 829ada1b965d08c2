"""The picture of a case: JPEG, PNG or DICOM to upright pixels on 0..65535, bright = dense.

A DICOM image is shown as a viewer shows it (Modality LUT, VOI LUT, MONOCHROME1) and turned upright
by its Patient Orientation; a picture is taken to be upright and bright = dense already.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.errors import NotAnalysable
from worker.types import Orientation

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png"})
_DICOM: Final = frozenset({"", ".dcm", ".dicom"})
_WHITE: Final = 65535


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a file as stored, and how to turn them upright."""

    shape: tuple[int, int]
    orientation: Orientation


def is_picture(path: Path) -> bool:
    """Say whether the name is that of a JPEG or PNG."""
    return path.suffix.lower() in _PICTURES


def is_dicom(path: Path) -> bool:
    """Say whether the name is that of a DICOM file: `.dcm`, `.dicom`, none, or a bare UID."""
    return path.suffix.lower() in _DICOM or path.suffix[1:].isdigit()


def read_pixels(path: Path) -> NDArray[np.uint16]:
    """Decode to upright uint16 (rows, columns) on 0..65535, bright = dense.

    8-bit pictures are stretched to 16 bits, 16-bit ones taken as they are.
    Raises ValueError with one sentence when the file is not readable.
    """
    if is_dicom(path):
        return _dicom_pixels(path)
    with _opened(path) as picture:
        try:
            deep = picture.mode.startswith("I")  # 16-bit grey: "I;16", in older files "I"
            grey = np.asarray(picture if deep else picture.convert("L")).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            msg = "the picture is damaged or cut off"
            raise ValueError(msg) from error
    return np.clip(grey if deep else grey * 257, 0, _WHITE).astype(np.uint16)


def read_grid(path: Path) -> Grid:
    """Read the size of the stored picture and its orientation without decoding it.

    Raises ValueError with one sentence when the file is not readable.
    """
    if not is_dicom(path):
        with _opened(path) as picture:
            return Grid((picture.height, picture.width), Orientation())
    from worker import header, pixels  # noqa: PLC0415  needs the image codecs

    ds = _data_set(path, decoded=False)
    size = [int(n) for keyword in ("Rows", "Columns") for n in header.get_numbers(ds, keyword)]
    if len(size) != 2:  # noqa: PLR2004  rows, columns
        msg = "the DICOM file holds no image"
        raise ValueError(msg)
    return Grid((size[0], size[1]), pixels.orientation_of(ds))


def _opened(path: Path) -> Image.Image:
    if not path.is_file():
        msg = "there is no such file"
        raise ValueError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path, formats=("JPEG", "PNG"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        msg = "the picture is too large"
        raise ValueError(msg) from error
    except (OSError, SyntaxError) as error:
        msg = "this is no JPEG or PNG picture"
        raise ValueError(msg) from error


def _data_set(path: Path, *, decoded: bool) -> "Dataset":
    from worker import header  # noqa: PLC0415  needs pydicom

    if not path.is_file():
        msg = "there is no such file"
        raise ValueError(msg)
    try:
        return header.read_data_set(path, pixels=decoded)
    except NotAnalysable as error:
        raise ValueError(error.detail) from error


def _dicom_pixels(path: Path) -> NDArray[np.uint16]:
    from worker import pixels  # noqa: PLC0415  needs the image codecs

    ds = _data_set(path, decoded=True)
    try:
        shown, _ = pixels.display_scale(ds, pixels.decode_pixels(ds))
    except NotAnalysable as error:
        raise ValueError(error.detail) from error
    upright = pixels.orientation_of(ds).to_upright(shown)
    return np.ascontiguousarray(upright, dtype=np.uint16)
