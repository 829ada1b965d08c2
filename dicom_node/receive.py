"""A data set on its way to the spool: written and hashed as it comes, never raising.

The file is DICOM Part 10 from its first byte: the file meta information is ours (PS3.10 7.1), the
data set is what the peer sent, byte for byte.
"""

import contextlib
import hashlib
import os
import secrets
import struct
import threading
from pathlib import Path
from typing import Final

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from dicom_node.errors import SpoolFullError
from dicom_node.types import Peer, StoreRequest

_META_END = 144  # preamble 128, "DICM" 4, (0002,0000) UL 12: what its value counts starts here
_META_LENGTH = slice(140, 144)
_AHEAD_BYTES: Final = 1 << 20  # written between two hints to the disk
_HEAD_BYTES: Final = 1 << 16  # of the data set, kept for reading its identity


def file_meta(request: StoreRequest, peer: Peer) -> bytes:
    """Return preamble, prefix and file meta information of one object (PS3.10 7.1).

    With the sender's AE title in it, so that a file without a row still knows where it came from.
    """
    elements = b"".join(
        (
            struct.pack("<HH2s2xL", 2, 0x0001, b"OB", 2) + b"\x00\x01",
            _text(0x0002, b"UI", request.sop_class_uid),
            _text(0x0003, b"UI", request.sop_instance_uid),
            _text(0x0010, b"UI", request.transfer_syntax_uid),
            _text(0x0012, b"UI", PYDICOM_IMPLEMENTATION_UID),
            _text(0x0016, b"AE", peer.calling_aet),
            _text(0x0018, b"AE", peer.called_aet),
        )
    )
    length = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + length + elements


def _text(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


class ReceivedFile:
    """A temporary file that never raises while receiving.

    After a failed write it drains: bytes are dropped, the association lives on, and the C-STORE
    handler finds the error and answers 0xA700.
    """

    def __init__(self, folder: Path, meta: bytes) -> None:
        self.error: OSError | None = None
        self.size = 0  # of the file, in bytes
        self.head = b""  # the first bytes of the data set
        self.data_set_offset = len(meta)
        self._digest = hashlib.sha256()
        self._descriptor = -1
        self._begun = 0  # bytes that the disk was told to write
        self.path = folder / "unopened"
        path = folder / f"{secrets.token_hex(16)}.part"
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self.path = path
        except OSError as error:
            self.error = error
        self._append(memoryview(meta))

    def write(self, data: memoryview) -> None:
        """Append bytes of the data set, or drop them after an earlier failure."""
        if len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
        self._digest.update(data)
        self._append(data)

    def _append(self, data: memoryview) -> None:
        self.size += len(data)
        if self.error is not None:
            return
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            if self.size - self._begun >= _AHEAD_BYTES:
                self._hint()
        except OSError as error:
            self.error = error
            self.discard()

    def _hint(self) -> None:
        """Have the disk begin, else all of it waits for the fsync. Not every system knows how."""
        new = self.size - self._begun
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, self._begun, new, os.POSIX_FADV_DONTNEED)
        self._begun = self.size

    @property
    def data_set_sha256(self) -> str:
        """SHA-256 of the data set so far, in hexadecimal."""
        return self._digest.hexdigest()

    def require_written(self) -> None:
        """Raise SpoolFullError when any of the bytes could not be written."""
        if self.error is not None:
            self.discard()
            msg = f"the spool's disk refused the data set: {self.error.strerror}"
            raise SpoolFullError(msg) from self.error

    def sync(self) -> None:
        """Make the bytes durable. Raises SpoolFullError when they cannot be."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.error = error
        self.require_written()
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and remove the file, unless the spool has it already."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Reception:
    """The files being received in this process, into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: set[ReceivedFile] = set()
        self._lock = threading.Lock()

    def open(self, request: StoreRequest, peer: Peer) -> ReceivedFile:
        """Begin a file; it never raises (ReceivedFile)."""
        received = ReceivedFile(self._folder, file_meta(request, peer))
        with self._lock:
            self._files.add(received)
        return received

    def end(self, received: ReceivedFile) -> None:
        """Remove what is left of the file in `incoming`: nothing, once the spool adopted it."""
        with self._lock:
            self._files.discard(received)
        received.discard()

    def __len__(self) -> int:
        """Return how many files are being received or wait for their answer."""
        return len(self._files)


def data_set_offset(path: Path) -> int:
    """Return where the data set starts in a Part 10 file that a `ReceivedFile` wrote."""
    with path.open("rb") as file:
        head = file.read(_META_END)
    return _META_END + int.from_bytes(head[_META_LENGTH], "little")
