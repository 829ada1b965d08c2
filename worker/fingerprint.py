"""What tells two encodings of one picture from two pictures: a hash over the stored values."""

import hashlib

from pydicom.dataset import Dataset

from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.header import get_numbers
from worker.pixels import decode_pixels


def pixel_sha256(ds: Dataset) -> str:
    """Return the SHA-256 of the decoded values with rows and columns, whatever the encoding.

    Where there is no decoder, or several frames, it is that of the encoded bytes: equal bytes are
    an equal picture all the same. Raises NotAnalysable NO_PIXEL_DATA where there is no picture.
    """
    if not ds.get("PixelData"):
        raise NotAnalysable(Reason.NO_PIXEL_DATA)
    digest = hashlib.sha256()
    try:
        if get_numbers(ds, "NumberOfFrames") not in {(), (1.0,)}:
            raise NotAnalysable(Reason.MULTI_FRAME)  # noqa: TRY301  one way out for what is not decoded
        stored = decode_pixels(ds)
    except NotAnalysable:
        digest.update(b"encoded")
        digest.update(ds.PixelData)
    else:
        digest.update(f"decoded {stored.shape[0]} {stored.shape[1]} ".encode())
        digest.update(stored.astype("<i4").tobytes())
    return digest.hexdigest()
