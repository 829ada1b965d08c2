"""New files that go to the disk past the page cache (O_DIRECT), from buffers that are used again.

What is synced before the answer gains nothing from a copy in memory, and pays for it: writing 10 MB
into the page cache and syncing them takes 27 ms on the machine of docs/performance.md, 17 of them
processor time; written directly it is 4 and 1. A file system without O_DIRECT gets ordinary writes.
"""

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path
from typing import Final

BUFFER_BYTES: Final = 1 << 20
_BLOCK: Final = 4096  # a multiple of every disk's logical block
_KEPT: Final = 8  # buffers that wait for their next file
_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_NOT_DIRECTLY: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})  # open(2), write(2)


class Buffers:
    """Page-aligned buffers of BUFFER_BYTES. For use by any number of threads.

    A fresh one costs a page fault per 4 kB, more than writing what it holds.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self) -> mmap.mmap:
        """Return a buffer; what stands in it is of no meaning."""
        with self._lock:
            if self._free:
                return self._free.pop()
        return mmap.mmap(-1, BUFFER_BYTES)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Take a buffer that nobody uses any more."""
        with self._lock:
            if len(self._free) < _KEPT:
                self._free.append(buffer)


class DirectFile:
    """A new file that is written once, from its start to its end. Raises OSError throughout."""

    def __init__(self, path: Path) -> None:
        self.descriptor, self._is_direct = _create(path)

    def write(self, data: memoryview) -> None:
        """Append the beginning of a page-aligned buffer.

        Whole blocks go past the page cache. After the first piece that is none, which is as a rule
        the end of the file, and after the first one that the file system refuses so, nothing does.
        """
        whole = len(data) - len(data) % _BLOCK if self._is_direct else 0
        done = 0
        while done < len(data):
            if self._is_direct and done >= whole:
                self._through_cache()
            end = whole if self._is_direct else len(data)
            try:
                done += os.write(self.descriptor, data[done:end])
            except OSError as error:
                if error.errno not in _NOT_DIRECTLY or not self._is_direct:
                    raise
                self._through_cache()

    def _through_cache(self) -> None:
        flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        self._is_direct = False

    def touch(self) -> None:
        """Set the time of the last change to now."""
        if self.descriptor >= 0:
            os.utime(self.descriptor)

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _create(path: Path) -> tuple[int, bool]:
    """Create the file; return its descriptor, and whether it is written past the page cache."""
    try:
        return os.open(path, _NEW | _DIRECT, 0o600), bool(_DIRECT)
    except OSError as error:
        if error.errno not in _NOT_DIRECTLY:
            raise
    path.unlink(missing_ok=True)  # open(2): it may have been created nevertheless
    return os.open(path, _NEW, 0o600), False
