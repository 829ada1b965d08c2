"""What a host keeps of a shared storage: so many bytes at most, and only what was used lately.

Every file of the folder can be had again, so any may go at any time; one that was used in the last
minutes may be about to be opened, and stays.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 60.0
_IN_USE_SECONDS: Final = 300.0


@dataclass(frozen=True)
class _Kept:
    used: float
    size: int
    path: Path


class Cache:
    """The folder of one store. `make_room` looks at it once a minute at most."""

    def __init__(self, root: Path, most_bytes: int, most_seconds: float) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._next = 0.0
        self._lock = threading.Lock()

    def used(self, path: Path) -> None:
        """Note that a file is in use."""
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LOOK_SECONDS:
                os.utime(path)

    def make_room(self) -> None:
        """Delete what is too old, and the longest unused of what is too much."""
        if time.monotonic() < self._next or not self._lock.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + _LOOK_SECONDS
            self._evict()
        finally:
            self._lock.release()

    def _evict(self) -> None:
        now = time.time()
        total = 0
        for each in sorted(self._kept(), key=lambda kept: kept.used, reverse=True):
            total += each.size
            age = now - each.used
            is_too_much = total > self._most_bytes and age > _IN_USE_SECONDS
            if is_too_much or age > self._most_seconds:
                with contextlib.suppress(OSError):  # the next look tries again
                    each.path.unlink(missing_ok=True)

    def _kept(self) -> Iterator[_Kept]:
        """Yield the files below the shards, those of the kept headers too; nothing else."""
        for shard in (*self._shards("[0-9a-f][0-9a-f]"), *self._shards("*/[0-9a-f][0-9a-f]")):
            for entry in os.scandir(shard):
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    yield _Kept(found.st_mtime, found.st_size, Path(entry.path))

    def _shards(self, pattern: str) -> Iterator[Path]:
        return (each for each in self._root.glob(pattern) if each.is_dir())
