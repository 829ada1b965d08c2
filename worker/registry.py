"""Installed models: folders in MONAI-bundle layout, each checked against its recorded hash.

    <name>/configs/metadata.json    name, kind, version, weights, network, labels, metrics
    <name>/configs/inference.json   the same network for MONAI's own tools
    <name>/models/model.safetensors
    <name>/docs/README.md           model card

A bundle is of one kind: a segmenter gives the masks that everything is measured on, a classifier
an experimental statement on the whole image. A bundle that names no kind is a segmenter.
Listing reads no weights and imports no deep-learning library.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import BundleError
from worker.types import ModelIdentity

BUNDLES: Final = Path(__file__).parent / "bundles"
METADATA: Final = Path("configs") / "metadata.json"
CARD: Final = Path("docs") / "README.md"
_CHUNK = 1 << 20
_LONGEST_CARD: Final = 1 << 18  # characters

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


class _Common(_Section):
    """What this software needs of `configs/metadata.json`; other keys are carried for people."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    weights: Weights
    input_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)]
    network: dict[str, Any]
    labels: tuple[str, ...]
    licence: str
    data_manifest_sha256: str
    training: list[dict[str, Any]]
    metrics: dict[str, Any]


class Metadata(_Common):
    """Of a segmenter."""

    kind: Literal["segmenter"] = "segmenter"
    threshold: Thresholds
    mirrored: bool = False  # mean over the image and its mirror image, lungs swapped back


class ClassifierMetadata(_Common):
    """Of a classifier; `lung_model` is the segmenter whose lungs it was trained on."""

    kind: Literal["classifier"]
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    lung_model: str


_M = TypeVar("_M", bound=_Common)


@dataclass(frozen=True)
class _Installed(Generic[_M]):
    folder: Path
    metadata: _M

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and the recorded hash of the weights."""
        meta = self.metadata
        return ModelIdentity(name=meta.name, version=meta.version, sha256=meta.weights.sha256)

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.folder / self.metadata.weights.file

    @property
    def card(self) -> str | None:
        """The model card; None where there is none, or none that can be read."""
        try:
            with (self.folder / CARD).open(encoding="utf-8") as file:
                return file.read(_LONGEST_CARD)
        except (OSError, ValueError):
            return None

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


class Bundle(_Installed[Metadata]):
    """One installed segmenter."""


class ClassifierBundle(_Installed[ClassifierMetadata]):
    """One installed classifier."""


def installed_bundles(search: Sequence[Path] = ()) -> list[Bundle]:
    """Read every segmenter of the folders in `search` and of this package, by name.

    A name found twice counts once, from the folder searched first. Weights are not read.
    Raises BundleError for a folder whose metadata is unusable.
    """
    return [it for it in _all(search) if isinstance(it, Bundle)]


def installed_classifiers(search: Sequence[Path] = ()) -> list[ClassifierBundle]:
    """Read every classifier, as `installed_bundles` does the segmenters."""
    return [it for it in _all(search) if isinstance(it, ClassifierBundle)]


def find_bundle(name: str, search: Sequence[Path] = ()) -> Bundle:
    """Return the segmenter of that name, its weights verified.

    Raises BundleError when it is not installed, incomplete, a classifier, or not what its metadata
    says.
    """
    bundle = _segmenter(_found(name, search, Bundle))
    bundle.verify()
    return bundle


def find_classifier(name: str, search: Sequence[Path] = ()) -> ClassifierBundle:
    """Return the classifier of that name, as `find_bundle` does a segmenter."""
    bundle = _found(name, search, ClassifierBundle)
    if not isinstance(bundle, ClassifierBundle):
        msg = f"Model {name} is a segmentation model and cannot be the experimental classifier."
        raise BundleError(msg)
    bundle.verify()
    return bundle


def read_bundle(folder: Path) -> Bundle:
    """Read the metadata of one segmenter's folder.

    Raises BundleError when it cannot be read, lacks a key, is that of a classifier, or names
    another bundle or a path outside its folder.
    """
    return _segmenter(_read(folder))


def read_classifier(folder: Path) -> ClassifierBundle:
    """Read the metadata of one classifier's folder, as `read_bundle` does a segmenter's."""
    bundle = _read(folder)
    if not isinstance(bundle, ClassifierBundle):
        msg = f"Model folder {folder.name} holds a segmentation model, no classifier."
        raise BundleError(msg)
    return bundle


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


def _all(search: Sequence[Path]) -> list[Bundle | ClassifierBundle]:
    found: dict[str, Bundle | ClassifierBundle] = {}
    for parent in (*search, BUNDLES):
        for metadata in sorted(parent.glob(f"*/{METADATA}")):
            bundle = _read(metadata.parents[1])
            found.setdefault(bundle.metadata.name, bundle)
    return [found[name] for name in sorted(found)]


def _found(
    name: str, search: Sequence[Path], wanted: type[Bundle | ClassifierBundle]
) -> Bundle | ClassifierBundle:
    """Return what is installed under that name, or say which of the wanted kind are."""
    for parent in (*search, BUNDLES):
        if (parent / name / METADATA).is_file() and Path(name).name == name:
            return _read(parent / name)
    names = (it.metadata.name for it in _all(search) if isinstance(it, wanted))
    known = ", ".join(names) or "none"
    msg = f"Model {name!r} is not installed; installed: {known}."
    raise BundleError(msg)


def _segmenter(bundle: Bundle | ClassifierBundle) -> Bundle:
    if isinstance(bundle, Bundle):
        return bundle
    msg = (
        f"Model {bundle.metadata.name} is a classifier: it finds no lungs and no opacity and "
        "cannot be the segmentation model."
    )
    raise BundleError(msg)


def _read(folder: Path) -> Bundle | ClassifierBundle:
    bundle: Bundle | ClassifierBundle
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("kind") == "classifier":
            bundle = ClassifierBundle(folder, ClassifierMetadata.model_validate(content))
        else:
            bundle = Bundle(folder, Metadata.model_validate(content))
    except (OSError, ValueError) as error:
        msg = f"The metadata of model folder {folder.name} is unusable: {_first_fault(error)}."
        raise BundleError(msg) from error
    inside = bundle.weights.resolve().is_relative_to(folder.resolve())
    if bundle.metadata.name != folder.name or not inside:
        msg = f"Model folder {folder.name} names another model or a weights file outside itself."
        raise BundleError(msg)
    return bundle
