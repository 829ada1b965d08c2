"""Hashes of every file of a release, and a signature over them by the releaser's SSH key."""

import subprocess
from pathlib import Path
from typing import Final

from release.artefacts import sha256_of
from release.errors import ReleaseError

SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = f"{SUMS}.sig"

# What a signature is for: one made for a commit or a message proves nothing here.
NAMESPACE: Final = "dicom-node-release"


def write_sums(folder: Path) -> Path:
    """Write SHA256SUMS over every other file of the folder, in the form of `sha256sum --check`."""
    files = sorted(path for path in folder.iterdir() if path.name not in {SUMS, SIGNATURE})
    sums = folder / SUMS
    sums.write_text("".join(f"{sha256_of(path)}  {path.name}\n" for path in files))
    return sums


def sign(sums: Path, key: Path) -> Path:
    """Sign SHA256SUMS with a private SSH key, or with an agent by its public one.

    Returns the signature after checking it. Raises ReleaseError in ssh-keygen's own words.
    """
    if not key.is_file():
        msg = f"There is no key file {key}: give KEY=FILE, as made by ssh-keygen -t ed25519."
        raise ReleaseError(msg)
    signature = sums.with_name(SIGNATURE)
    signature.unlink(missing_ok=True)
    _ssh_keygen("-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(sums))
    checked = ["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)]
    _ssh_keygen(*checked, given=sums.read_bytes())
    return signature


def _ssh_keygen(*arguments: str, given: bytes | None = None) -> None:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments], input=given, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        msg = "ssh-keygen is not installed: install openssh-client."
        raise ReleaseError(msg) from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        msg = f"ssh-keygen did not sign: {said}"
        raise ReleaseError(msg)
