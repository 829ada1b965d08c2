"""The spool: received bytes on durable storage, under keys that the node generates.

spool/incoming/…          being received; the listener's temporary files
spool/ab/ab12….dcm        complete, fsynced, renamed; has a row, or gets one by the orphan sweep
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dicom_node.errors import SpoolFullError
from models.files import make_directory, new_key, publish


class Spool:
    """One folder of received objects with a free-space floor in bytes."""

    def __init__(self, root: Path, min_free_bytes: int) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self.min_free_bytes = min_free_bytes
        make_directory(self.incoming)

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

    def adopt(self, received: Path) -> str:
        """Give a fsynced file from `incoming` its final name and return its storage key.

        When this returns, the bytes survive a power cut.
        """
        key = new_key(".dcm")
        publish(received, self.path(key))
        return key

    def path(self, key: str) -> Path:
        """Return where the bytes of `key` are."""
        return self.root / key

    def delete(self, key: str) -> None:
        """Remove the bytes of `key`; missing is fine."""
        self.path(key).unlink(missing_ok=True)

    def keys(self, older_than_seconds: float = 0.0) -> Iterator[str]:
        """Yield the key of every complete file that is at least that old."""
        limit = time.time() - older_than_seconds
        for shard in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            for entry in os.scandir(shard):
                if entry.name.endswith(".dcm") and _modified(Path(entry.path)) <= limit:
                    yield f"{shard.name}/{entry.name}"

    def sweep_incoming(self, older_than_seconds: float) -> int:
        """Remove unfinished files that a killed listener left; return how many.

        Their senders never got a success, so nothing that was promised is lost.
        """
        limit = time.time() - older_than_seconds
        removed = 0
        for path in self.incoming.iterdir():
            if _modified(path) <= limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def _modified(path: Path) -> float:
    """Return the time of the last change; of a file that is gone by now: infinitely late."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
