"""The anchor: every seal on a line of a file outside of the database, so that a cut tail shows."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from models.files import make_directory
from models.seal import AuditSeal
from models.settings import Settings

_TAIL_BYTES: Final = 4096  # more than any line has
_MODE: Final = 0o640
_HIGHEST: Final = (1 << 31) - 1  # that the column of the number holds


@dataclass(frozen=True)
class Anchored:
    """What the anchor says of a seal."""

    number: int
    mac: str
    sealed_at: str
    last_event_id: int


def anchor_path(settings: Settings) -> Path:
    """Return where the anchor is."""
    return settings.audit.anchor_file or settings.data_dir / "audit-anchor.log"


def line_of(seal: AuditSeal) -> str:
    """Return a seal as the anchor, the log and syslog have it."""
    values = {
        "number": seal.number,
        "mac": seal.mac,
        "sealed_at": seal.sealed_at.isoformat(timespec="milliseconds"),
        "events": seal.events,
        "last_event_id": seal.last_event_id,
        "key_id": seal.key_id,
    }
    return json.dumps(values)


def append(path: Path, seals: list[AuditSeal]) -> None:
    """Write seals behind what is there, durably, all or none. Raises OSError."""
    make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        start = _end_last_line(descriptor)
        _write(descriptor, start + "".join(f"{line_of(seal)}\n" for seal in seals).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    """Write all, or leave the file as it was unless others write too. Raises OSError."""
    before = os.fstat(descriptor).st_size
    written = os.write(descriptor, data)
    if written < len(data):
        if os.fstat(descriptor).st_size == before + written:
            os.ftruncate(descriptor, before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _end_last_line(descriptor: int) -> bytes:
    """Cut off a last line that was not written to its end; return what is to come before ours.

    One that says something, or is no such rest, or cannot be cut off stays as a line of its own.
    """
    size = os.fstat(descriptor).st_size
    start = max(0, size - _TAIL_BYTES)
    tail = os.pread(descriptor, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return b""
    before = tail.rfind(b"\n") + 1
    is_rest = (before > 0 or start == 0) and _parse(tail[before:]) is None
    if is_rest:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, start + before)
            return b""
    return b"\n"


def last_anchored(path: Path) -> Anchored | None:
    """Return the last seal in the file that can be read; None: there is none. Raises OSError."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read().splitlines()
    except FileNotFoundError:
        return None
    found = [anchored for line in tail if (anchored := _parse(line)) is not None]
    return found[-1] if found else None


def size_of(path: Path) -> int:
    """Return how many bytes the file has now; one that cannot be looked at has none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def every_anchored(path: Path, size: int | None = None) -> Iterator[tuple[int, Anchored | None]]:
    """Yield each line with its number, as what it says; None: it says nothing. Raises OSError.

    With a size only the lines that begin within so many bytes.
    """
    read = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if size is not None and read >= size:
                return
            read += len(line)
            yield number, _parse(line)


def _parse(line: bytes) -> Anchored | None:
    try:
        said: Any = json.loads(line)
        anchored = Anchored(
            int(said["number"]),
            str(said["mac"]),
            str(said["sealed_at"]),
            int(said["last_event_id"]),
        )
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        return None
    return anchored if 0 < anchored.number <= _HIGHEST else None
