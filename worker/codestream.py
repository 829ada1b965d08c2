"""What a compressed image says of itself, before a codec is let at it."""

from typing import Final

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.header import READ_ERRORS

DECODE_ERRORS: Final = (*READ_ERRORS, RuntimeError)

# JPEG, JPEG-LS and JPEG 2000 streams end with this marker; a cut stream may decode without it.
_ENDS_WITH_MARKER: Final = tuple(f"1.2.840.10008.1.2.4.{n}" for n in ("5", "7", "8", "9", "20"))
_END_OF_IMAGE: Final = b"\xff\xd9"
_TAIL_BYTES: Final = 1024

# ISO/IEC 10918-1 B.1.1.3 and 14495-1 C.1.1: a stream of JPEG or JPEG-LS starts with SOI; its frame
# header is SOF0 to SOF15 (C4, C8 and CC are others' codes) or SOF55.
_START_OF_IMAGE: Final = b"\xff\xd8"
_FRAME_HEADERS: Final = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN: Final = 0xDA
_FILL: Final = 0xFF
_SIZE_AT: Final = 5  # after marker, length and precision


def check_stream(ds: Dataset) -> None:
    """Raise NotAnalysable CORRUPT_PIXELS for a stream that is cut or of another size than declared.

    The end of other than JPEG streams is not looked for, and a size that is not found is no fault:
    the decoded image is measured too. But gdcm ends the process over some that differ.
    """
    if not str(ds.file_meta.TransferSyntaxUID).startswith(_ENDS_WITH_MARKER):
        return
    try:
        frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    except (*DECODE_ERRORS, StopIteration) as error:
        raise NotAnalysable(Reason.CORRUPT_PIXELS) from error
    if _END_OF_IMAGE not in frame[-_TAIL_BYTES:]:
        raise NotAnalysable(Reason.CORRUPT_PIXELS, "The compressed image is cut off.")
    size = _size(frame)
    if size is not None and size != (int(ds.Rows), int(ds.Columns)):
        raise NotAnalysable(Reason.CORRUPT_PIXELS)


def _size(frame: bytes) -> tuple[int, int] | None:
    """Return lines and columns of a JPEG or JPEG-LS stream; None where it does not say."""
    if not frame.startswith(_START_OF_IMAGE):
        return None
    at = len(_START_OF_IMAGE)
    while at + _SIZE_AT + 4 <= len(frame) and frame[at] == _FILL:
        marker = frame[at + 1]
        if marker == _FILL:
            at += 1
        elif marker == _START_OF_SCAN:
            return None
        elif marker in _FRAME_HEADERS:
            size = frame[at + _SIZE_AT : at + _SIZE_AT + 4]
            lines, columns = int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
            return (lines, columns) if lines and columns else None  # 0: said elsewhere
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
