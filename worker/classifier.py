"""The experimental classifier: the lungs alone, cut out and masked, to probabilities of findings.

Training and serving both call `lung_crop`, so both see the same square.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from monai.networks.nets import DenseNet
from numpy.typing import NDArray
from safetensors.torch import load_file

from models.settings import Settings
from worker.errors import BundleError
from worker.network import channels_last
from worker.preprocess import fit, fit_box, standardise, window_bounds
from worker.registry import ClassifierBundle, find_classifier
from worker.types import ChestImage, Classification, LungMasks, Mask, ModelIdentity, Orientation

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
_MARGIN: Final = 0.03  # of the lungs' height and width, kept around them
_COVERED: Final = 0.5


@dataclass(frozen=True)
class LungCrop:
    """Float32 (1, 1, size, size): the window of the lungs on 0..1, and 1 where lung is.

    Outside the lungs and in the padding both are 0.
    """

    windowed: torch.Tensor
    inside: torch.Tensor

    @property
    def tensor(self) -> torch.Tensor:
        """The network's input: zero mean and unit variance over the lungs, 0 elsewhere."""
        return standardise(self.windowed, self.inside)


def lung_crop(
    pixels: NDArray[np.uint16],
    lungs: Mask,
    orientation: Orientation,
    row_height_over_width: float,
    size: int,
) -> LungCrop:
    """Cut the lungs out of a source grid, black out everything else, turn upright, fit.

    The window is the 1st to 99th percentile of the lung pixels. Raises ValueError without lungs.
    """
    if not lungs.any():
        msg = "there are no lungs to look at"
        raise ValueError(msg)
    box = _box(lungs)
    low, high = window_bounds(pixels[lungs][None])
    grey, mask = (
        fit(grid, orientation, row_height_over_width, size) for grid in (pixels[box], lungs[box])
    )
    top, left, height, width = fit_box(pixels[box].shape, orientation, row_height_over_width, size)
    sides = (left, size - left - width, top, size - top - height)
    inside = (mask >= _COVERED).float()
    windowed = ((grey - low) / max(high - low, 1.0)).clamp(0.0, 1.0) * inside
    return LungCrop(*(torch.nn.functional.pad(part, sides) for part in (windowed, inside)))


def _box(lungs: Mask) -> tuple[slice, slice]:
    sides = []
    for axis in (1, 0):
        found = np.flatnonzero(lungs.any(axis=axis))
        first, last = int(found[0]), int(found[-1]) + 1
        margin = round(_MARGIN * (last - first))
        sides.append(slice(max(0, first - margin), last + margin))
    return sides[0], sides[1]


def _densenet(options: Mapping[str, Any], classes: int) -> torch.nn.Module:
    chosen: dict[str, Any] = {
        "init_features": 24,
        "growth_rate": 12,
        "block_config": (3, 4, 6, 4),
        **options,
    }
    return DenseNet(spatial_dims=2, in_channels=1, out_channels=classes, **chosen)


_BUILDERS: Final[dict[str, Callable[[Mapping[str, Any], int], torch.nn.Module]]] = {
    "densenet": _densenet,
}


def build_classifier(config: Mapping[str, Any], classes: int) -> torch.nn.Module:
    """Build `config["name"]`; it takes (batch, 1, size, size) and gives (batch, classes) logits.

    Raises ValueError on an unknown name, TypeError on an unknown option.
    """
    options = dict(config)
    name = options.pop("name", None)
    builder = _BUILDERS.get(str(name))
    if builder is None:
        msg = f"unknown classifier {name!r}; known: {', '.join(_BUILDERS)}"
        raise ValueError(msg)
    return builder(options, classes)


class Classifier:
    """One classifier on one device. The same image and lungs give the same probabilities."""

    def __init__(self, network: torch.nn.Module, bundle: ClassifierBundle, device: str) -> None:
        self.identity: ModelIdentity = bundle.identity
        self._metadata = bundle.metadata
        self._device = device
        self._network = channels_last(network.to(device)).eval()

    @property
    def lung_model(self) -> str:
        """The segmenter whose lungs this classifier knows."""
        return self._metadata.lung_model

    @classmethod
    def load(cls, bundle: ClassifierBundle, device: Device = "auto") -> Self:
        """Verify the weights of `bundle` and put the network on `device`.

        `auto` takes the GPU when there is one.
        Raises BundleError when the weights do not fit or the device is not there.
        """
        bundle.verify()
        if device == "cuda" and not torch.cuda.is_available():
            msg = "Device cuda was asked for, but torch sees no GPU."
            raise BundleError(msg)
        chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        metadata = bundle.metadata
        try:
            network = build_classifier(metadata.network, len(metadata.labels))
            network.load_state_dict(load_file(bundle.weights))
        except (RuntimeError, ValueError, TypeError) as error:
            msg = f"Model {metadata.name}: its weights do not fit its network."
            raise BundleError(msg) from error
        return cls(network, bundle, chosen)

    def classify(self, image: ChestImage, masks: LungMasks) -> Classification:
        """Return the probability of each label. Raises ValueError when there are no lungs."""
        crop = lung_crop(
            image.pixels,
            masks.left | masks.right,
            image.orientation,
            image.row_height_over_width,
            self._metadata.input_size,
        )
        return Classification(
            model=self.identity,
            labels=self._metadata.labels,
            probabilities=tuple(self._probabilities(crop)),
        )

    @torch.inference_mode()
    def _probabilities(self, crop: LungCrop) -> list[float]:
        tensor = crop.tensor.to(self._device, memory_format=torch.channels_last)
        probabilities: list[float] = self._network(tensor).float().softmax(dim=1)[0].tolist()
        return probabilities


def load_classifier(settings: Settings) -> Classifier | None:
    """Load the classifier that the settings name; None when the experiment is off.

    Raises BundleError as `find_classifier` and `Classifier.load` do.
    """
    name = settings.analysis.experimental_classifier
    if name is None:
        return None
    bundle = find_classifier(name, settings.worker.bundle_dirs)
    known = bundle.metadata.lung_model
    others = sorted(set(settings.models) - {known})
    if others:
        log.warning("classifier %s knows the lungs of %s, not of %s", name, known, others)
    return Classifier.load(bundle, settings.worker.device)
