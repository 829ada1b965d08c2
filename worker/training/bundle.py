"""Write a trained network as a bundle in MONAI layout."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from worker.network import LABELS
from worker.registry import METADATA, Bundle, file_sha256, read_bundle
from worker.training.card import render_card

WEIGHTS: Final = "models/model.safetensors"
LICENCE: Final = "CC BY-NC-SA 4.0"


@dataclass(frozen=True)
class Recipe:
    """What a bundle records beside its weights."""

    name: str
    version: str
    network: dict[str, Any]
    input_size: int
    data_manifest_sha256: str
    training: list[dict[str, Any]]
    picture_licences: dict[str, int]
    lung_threshold: float = 0.5
    opacity_threshold: float = 0.5
    mirrored: bool = False
    half: bool = False
    command: str = ""
    recipe: dict[str, Any] | None = None


def write_bundle(folder: Path, network: torch.nn.Module, recipe: Recipe) -> Bundle:
    """Write weights, metadata, inference configuration and card; figures come after.

    The folder is named like the model. Returns the bundle as serving reads it.
    """
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    weights = {name: _stored(value, recipe) for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # the writer makes it private; a bundle is for every user
    parameters = sum(value.numel() for value in network.parameters())
    _write_json(folder / "configs" / "inference.json", _inference(recipe))
    return _write_metadata(folder, _metadata(recipe, file_sha256(folder / WEIGHTS), parameters))


def _stored(value: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Return a tensor as the file holds it: in half precision if the recipe says so."""
    half = recipe.half and value.is_floating_point()
    return (value.half() if half else value).contiguous()


def write_metrics(folder: Path, metrics: dict[str, Any]) -> Bundle:
    """Record the figures measured with this bundle in its metadata and its card."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    metadata["metrics"] = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in metrics.items()
    }
    return _write_metadata(folder, metadata)


def _write_metadata(folder: Path, metadata: dict[str, Any]) -> Bundle:
    _write_json(folder / METADATA, metadata)
    (folder / "docs" / "README.md").write_text(render_card(metadata), encoding="utf-8")
    return read_bundle(folder)


def _metadata(recipe: Recipe, weights_sha256: str, parameters: int) -> dict[str, Any]:
    packages = {name: version(name) for name in ("monai", "torch", "numpy", "safetensors")}
    return {
        "name": recipe.name,
        "version": recipe.version,
        "task": "Lung fields and opacity on frontal chest radiographs",
        "description": "Left lung, right lung and opacity; opacity over lung area is the figure.",
        "intended_use": "Research use only. Not a medical device. Not for diagnosis.",
        "licence": LICENCE,
        "weights": {"file": WEIGHTS, "sha256": weights_sha256},
        "input_size": recipe.input_size,
        "network": recipe.network,
        "parameters": parameters,
        "threshold": {"lung": recipe.lung_threshold, "opacity": recipe.opacity_threshold},
        "mirrored": recipe.mirrored,
        "labels": list(LABELS),
        "lung_definition": "aerated lung fields including the region behind the heart",
        "data_manifest_sha256": recipe.data_manifest_sha256,
        "picture_licences": recipe.picture_licences,
        "command": recipe.command,
        "recipe": recipe.recipe,
        "training": recipe.training,
        "metrics": {},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"],
        "numpy_version": packages["numpy"],
        "required_packages_version": {"safetensors": packages["safetensors"]},
        "network_data_format": _data_format(recipe.input_size),
    }


def _data_format(size: int) -> dict[str, Any]:
    shape = {"type": "image", "num_channels": 1, "spatial_shape": [size, size], "dtype": "float32"}
    return {
        "inputs": {"image": {**shape, "format": "radiograph", "modality": "CR, DX"}},
        "outputs": {
            "pred": {
                **shape,
                "format": "segmentation",
                "num_channels": len(LABELS),
                "channel_def": {str(number): label for number, label in enumerate(LABELS)},
            }
        },
    }


def _inference(recipe: Recipe) -> dict[str, Any]:
    """Return what `monai.bundle.ConfigParser` needs to build the same network."""
    return {
        "bundle_root": ".",
        "network_def": {"_target_": "worker.network.build_network", "config": recipe.network},
        "weights": {
            "_target_": "safetensors.torch.load_file",
            "filename": f"$@bundle_root + '/{WEIGHTS}'",
        },
        "preprocessing": {"_target_": "worker.preprocess.prepare", "_mode_": "callable"},
        "threshold": asdict(recipe)["opacity_threshold"],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
