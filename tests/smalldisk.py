"""A small file system that really fills, for tests of what a full disk does.

    with small_disk(tmp_path / "disk", megabytes=32) as disk:
        node = listen(data_dir=disk.path)      # or storage={"spool": disk.path / "spool"}
        disk.fill(leave=200_000)               # at most so many bytes are free now, for root too
        ...                                    # whatever writes here gets ENOSPC
        disk.free_up()                         # room again
        assert disk.free() > 1_000_000

`small_disk` makes an ext4 image beside the folder and mounts it by a loop device: real fsync, real
ENOSPC, files of every process count. Where there is no loop device it mounts a tmpfs. Both need
root; without it CannotMountError says so, and the fixture `disk` of conftest.py skips. At the
end it is unmounted whatever happened, also while a process still has files open (lazily), so a
killed test leaves nothing mounted for long.

`fill` and `free_up` may be called from any thread, as often as wanted. The ballast is one file,
`ballast` in the root of the disk, that no part of a node looks at.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 16


class CannotMountError(RuntimeError):
    """This user may mount nothing: root is needed."""


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of its own."""

    path: Path

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def free(self) -> int:
        """Return how many bytes are free, as the node counts them."""
        return shutil.disk_usage(self.path).free

    def fill(self, leave: int = 0) -> None:
        """Take all room but `leave` bytes: what others free meanwhile is taken as well."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            while (room := self.free() - leave) > 0:
                _write(descriptor, min(room, _BLOCK))
        except OSError:  # ENOSPC: full to the last block
            pass
        finally:
            os.close(descriptor)

    def free_up(self) -> None:
        """Give all room back."""
        self._ballast.unlink(missing_ok=True)


def _write(descriptor: int, length: int) -> None:
    os.write(descriptor, bytes(length))
    os.fsync(descriptor)  # delayed allocation would count later


@contextmanager
def small_disk(folder: Path, megabytes: int = 32) -> Iterator[SmallDisk]:
    """Yield an empty file system of that size on `folder`, which is made.

    Raises CannotMountError without the right to mount.
    """
    folder.mkdir(parents=True)
    image = folder.with_name(f"{folder.name}.ext4")
    try:
        if not _mount_image(image, folder, megabytes):
            _mount_memory(folder, megabytes)
        try:
            yield SmallDisk(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        image.unlink(missing_ok=True)


def _mount_image(image: Path, folder: Path, megabytes: int) -> bool:
    """Mount an ext4 of that size without reserve; say whether that is possible here."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image]
    mount = ["mount", "-o", "loop", image, folder]
    if shutil.which("mkfs.ext4") is None or not (_succeeds(make) and _succeeds(mount)):
        return False
    (folder / "lost+found").rmdir()
    return True


def _mount_memory(folder: Path, megabytes: int) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    if not _succeeds(mount):
        msg = "mounting a small file system needs root"
        raise CannotMountError(msg)


def _succeeds(command: list[str | Path]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
