"""A data set on its way to the spool."""

import os
from pathlib import Path

import pytest

from dicom_node.receive import ReceivedFile


def test_a_disk_that_takes_no_hints_takes_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel or a sandbox without fadvise: the hint is lost, and nothing else."""

    def refuse(*_: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    received = ReceivedFile(tmp_path, b"meta")
    data = bytes(3 << 20)
    received.write(memoryview(data))
    received.sync()
    assert received.path.read_bytes() == b"meta" + data
