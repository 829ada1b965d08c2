"""A data set on its way to the spool: written and hashed as it comes, never raising.

The file is DICOM Part 10 from its first byte: the file meta information is ours (PS3.10 7.1), the
data set is what the peer sent, byte for byte.
"""

import contextlib
import errno
import hashlib
import logging
import mmap
import secrets
import struct
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Final, NoReturn

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

from dicom_node.direct import Buffers, DirectFile
from dicom_node.errors import SpoolFullError
from dicom_node.types import Peer, StoreRequest

log = logging.getLogger(__name__)

_META_END = 144  # preamble 128, "DICM" 4, (0002,0000) UL 12: what its value counts starts here
_META_LENGTH = slice(140, 144)
_SMALL_BYTES: Final = 1 << 18  # in place of a buffer that cannot be had, to drain into
_TOUCH_SECONDS: Final = 5.0  # far below the age at which a sweep takes a file for a dead listener's
_HEAD_BYTES: Final = 1 << 16  # of the data set, kept for reading its identity: less than a buffer


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

    What comes is put into `room()` and told of by `filled()`. After a failed write it drains: bytes
    are dropped, the association lives on, and the C-STORE handler finds the error and answers
    0xA700. The last part is written and synced by `sync`, or by `begin_sync` beside other work.
    """

    def __init__(self, folder: Path, meta: bytes, buffers: Buffers | None = None) -> None:
        self.error: OSError | None = None
        self.size = 0  # of the file, in bytes
        self.data_set_offset = len(meta)
        self.is_kept = False  # durable under its final name
        self._digest = hashlib.sha256()
        self._head: bytes | None = None
        self._held = self._hashed = 0  # bytes in the buffer; how many of them are hashed
        self._touched = time.monotonic()
        self._is_finished = self._is_synced = False
        self._syncing: Future[None] | None = None
        self._file: DirectFile | None = None
        self.path = folder / "unopened"
        self._buffers = buffers or Buffers()
        self._buffer: mmap.mmap | None = None
        path = folder / f"{secrets.token_hex(16)}.part"
        try:
            self._buffer = self._buffers.take()
            self._file = DirectFile(path)
            self.path = path
        except OSError as error:
            self.error = error
        self._view = memoryview(self._buffer or bytearray(_SMALL_BYTES))
        self._view[: len(meta)] = meta
        self._held = self._hashed = self.size = len(meta)

    def room(self) -> memoryview:
        """Return where the next bytes of the data set may be put; there is always some room."""
        if self._held == len(self._view):
            self._write_out()
            if self.error is not None:
                self._remove()  # its room is for others
            self._hash()
            self._head = self.head
            self._held = self._hashed = 0
        return self._view[self._held :]

    def filled(self, count: int) -> None:
        """Take over the first `count` bytes of what `room()` returned."""
        self._held += count
        self.size += count
        now = time.monotonic()
        if now - self._touched > _TOUCH_SECONDS:
            self._touch(now)

    def _touch(self, now: float) -> None:
        """Let sweeps see that somebody sends, however slowly: the buffer is written when full."""
        self._touched = now
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.touch()

    def write(self, data: memoryview) -> None:
        """Append bytes of the data set from elsewhere."""
        while data:
            room = self.room()
            count = min(len(room), len(data))
            room[:count] = data[:count]
            self.filled(count)
            data = data[count:]

    @property
    def head(self) -> bytes:
        """The first bytes of the data set, _HEAD_BYTES at most."""
        if self._head is not None:
            return self._head
        end = min(self._held, self.data_set_offset + _HEAD_BYTES)
        return bytes(self._view[self.data_set_offset : end])

    @property
    def data_set_sha256(self) -> str:
        """SHA-256 of the data set so far, in hexadecimal."""
        self._hash()
        return self._digest.hexdigest()

    def _hash(self) -> None:
        begin, self._hashed = self._hashed, self._held
        self._digest.update(self._view[begin : self._held])

    def _write_out(self) -> None:
        """Write the buffer, or drop it after an earlier failure."""
        if self.error is not None or self._file is None:
            return
        try:
            self._file.write(self._view[: self._held])
        except OSError as error:
            self.error = error

    def finish(self) -> None:
        """Write what is still in the buffer: the data set is whole. Twice is fine."""
        self._wait()
        if not self._is_finished:
            self._is_finished = True
            self._write_out()

    def begin_sync(self, executor: Executor) -> None:
        """Finish, and make the bytes durable, in another thread; `sync` waits for it.

        Raises SpoolFullError when bytes before could not be written.
        """
        self._require_sound()
        done = Future[None]()
        try:
            executor.submit(self._finish_and_sync, done)
        except RuntimeError:  # no thread can be started; one that runs may take it nevertheless
            if done.cancel():
                return  # `sync` does it
        self._syncing = done

    def _finish_and_sync(self, done: "Future[None]") -> None:
        if not done.set_running_or_notify_cancel():
            return
        try:
            if not self._is_finished:
                self._is_finished = True
                self._write_out()
            self._sync_file()
        except Exception as error:
            log.exception("a received file could not be synced")
            self.error = OSError(errno.EIO, type(error).__name__)
        finally:
            done.set_result(None)

    def _sync_file(self) -> None:
        if self.error is not None or self._file is None:
            return
        try:
            self._file.sync()
            self._is_synced = True
        except OSError as error:
            self.error = error

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.result()

    def require_written(self) -> None:
        """Finish. Raises SpoolFullError when any of the bytes could not be written."""
        self.finish()
        self._require_sound()

    def _require_sound(self) -> None:
        if self.error is not None:
            self.fail(self.error)

    def fail(self, error: OSError) -> NoReturn:
        """Remove the file, for good. Raises SpoolFullError, now and whenever it is to be synced."""
        self.error = error
        self._remove()
        msg = f"the spool's disk refused the data set: {error.strerror}"
        raise SpoolFullError(msg) from error

    def sync(self) -> None:
        """Make the bytes durable, once. Raises SpoolFullError when they cannot be."""
        self.finish()
        if not self._is_synced:
            self._sync_file()
        self._require_sound()

    def discard(self) -> None:
        """End the use of the file; remove it, unless the spool has it."""
        self._wait()
        if self.is_kept:
            self.close()
        else:
            self._remove()
        if self._view:
            self._view.release()
            self._view = memoryview(b"")
            self._held = self._hashed = 0
            if self._buffer is not None:
                self._buffers.give_back(self._buffer)

    def _remove(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file is not None:
            self._file.close()


class Reception:
    """The files being received in this process, into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buffers = Buffers()
        self._files: set[ReceivedFile] = set()
        self._lock = threading.Lock()

    def open(self, request: StoreRequest, peer: Peer) -> ReceivedFile:
        """Begin a file; it never raises (ReceivedFile)."""
        received = ReceivedFile(self._folder, file_meta(request, peer), self._buffers)
        with self._lock:
            self._files.add(received)
        return received

    def end(self, received: ReceivedFile) -> None:
        """Remove what is left of the file in `incoming`: nothing, once the spool keeps it."""
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
