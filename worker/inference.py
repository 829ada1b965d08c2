"""A loaded model that turns a radiograph into masks on its own grid."""

import json
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from worker.errors import BundleError
from worker.network import build_network, channels_last
from worker.postprocess import masks_from_probabilities
from worker.preprocess import Prepared, prepare
from worker.registry import Bundle
from worker.types import ChestImage, LungMasks, ModelIdentity, Orientation

Device = Literal["auto", "cpu", "cuda"]


class Segmenter:
    """One model on one device. The same image gives the same masks on the same device."""

    def __init__(self, network: torch.nn.Module, bundle: Bundle, device: str) -> None:
        self.identity: ModelIdentity = bundle.identity
        self.device = device
        self._metadata = bundle.metadata
        self._network = channels_last(network.to(device)).eval()

    @property
    def configuration(self) -> str:
        """What decides the masks beside the weights, in canonical form."""
        decisive = {"input_size", "network", "threshold", "mirrored", "labels"}
        return json.dumps(self._metadata.model_dump(mode="json", include=decisive), sort_keys=True)

    @classmethod
    def load(cls, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> Self:
        """Verify the weights of `bundle` and put the network on `device`.

        `auto` takes the GPU when there is one. `threads` limits torch in this whole process.
        Raises BundleError when the weights do not fit or the device is not there.
        """
        bundle.verify()
        if device == "cuda" and not torch.cuda.is_available():
            msg = "Device cuda was asked for, but torch sees no GPU."
            raise BundleError(msg)
        chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            network = build_network(bundle.metadata.network)
            network.load_state_dict(load_file(bundle.weights))
        except (RuntimeError, ValueError, TypeError) as error:
            msg = f"Model {bundle.metadata.name}: its weights do not fit its network."
            raise BundleError(msg) from error
        return cls(network, bundle, chosen)

    def warm_up(self) -> None:
        """Run one empty image, so that the first real one is not slower than the others."""
        size = self._metadata.input_size
        self._probabilities(prepare(np.zeros((size, size), np.uint16), Orientation(), 1.0, size))

    def segment(self, image: ChestImage, threshold: float | None = None) -> LungMasks:
        """Return the masks of `image` on its source grid; a lung that was not found is empty.

        `threshold` is the probability from which a pixel is opacity; None takes the model's own.
        """
        limits = self._metadata.threshold
        return masks_from_probabilities(
            self.probabilities(image),
            lung_threshold=limits.lung,
            opacity_threshold=limits.opacity if threshold is None else threshold,
        )

    def probabilities(self, image: ChestImage) -> NDArray[np.float32]:
        """Return left lung, right lung, opacity on the source grid: float32 (3, rows, columns)."""
        size = self._metadata.input_size
        return self._probabilities(
            prepare(image.pixels, image.orientation, image.row_height_over_width, size)
        )

    @torch.inference_mode()
    def _probabilities(self, prepared: Prepared) -> NDArray[np.float32]:
        tensor = prepared.tensor.to(self.device, memory_format=torch.channels_last)
        if not self._metadata.mirrored:
            return prepared.to_source(self._network(tensor).float().sigmoid()[0].cpu())
        both = self._network(torch.cat([tensor, tensor.flip(-1)])).float().sigmoid()
        mirrored = both[1].flip(-1)[[1, 0, 2]]  # left and right change places in a mirror
        return prepared.to_source((0.5 * (both[0] + mirrored)).cpu())
