"""What stays of a purged object: its Part 10 file up to the pixels, byte for byte.

A late image of the same study makes a report that names this one too, and a corrected header is
compared with this one. Both need what stands in front of the pixels, and nothing behind.
"""

import zlib
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.receive import data_set_offset
from models.files import HEADERS
from models.storage import Store

_MAX_BYTES: Final = 16 << 20  # a longer header is kept by keeping the file
_ENCAPSULATED_DOCUMENT: Final = 0x00420011  # PS3.3 C.24.2
_PIXEL_GROUP: Final = 0x7FE0


def keep_header(store: Store, storage_key: str) -> bool:
    """Write the elements in front of the pixels beside, durably; say whether there are any pixels.

    False: nothing was written, because the file has no pixels (and no document), cannot be parsed,
    or has a header above 16 MiB. Raises OSError when the file cannot be read, or the storage is
    full or away.
    """
    head = _head(store.path(storage_key))
    if head is None:
        return False
    store.write(f"{HEADERS}/{storage_key}", head)
    return True


def _head(path: Path) -> bytes | None:
    """Return file meta and data set up to the pixels."""
    try:
        syntax = UID(str(read_file_meta_info(path).TransferSyntaxUID))
        offset = data_set_offset(path)
        with path.open("rb") as file:
            before = file.read(offset)
            data = file.read(_MAX_BYTES)
        is_deflated = syntax == DeflatedExplicitVRLittleEndian
        if is_deflated:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _MAX_BYTES)
        end = _end_of_header(data, syntax)
    except OSError:
        raise
    except Exception:  # noqa: BLE001  hostile bytes, any error: its file is all that can be kept
        return None
    if end is None:
        return None
    return before + (_deflated(data[:end]) if is_deflated else data[:end])


def _end_of_header(data: bytes, syntax: UID) -> int | None:
    """Return where the pixels start; None where there are none."""
    stream, found = BytesIO(data), []

    def is_bulk(tag: int, _vr: str | None, _length: int) -> bool:
        if tag == _ENCAPSULATED_DOCUMENT or tag >> 16 == _PIXEL_GROUP:
            found.append(tag)
        return bool(found)

    read_dataset(
        stream,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax.is_little_endian,
        stop_when=is_bulk,
    )
    return stream.tell() if found else None


def _deflated(data: bytes) -> bytes:
    """Return a raw deflate stream (PS3.5 A.5)."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()
