"""The first ancestor's published weights and the lungs of an installed model, as one bundle.

The lungs are copied into the bundle: its hash then covers everything that decides a result.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file

from worker.errors import WeightsFileError
from worker.network import build_network
from worker.preactivation_unet import PreactivationUNet
from worker.registry import METADATA, Bundle, file_sha256, read_bundle
from worker.training.bundle import Recipe, write_bundle
from worker.training.keras_weights import load_keras_weights

NETWORK: Final = "keras-resnet18-unet"
_UNIT_VARIANCE: Final = 0.25  # grey levels on 0..1 cannot vary more
_BYTE_MEAN: Final = 2.0  # nor can their mean; a radiograph in bytes is far above this

_CARD: Final = """# {name} {version}

**Research use only. Not a medical device. Not for diagnosis or treatment decisions.**

Opacity: weights published by others as `{file}` (SHA-256 `{file_sha256}`), read from Keras into
the network `{network}`. Lungs: the model {lungs} (SHA-256 `{lungs_sha256}`), copied.

- {parameters:,} parameters, input {size} x {size}; thresholds {lung} (lung), {opacity} (opacity).
- The darkest pixel of an image is given to the opacity network as {black:g}, the brightest as
  {white:g}, in three equal channels.
- Weights: `{weights}`, SHA-256 `{weights_sha256}`.
- Licence: {licence}.

Nothing is known here of the pictures that trained the opacity network beyond what its authors
published, and no figure was measured when this bundle was written. Measure it before you compare
it with another model: `dicom-worker evaluate --bundle FOLDER/{name} --out REPORT`.
"""


@dataclass(frozen=True)
class Conversion:
    """What decides a converted bundle, `out / name`.

    `input_range` None reads the range from the statistics of the first layer. `half` stores the
    convolutions of the opacity network in half precision: half the file, rounded weights.
    """

    weights: Path
    lungs: Bundle
    out: Path
    name: str
    version: str
    input_size: int
    input_range: tuple[float, float] | None = None
    half: bool = False


def write_converted(conversion: Conversion) -> Bundle:
    """Convert, write the bundle and return it.

    Raises WeightsFileError when the file is not the ancestor's weights or does not tell its range.
    """
    opacity = load_keras_weights(conversion.weights)
    black, white = conversion.input_range or trained_range(opacity)
    lungs = conversion.lungs.metadata
    options = {
        "name": NETWORK,
        "lungs": lungs.network,
        "lungs_size": lungs.input_size,
        "input_range": [black, white],
    }
    recipe = Recipe(
        name=conversion.name,
        version=conversion.version,
        network=options,
        input_size=conversion.input_size,
        data_manifest_sha256="",
        training=[],
        picture_licences={},
        lung_threshold=lungs.threshold.lung,
    )
    folder = conversion.out / conversion.name
    write_bundle(folder, _combined(options, opacity, conversion), recipe)
    return _describe(folder, conversion)


def trained_range(network: PreactivationUNet) -> tuple[float, float]:
    """Return what black and white were in training, told by the statistics of layer bn_data.

    Raises WeightsFileError when they fit neither bytes nor fractions.
    """
    mean, variance = network.bn_data.running_mean, network.bn_data.running_var
    if mean.min() > _BYTE_MEAN and mean.max() <= 255.0:  # noqa: PLR2004  the brightest byte
        return 0.0, 255.0
    if mean.min() >= 0.0 and mean.max() <= 1.0 and variance.max() <= _UNIT_VARIANCE:
        return 0.0, 1.0
    msg = (
        f"Layer bn_data has means {_listed(mean)} and variances {_listed(variance)}: grey levels "
        "neither of 0..255 nor of 0..1. Give the range that the network was trained on."
    )
    raise WeightsFileError(msg)


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist())


def _combined(
    options: dict[str, Any], opacity: PreactivationUNet, conversion: Conversion
) -> torch.nn.Module:
    """Return the network of the bundle with both sets of weights."""
    if conversion.half:
        for parameter in opacity.parameters():
            if parameter.dim() > 1:  # the few numbers of a normalisation keep their range
                parameter.data = parameter.data.half()
    network = build_network(options)
    lungs = {f"lungs.{key}": value for key, value in load_file(conversion.lungs.weights).items()}
    own = {f"opacity.{key}": value for key, value in opacity.state_dict().items()}
    network.load_state_dict(lungs | own, assign=True)
    return network


def _describe(folder: Path, conversion: Conversion) -> Bundle:
    """Replace what the metadata and the card of a trained bundle say of its origin."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    lungs = json.loads((conversion.lungs.folder / METADATA).read_text(encoding="utf-8"))
    source = {"file": conversion.weights.name, "sha256": file_sha256(conversion.weights)}
    metadata |= {
        "description": "Opacity with published weights of another group; lungs of a model of ours.",
        "licence": f"{source['file']}: ask its authors; lungs: {lungs['licence']}",
        "lung_definition": lungs["lung_definition"],
        "picture_licences": lungs["picture_licences"],
        "converted_from": source,
        "lungs_from": {key: lungs[key] for key in ("name", "version")}
        | {"sha256": lungs["weights"]["sha256"]},
    }
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    (folder / "docs" / "README.md").write_text(_card(metadata), encoding="utf-8")
    return read_bundle(folder)


def _card(metadata: dict[str, Any]) -> str:
    black, white = metadata["network"]["input_range"]
    lungs = metadata["lungs_from"]
    return _CARD.format(
        name=metadata["name"],
        version=metadata["version"],
        network=NETWORK,
        file=metadata["converted_from"]["file"],
        file_sha256=metadata["converted_from"]["sha256"],
        lungs=f"{lungs['name']} {lungs['version']}",
        lungs_sha256=lungs["sha256"],
        parameters=metadata["parameters"],
        size=metadata["input_size"],
        lung=metadata["threshold"]["lung"],
        opacity=metadata["threshold"]["opacity"],
        black=black,
        white=white,
        weights=metadata["weights"]["file"],
        weights_sha256=metadata["weights"]["sha256"],
        licence=metadata["licence"],
    )
