"""A data set on its way to the spool."""

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicom_node.direct import BUFFER_BYTES, Buffers
from dicom_node.errors import SpoolFullError
from dicom_node.receive import ReceivedFile
from dicom_node.spool import Spool, digest_in, key_of
from models.storage import Store

_BLOCK = 4096
_META = b"meta"
# Around the ends of a block and of a buffer, the four bytes in front included.
_LENGTHS = [
    *(0, 1, _BLOCK - 5, _BLOCK - 4, _BLOCK - 3, BUFFER_BYTES - 5, BUFFER_BYTES - 4),
    *(BUFFER_BYTES - 3, 2 * BUFFER_BYTES - 4, 2 * BUFFER_BYTES + 7, 3 * BUFFER_BYTES - 3),
]


def _drawn(length: int) -> bytes:
    return hashlib.shake_128(str(length).encode()).digest(length)


@pytest.mark.parametrize("length", _LENGTHS)
@pytest.mark.parametrize("beside", [True, False])
def test_every_byte_arrives(tmp_path: Path, length: int, *, beside: bool) -> None:
    data = _drawn(length)
    buffers = Buffers()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # the second file gets a buffer that was used before
            received = ReceivedFile(tmp_path, _META, buffers)
            received.write(memoryview(data))
            if beside:
                received.begin_sync(pool)
            assert received.head == data[: 1 << 16]
            assert received.data_set_sha256 == hashlib.sha256(data).hexdigest()
            received.sync()
            assert received.size == len(_META) + length
            assert received.path.read_bytes() == _META + data
            received.discard()
            assert not any(tmp_path.iterdir())


def test_a_file_system_without_direct_writes_takes_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    refused = []

    def open_cached(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if flags & os.O_DIRECT:
            opened(path, flags & ~os.O_DIRECT, mode, **options)  # open(2): it may be there then
            refused.append(path)
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", open_cached)
    received = ReceivedFile(tmp_path, _META)
    received.write(memoryview(_drawn(3 << 20)))
    received.sync()
    assert refused == [received.path]
    assert received.path.read_bytes() == _META + _drawn(3 << 20)


def test_a_disk_with_larger_blocks_takes_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses the first direct write; the rest goes through the page cache."""
    written = os.write
    refused = []

    def write(descriptor: int, data: memoryview) -> int:
        if not refused:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        return written(descriptor, data[:100_000])  # and never all of it at once

    monkeypatch.setattr(os, "write", write)
    received = ReceivedFile(tmp_path, _META)
    received.write(memoryview(_drawn(3 << 20)))
    received.sync()
    assert refused == [BUFFER_BYTES]
    assert received.path.read_bytes() == _META + _drawn(3 << 20)


@pytest.mark.parametrize("name", ["write", "fsync"])
@pytest.mark.parametrize("length", [1000, 3 << 20])
@pytest.mark.parametrize("beside", [True, False])
def test_what_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, length: int, *, beside: bool
) -> None:
    spool = Spool(Store(tmp_path / "spool"), 0)

    def refuse(_descriptor: int, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, refuse)
    received = ReceivedFile(spool.incoming, _META)
    received.write(memoryview(_drawn(length)))
    store = _begin_and_sync if beside else ReceivedFile.sync
    with pytest.raises(SpoolFullError, match="No space left on device"):
        store(received)
    received.discard()
    assert not any(path.is_file() for path in spool.root.rglob("*"))


def _begin_and_sync(received: ReceivedFile) -> None:
    with ThreadPoolExecutor(1) as pool:
        received.begin_sync(pool)
        received.sync()


@pytest.mark.parametrize("failing", [1, 2])  # the sync of the file, that of its folder
def test_a_sync_that_failed_once_is_not_believed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The kernel forgets what it could not write: the next fsync may well succeed."""
    spool = Spool(Store(tmp_path / "spool"), 0)
    received = ReceivedFile(spool.incoming, _META)
    received.write(memoryview(_drawn(1000)))
    synced, calls = os.fsync, count(1)

    def sync(descriptor: int) -> None:
        if next(calls) == failing:
            raise OSError(errno.EIO, "Input/output error")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    for _ in range(2):
        with pytest.raises(SpoolFullError, match="Input/output error"):
            spool.keep(received, key_of(received))
    received.discard()
    assert not any(path.is_file() for path in spool.root.rglob("*"))


@pytest.mark.parametrize("beside", [True, False])
def test_what_the_spool_keeps_stays(tmp_path: Path, *, beside: bool) -> None:
    spool = Spool(Store(tmp_path / "spool"), 0)
    received = ReceivedFile(spool.incoming, _META)
    received.write(memoryview(_drawn(1000)))
    if beside:
        spool.begin_sync(received)
    key = key_of(received)
    assert digest_in(key) == hashlib.sha256(_drawn(1000)).hexdigest()
    spool.path(key).parent.rmdir()  # as after a restore
    for _ in range(2):
        spool.keep(received, key)
    received.discard()
    assert spool.path(key).read_bytes() == _META + _drawn(1000)
    assert not any(spool.incoming.iterdir())


def test_a_slow_sender_is_not_taken_for_a_dead_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than a buffer comes for minutes: nothing is written, and the sweep leaves it alone."""
    monkeypatch.setattr("dicom_node.receive._TOUCH_SECONDS", 0.05)
    spool = Spool(Store(tmp_path / "spool"), 0)
    received = ReceivedFile(spool.incoming, _META)
    for number in range(10):
        received.write(memoryview(bytes([number])))
        time.sleep(0.1)
        assert spool.sweep_incoming(0.5) == 0
    spool.keep(received, key_of(received))
    received.discard()
    left = ReceivedFile(spool.incoming, _META)
    time.sleep(0.6)
    assert spool.sweep_incoming(0.5) == 1
    left.discard()


def test_without_memory_for_a_buffer_the_data_set_is_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    received = ReceivedFile(tmp_path, _META)
    received.write(memoryview(_drawn(3 << 20)))
    with pytest.raises(SpoolFullError, match="Cannot allocate memory"):
        received.sync()
    received.discard()
    assert not any(tmp_path.iterdir())


def test_an_error_of_ours_beside_the_reader_is_the_objects_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = Buffers()
    received = ReceivedFile(tmp_path, _META, buffers)
    received.write(memoryview(_drawn(1000)))

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(SpoolFullError, match="MemoryError"):
        _begin_and_sync(received)
    received.discard()
    assert not any(tmp_path.iterdir())
    assert len(buffers._free) == 1


class _NoThreads(ThreadPoolExecutor):
    """Puts a job into its queue and then finds that no thread can be started."""

    def submit(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        self.job = partial(function, *arguments)
        self.start()
        msg = "can't start new thread"
        raise RuntimeError(msg)

    def start(self) -> None:
        """Nobody takes the job."""

    def end(self) -> None:
        """Somebody takes it when its file has ended."""
        self.job()


class _OneThread(_NoThreads):
    def start(self) -> None:
        """Somebody who was there already takes it."""
        self.thread = threading.Thread(target=self.job)
        self.thread.start()

    def end(self) -> None:
        """It is done."""
        self.thread.join()


@pytest.mark.parametrize("kind", [_NoThreads, _OneThread])
def test_a_job_that_was_queued_in_vain_touches_no_file(
    tmp_path: Path, kind: type[_NoThreads]
) -> None:
    buffers = Buffers()
    pool = kind(1)
    for length in (1000, 2000):
        received = ReceivedFile(tmp_path, _META, buffers)
        received.write(memoryview(_drawn(length)))
        received.begin_sync(pool)
        received.sync()
        assert received.path.read_bytes() == _META + _drawn(length)
        received.discard()
        pool.end()
    assert len(buffers._free) == 1


def test_the_end_of_a_file_is_written_once(tmp_path: Path) -> None:
    received = ReceivedFile(tmp_path, _META)
    received.write(memoryview(_drawn(5000)))
    received.require_written()
    _begin_and_sync(received)
    assert received.path.read_bytes() == _META + _drawn(5000)
