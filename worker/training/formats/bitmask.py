"""A one-channel 8-bit PNG whose bits say what a pixel is.

1 left lung, 2 right lung, 4 ground glass, 8 consolidation; opacity is either of the last two. The
patient's left is at the right of the picture.
"""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from worker.training.formats.regions import check_size
from worker.types import Mask

_LEFT, _RIGHT, _OPACITY = 1, 2, 4 | 8
_ALL: Final = _LEFT | _RIGHT | _OPACITY


def read(path: Path, shape: tuple[int, int], _image: Path) -> tuple[Mask, Mask, Mask]:
    """Read (left, right, opacity); raises ValueError when the PNG is no bit mask of that size."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            mode, bits = picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        msg = "it is no readable PNG"
        raise ValueError(msg) from error
    if mode not in {"L", "P"}:
        msg = f"a bit mask is an 8-bit PNG of one channel, this one has mode {mode}"
        raise ValueError(msg)
    check_size((bits.shape[0], bits.shape[1]), shape)
    if bits.max(initial=0) > _ALL:
        msg = f"it holds the value {bits.max()}; the bits of a mask add up to {_ALL} at most"
        raise ValueError(msg)
    return (bits & _LEFT) > 0, (bits & _RIGHT) > 0, (bits & _OPACITY) > 0
