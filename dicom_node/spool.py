"""The spool: received bytes on durable storage, under keys that the node generates.

spool/incoming/…          being received; the listener's temporary files
spool/ab/ab12….3f….dcm    complete, and durable once it has a row; else the orphan sweep looks at it
"""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dicom_node.errors import SpoolFullError
from dicom_node.receive import ReceivedFile
from models.files import fsync_directory, make_directory, new_key
from models.storage import Store, Stored

_SYNCERS: Final = 16
_SHARDS: Final = [f"{number:02x}" for number in range(256)]  # what `new_key` begins with
_DIGEST_LENGTH: Final = 64  # SHA-256 in hexadecimal


def digest_in(key: str) -> str | None:
    """Return the SHA-256 of the data set that the name of a spool file promises.

    None: the name is of a former release, which gave it after the bytes were durable.
    """
    parts = key.rsplit("/", 1)[-1].split(".")
    return parts[1] if len(parts) == 3 and len(parts[1]) == _DIGEST_LENGTH else None  # noqa: PLR2004  name, digest, dcm


class Spool:
    """The store of received objects, its folder with a free-space floor in bytes."""

    def __init__(self, store: Store, min_free_bytes: int) -> None:
        self.store = store
        self.root = store.root
        self.incoming = store.root / "incoming"
        self.min_free_bytes = min_free_bytes
        make_directory(self.incoming)
        self._make_shards()
        self._syncing = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="fsync")  # starts none yet

    def _make_shards(self) -> None:
        """Make the folders that keys begin with, all at once: one by one each costs two syncs."""
        if (self.root / _SHARDS[-1]).is_dir():
            return
        for shard in _SHARDS:
            (self.root / shard).mkdir(exist_ok=True)
        fsync_directory(self.root)

    def free_bytes(self) -> int:
        """Return the space left on the spool's file system."""
        return shutil.disk_usage(self.root).free

    def require_room(self) -> None:
        """Raise SpoolFullError below the free-space floor."""
        free = self.free_bytes()
        if free < self.min_free_bytes:
            msg = (
                f"the spool has {free} bytes free, below its floor of {self.min_free_bytes}: "
                f"make room on its disk or lower dicom.min_free_bytes"
            )
            raise SpoolFullError(msg)

    def begin_sync(self, received: ReceivedFile) -> None:
        """Have a received file written and synced by another thread."""
        received.begin_sync(self._syncing)

    def keep(self, received: ReceivedFile, key: str) -> None:
        """Make a received file durable under its final name; a file that is there already stays.

        When this returns, the bytes survive a power cut, and a shared storage has them. The name,
        `key_of(received)`, holds the SHA-256 of the data set. Raises SpoolFullError when file or
        folder could not be synced, or the shared storage did not take it; there is no file then.
        """
        if received.is_kept:
            return
        received.sync()
        try:
            received.path = self.store.take_in(received.path, key)
        except OSError as error:
            received.fail(error)
        received.is_kept = True

    def sync(self, key: str) -> None:
        """Make a file durable whose listener may have died before it did. Raises OSError."""
        if self.store.is_shared:
            return  # what it has is durable
        path = self.path(key)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        fsync_directory(path.parent)

    def path(self, key: str) -> Path:
        """Return where the bytes of `key` are on this host. Raises StorageError."""
        return self.store.path(key)

    def delete(self, key: str) -> None:
        """Remove the bytes of `key`; missing is fine."""
        self.store.delete(key)

    def set_aside(self, key: str) -> None:
        """Put a file that is not whole back to the unfinished ones, which are swept."""
        self.path(key).rename(self.incoming / f"{key.rsplit('/', 1)[-1]}.part")
        self.store.delete(key)  # where the file was only a copy

    def keys(self, older_than_seconds: float = 0.0) -> Iterator[str]:
        """Yield the key of every complete file that is at least that old; without an age, of all.

        All are also those that the clock, put back since, dates into the future.
        """
        for each in self.listed():
            if not older_than_seconds or each.modified <= time.time() - older_than_seconds:
                yield each.key

    def listed(self) -> Iterator[Stored]:
        """Yield every complete file."""
        for shard in self.store.shards():
            yield from (each for each in self.store.listed(shard) if each.key.endswith(".dcm"))

    def sweep_incoming(self, older_than_seconds: float) -> int:
        """Remove unfinished files that a killed listener left; return how many.

        Their senders never got a success, so nothing that was promised is lost.
        """
        limit = time.time() - older_than_seconds
        removed = 0
        for path in self.incoming.iterdir():
            if modified(path) <= limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def key_of(received: ReceivedFile) -> str:
    """Return a new storage key for a file whose data set is whole."""
    return new_key(f".{received.data_set_sha256}.dcm")


def modified(path: Path) -> float:
    """Return the time of the last change; of a file that is gone by now: infinitely late."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
