"""The trained networks inside a wheel, each with its hash and licence."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from release.errors import ReleaseError

_SPDX: Final = {"CC BY-NC-SA 4.0": "CC-BY-NC-SA-4.0"}
_SUFFIX: Final = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """One file of weights, as it lies in the wheel."""

    file: str
    name: str
    version: str
    sha256: str
    licence: str
    task: str
    architecture: str
    picture_licences: dict[str, int]


def weights_in(wheel: Path) -> list[Weights]:
    """Return the networks of a wheel.

    Raises ReleaseError for weights whose metadata is missing, or names no known licence, or another
    hash than theirs.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        return [
            _weights(archive, name, _metadata_of(name, names))
            for name in sorted(names)
            if name.endswith(_SUFFIX)
        ]


def _metadata_of(name: str, names: set[str]) -> str:
    """Return the metadata file that belongs to a file of weights."""
    path = PurePosixPath(name)
    beside = str(path.with_name("metadata.json"))
    of_bundle = str(path.parents[1] / "configs" / "metadata.json")
    for each in (beside, of_bundle):
        if each in names:
            return each
    msg = f"{name} has no metadata.json: weights are shipped with their licence and hash only."
    raise ReleaseError(msg)


def _weights(archive: zipfile.ZipFile, name: str, metadata: str) -> Weights:
    said: dict[str, Any] = json.loads(archive.read(metadata))
    digest = hashlib.sha256(archive.read(name)).hexdigest()
    stated = said.get("sha256") or said.get("weights", {}).get("sha256")
    if stated != digest:
        msg = f"{name} has SHA-256 {digest}, and {metadata} says {stated}."
        raise ReleaseError(msg)
    licence = said.get("licence")
    if licence not in _SPDX:
        msg = f"{metadata} names the licence {licence}: name it in deploy/release/weights.py."
        raise ReleaseError(msg)
    return Weights(
        file=name,
        name=said["name"],
        version=said.get("version", digest[:12]),
        sha256=digest,
        licence=_SPDX[licence],
        task=said.get("task", "Sorts pictures by view before they are measured"),
        architecture=said.get("network", {}).get("name", "convolutional"),
        picture_licences=said.get("picture_licences", {}),
    )
