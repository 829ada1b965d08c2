"""Durable files: what these functions return from survives a power cut."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Final

HEADERS: Final = "headers"
_UMASK: Final = 0o027


def keep_files_private() -> None:
    """Let only user and group read what this process, and its children, create from now on.

    What they write is patient data. Every command that serves or prepares the data folder calls it.
    """
    os.umask(_UMASK)


def new_key(suffix: str) -> str:
    """Return a fresh storage key, `ab/ab12….suffix`; never made from a peer's text."""
    name = secrets.token_hex(16)
    return f"{name[:2]}/{name}{suffix}"


def fsync_directory(directory: Path) -> None:
    """Make renames and new names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create `directory` and make its name durable. Existing is fine."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    fsync_directory(directory.parent)


def publish(temporary: Path, final: Path) -> None:
    """Rename a file that is already fsynced to its final name, durably."""
    make_directory(final.parent)
    temporary.rename(final)
    fsync_directory(final.parent)


def atomic_write(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write `data` so that `path` holds all of it or does not exist, even after a power cut.

    `mode` is what the umask leaves of it: less for a secret.

    Raises OSError (disk full, no permission); the temporary file is then gone.
    """
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path, offset: int = 0) -> str:
    """Return the SHA-256 of the bytes of `path` from `offset` to the end."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").hexdigest()
