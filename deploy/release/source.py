"""The commit that is released: clean, known, with its time."""

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from release.errors import ReleaseError


def commit_of(root: Path) -> tuple[str, int]:
    """Return hash and time of the commit at HEAD.

    Raises ReleaseError where files differ from it or are unknown to it: a release is of a commit.
    """
    changed = git(root, "status", "--porcelain", "--untracked-files=all").splitlines()
    if changed:
        msg = (
            f"{len(changed)} files are not as committed, the first is {changed[0][3:]}:"
            " commit or remove them, then release."
        )
        raise ReleaseError(msg)
    commit, seconds = git(root, "log", "-1", "--format=%H %ct").split()
    return commit, int(seconds)


def export(root: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into the new folder `target`."""
    packed = _run(root, "archive", "--format=tar", commit)
    target.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")


def git(root: Path, *arguments: str) -> str:
    """Return what git says. Raises ReleaseError with git's own words where it refuses."""
    return _run(root, *arguments).decode().strip("\n")


def _run(root: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if done.returncode:
        msg = f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}"
        raise ReleaseError(msg)
    return done.stdout
