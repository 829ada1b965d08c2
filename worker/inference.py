"""A loaded model that turns a radiograph into masks on its own grid."""

import json
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from worker.errors import BundleError
from worker.network import build_network, channels_last, predict
from worker.postprocess import masks_from_probabilities
from worker.preprocess import Prepared, prepare
from worker.registry import Bundle
from worker.types import ChestImage, LungMasks, ModelIdentity, Orientation
from worker.view import Look, view_reader

Device = Literal["auto", "cpu", "cuda"]
_DOUBTFUL: Final = (-0.25, 0.25)  # around the probability from which a pixel is lung


@dataclass(frozen=True)
class Reading:
    """What a model found in one picture.

    `masks` are on the source grid. `upright` are the same on the network's grid: upright, square
    pixels, no padding. `doubt` is the area where lung is neither likely nor unlikely, in percent
    of the lungs: where a network is unsure, or the members of one disagree.
    """

    masks: LungMasks
    upright: LungMasks
    doubt: float


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
        empty = prepare(np.zeros((size, size), np.uint16), Orientation(), 1.0, size)
        self.look(empty)
        self.read(empty)

    def prepared(self, image: ChestImage) -> Prepared:
        """Return the square that this model sees of `image`."""
        size = self._metadata.input_size
        return prepare(image.pixels, image.orientation, image.row_height_over_width, size)

    def look(self, prepared: Prepared) -> Look:
        """Say what the picture shows, which no model that measures is asked."""
        return view_reader().look(prepared)

    def read(self, prepared: Prepared, threshold: float | None = None) -> Reading:
        """Return the masks, and how doubtful the lungs are; a lung that was not found is empty.

        `threshold` is the probability from which a pixel is opacity; None takes the model's own.
        """
        return self.reading(prepared, self.square(prepared), threshold)

    def reading(
        self, prepared: Prepared, square: torch.Tensor, threshold: float | None = None
    ) -> Reading:
        """Return what `read` does of the probabilities on the network's square."""
        limits = self._metadata.threshold
        opacity = limits.opacity if threshold is None else threshold
        top, left, height, width = prepared.box
        inside = square[:, top : top + height, left : left + width].numpy()
        upright = masks_from_probabilities(inside, limits.lung, opacity)
        return Reading(
            masks=masks_from_probabilities(prepared.to_source(square), limits.lung, opacity),
            upright=upright,
            doubt=_doubt(inside, upright, limits.lung),
        )

    def segment(self, image: ChestImage, threshold: float | None = None) -> LungMasks:
        """Return the masks of `image` on its source grid; a lung that was not found is empty."""
        return self.read(self.prepared(image), threshold).masks

    def probabilities(self, image: ChestImage) -> NDArray[np.float32]:
        """Return left lung, right lung, opacity on the source grid: float32 (3, rows, columns)."""
        prepared = self.prepared(image)
        return prepared.to_source(self.square(prepared))

    @torch.inference_mode()
    def square(self, prepared: Prepared) -> torch.Tensor:
        """Return left lung, right lung, opacity on the network's square: (3, size, size)."""
        tensor = prepared.tensor.to(self.device, memory_format=torch.channels_last)
        return predict(self._network, tensor, mirrored=self._metadata.mirrored).cpu()


def _doubt(inside: NDArray[np.float32], masks: LungMasks, threshold: float) -> float:
    likely = inside[:2].max(axis=0)
    low, high = (threshold + step for step in _DOUBTFUL)
    lungs = int((masks.left | masks.right).sum())
    return 100.0 * int(((likely >= low) & (likely < high)).sum()) / max(1, lungs)
