"""Wheel and source archive that come out the same, wherever and whenever they are built."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

from release.errors import ReleaseError
from release.project import read_lock

_FOLDERS: Final = ("dicom_node", "worker", "models", "migrations")
_FILES: Final = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_BUILD: Final = """
import sys
from setuptools import build_meta
made = sys.argv[1]  # a build replaces sys.argv
build_meta.build_wheel(made)
build_meta.build_sdist(made)
"""
_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755


def build(source: Path, out: Path, epoch: int) -> tuple[Path, Path]:
    """Build wheel and source archive of the tree `source` into `out` and return their paths.

    The same tree, epoch and tools give the same bytes: whatever the folder, the time, the umask,
    the language and the user. Raises ReleaseError where the build fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        tree, made = Path(scratch, "tree"), Path(scratch, "made")
        copy_tree(source, tree)
        made.mkdir()
        _run_backend(tree, made, epoch)
        wheel, sdist = next(made.glob("*.whl")), next(made.glob("*.tar.gz"))
        _level(sdist, epoch)
        return Path(shutil.move(wheel, out / wheel.name)), Path(
            shutil.move(sdist, out / sdist.name)
        )


def unpack(sdist: Path, target: Path) -> Path:
    """Unpack a source archive into `target` and return the folder that it holds."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    return next(target.iterdir())


def copy_tree(source: Path, target: Path) -> None:
    """Copy what a build reads, with the same modes whatever the umask was."""
    target.mkdir(parents=True)
    for folder in _FOLDERS:
        shutil.copytree(
            source / folder,
            target / folder,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".*"),
            copy_function=shutil.copyfile,
        )
    for name in _FILES:
        shutil.copyfile(source / name, target / name)
    for path in target.rglob("*"):
        path.chmod(_FOLDER_MODE if path.is_dir() else _MODE)


def check_builder(lock: Path) -> None:
    """Raise ReleaseError unless the setuptools that would build is the locked one."""
    locked, here = read_lock(lock)["setuptools"].version, version("setuptools")  # type: ignore[index]  # a literal is normal
    if locked != here:
        msg = f"setuptools is {here} and the lock says {locked}: run make install."
        raise ReleaseError(msg)


def check_same(first: Path, second: Path) -> None:
    """Raise ReleaseError unless two builds of one file are the same byte for byte."""
    one, other = sha256_of(first), sha256_of(second)
    if one != other:
        msg = (
            f"{first.name} came out different when built twice ({one[:12]} and {other[:12]}):"
            f" compare {first} and {second} before anything is released."
        )
        raise ReleaseError(msg)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_backend(tree: Path, made: Path, epoch: int) -> None:
    """Let setuptools build in a process whose surroundings are always the same."""
    surroundings = {
        "HOME": str(made.parent),
        "LC_ALL": "C.UTF-8",
        "PATH": os.defpath,
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": str(epoch),
        "TZ": "UTC",
    }
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(made)],
        cwd=tree,
        env=surroundings,
        umask=0o022,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        msg = f"The build failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        raise ReleaseError(msg)


def _level(sdist: Path, epoch: int) -> None:
    """Write a source archive anew without what differs: times, owners, modes, order."""
    with tarfile.open(sdist) as old:
        members = sorted(old.getmembers(), key=lambda member: member.name)
        contents = {each.name: file.read() for each in members if (file := old.extractfile(each))}
    with (
        sdist.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in members:
            level = tarfile.TarInfo(member.name)
            level.type, level.mtime = member.type, epoch
            level.mode = _FOLDER_MODE if member.isdir() else _MODE
            level.size = len(contents.get(member.name, b""))
            new.addfile(level, io.BytesIO(contents.get(member.name, b"")))
