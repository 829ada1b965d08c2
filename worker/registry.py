"""Installed models: folders in MONAI-bundle layout, each checked against its recorded hash.

    <name>/configs/metadata.json    name, version, weights, network, threshold, labels, metrics
    <name>/configs/inference.json   the same network for MONAI's own tools
    <name>/models/model.safetensors
    <name>/docs/README.md           model card

Listing reads no weights and imports no deep-learning library.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import BundleError
from worker.types import ModelIdentity

BUNDLES: Final = Path(__file__).parent / "bundles"
METADATA: Final = Path("configs") / "metadata.json"
_CHUNK = 1 << 20

Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Weights(_Section):
    """The weights file, relative to the bundle, and its SHA-256."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Thresholds(_Section):
    """Probabilities from which a pixel counts as lung, and as opacity."""

    lung: Fraction
    opacity: Fraction


class Metadata(_Section):
    """What this software needs of `configs/metadata.json`; other keys are carried for people."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    weights: Weights
    input_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    network: dict[str, Any]
    threshold: Thresholds
    mirrored: bool = False  # mean over the image and its mirror image, lungs swapped back
    labels: tuple[str, ...]
    licence: str
    data_manifest_sha256: str
    training: list[dict[str, Any]]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """One installed model."""

    folder: Path
    metadata: Metadata

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and the recorded hash of the weights."""
        meta = self.metadata
        return ModelIdentity(name=meta.name, version=meta.version, sha256=meta.weights.sha256)

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.folder / self.metadata.weights.file

    def verify(self) -> None:
        """Raise BundleError unless the weights file is the one the metadata names."""
        if not self.weights.is_file():
            msg = f"Model {self.metadata.name} has no weights file {self.metadata.weights.file}."
            raise BundleError(msg)
        if file_sha256(self.weights) != self.metadata.weights.sha256:
            msg = (
                f"Model {self.metadata.name}: {self.metadata.weights.file} does not match the "
                "SHA-256 in its metadata."
            )
            raise BundleError(msg)


def installed_bundles(search: Sequence[Path] = ()) -> list[Bundle]:
    """Read every bundle of the folders in `search` and of this package, by name.

    A name found twice counts once, from the folder searched first. Weights are not read.
    Raises BundleError for a folder whose metadata is unusable.
    """
    found: dict[str, Bundle] = {}
    for parent in (*search, BUNDLES):
        for metadata in sorted(parent.glob(f"*/{METADATA}")):
            bundle = read_bundle(metadata.parents[1])
            found.setdefault(bundle.metadata.name, bundle)
    return [found[name] for name in sorted(found)]


def find_bundle(name: str, search: Sequence[Path] = ()) -> Bundle:
    """Return the bundle of that name, its weights verified.

    Raises BundleError when it is not installed, incomplete, or not what its metadata says.
    """
    for parent in (*search, BUNDLES):
        if (parent / name / METADATA).is_file() and Path(name).name == name:
            bundle = read_bundle(parent / name)
            bundle.verify()
            return bundle
    known = ", ".join(bundle.metadata.name for bundle in installed_bundles(search)) or "none"
    msg = f"Model {name!r} is not installed; installed: {known}."
    raise BundleError(msg)


def read_bundle(folder: Path) -> Bundle:
    """Read the metadata of one bundle folder.

    Raises BundleError when it cannot be read, lacks a key, or names another bundle or a path
    outside its folder.
    """
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
        metadata = Metadata.model_validate(json.loads(text))
    except (OSError, ValueError) as error:
        msg = f"The metadata of model folder {folder.name} is unusable: {_first_fault(error)}."
        raise BundleError(msg) from error
    inside = (folder / metadata.weights.file).resolve().is_relative_to(folder.resolve())
    if metadata.name != folder.name or not inside:
        msg = f"Model folder {folder.name} names another model or a weights file outside itself."
        raise BundleError(msg)
    return Bundle(folder=folder, metadata=metadata)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        return f"{where}: {fault['msg']}"
    return str(error)
