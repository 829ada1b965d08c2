"""A data set on its way to the spool."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicom_node.direct import BUFFER_BYTES, Buffers
from dicom_node.errors import SpoolFullError
from dicom_node.receive import ReceivedFile
from dicom_node.spool import Spool, digest_in, key_of

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
    spool = Spool(tmp_path / "spool", 0)

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
    spool = Spool(tmp_path / "spool", 0)
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
    spool = Spool(tmp_path / "spool", 0)
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
