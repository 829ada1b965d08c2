"""The beginning of a Part 10 file that comes in pieces: what is it, and where its data set begins.

The file meta information of the sender is read and not kept: the node writes its own (PS3.10 7.1).
"""

import struct
from collections.abc import Iterator
from typing import Final

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.errors import NotUnderstoodError
from dicom_node.types import StoreRequest

_PREAMBLE: Final = 128
_PREFIX: Final = b"DICM"
_START: Final = _PREAMBLE + len(_PREFIX)
_GROUP: Final = 0x0002
_MAX_META: Final = 1 << 16  # bytes; a longer one holds more than PS3.10 gives it
_MAX_UID: Final = 64  # PS3.5 9.1
_UID_CHARACTERS: Final = frozenset("0123456789.")
_LONG_VRS: Final = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)
_SOP_CLASS, _SOP_INSTANCE, _SYNTAX = 0x0002, 0x0003, 0x0010


def read_meta(pieces: Iterator[bytes]) -> tuple[StoreRequest, bytes]:
    """Return what the file meta information names, and the first bytes of the data set.

    Raises NotUnderstoodError when this is no Part 10 file, or one of its UIDs is missing.
    """
    held = _Held(pieces)
    if held.at(_PREAMBLE, len(_PREFIX)) != _PREFIX:
        msg = "the part is no DICOM file (PS3.10)"
        raise NotUnderstoodError(msg)
    values: dict[int, bytes] = {}
    at = _START
    while True:
        head = held.at(at, 12)
        group, element, vr, short = struct.unpack("<HH2sH", head[:8])
        if group != _GROUP:
            break
        is_long = vr in _LONG_VRS
        length = struct.unpack("<L", head[8:])[0] if is_long else short
        at += 12 if is_long else 8
        if at + length > _MAX_META:
            msg = "the file meta information is too long"
            raise NotUnderstoodError(msg)
        values[element] = held.at(at, length)
        at += length
    request = StoreRequest(
        sop_class_uid=_uid(values, _SOP_CLASS),
        sop_instance_uid=_uid(values, _SOP_INSTANCE),
        transfer_syntax_uid=_uid(values, _SYNTAX),
    )
    return request, held.rest(at)


def _uid(values: dict[int, bytes], element: int) -> str:
    text = values.get(element, b"").decode("latin-1").strip("\0 ")
    if not text or len(text) > _MAX_UID or not _UID_CHARACTERS.issuperset(text):
        msg = f"the file meta information lacks a UID: (0002,{element:04X})"
        raise NotUnderstoodError(msg)
    return text


class _Held:
    """What has come so far."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._data = pieces, b""

    def at(self, start: int, length: int) -> bytes:
        """Return bytes, when they have come. Raises NotUnderstoodError when they do not."""
        while len(self._data) < start + length:
            piece = next(self._pieces, None)
            if piece is None:
                msg = "the part ends before its data set begins"
                raise NotUnderstoodError(msg)
            self._data += piece
        return self._data[start : start + length]

    def rest(self, start: int) -> bytes:
        """Return what came behind."""
        return self._data[start:]
