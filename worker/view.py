"""What a picture shows, before anything is measured: a small network over its thumbnail.

Headers lie: real shoulders are labelled CHEST, real pictures are stored upside down or with the
grey scale the wrong way. This network has seen the picture only. It is apart from the model that
measures, so that another model changes nothing in what is let in.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors.torch import load
from torch import nn
from torch.nn import functional

from worker.errors import BundleError
from worker.preprocess import Prepared, standardise

SIDE: Final = 64
WEIGHTS: Final = Path(__file__).parent / "view_weights"
METADATA_NAME: Final = "metadata.json"
WEIGHTS_NAME: Final = "model.safetensors"
WIDTHS: Final = (8, 16, 32, 64)
_HALF: Final = 0.5


class View(StrEnum):
    """What a picture can show; the order is that of the network's outputs."""

    FRONTAL = "frontal"
    MIRRORED = "mirrored"
    INVERTED = "inverted"
    ROTATED = "rotated"
    LATERAL = "lateral"
    OTHER = "other"


@dataclass(frozen=True)
class Look:
    """How probable each view is; the probabilities add up to 1."""

    probabilities: dict[View, float]

    @property
    def upright(self) -> float:
        """Probability of an upright frontal chest, mirrored or not."""
        return self.probabilities[View.FRONTAL] + self.probabilities[View.MIRRORED]

    @property
    def mirrored(self) -> float:
        """Probability that an upright frontal chest is mirrored; 0 where it is none."""
        return self.probabilities[View.MIRRORED] / max(self.upright, 1e-6)

    @property
    def likeliest_fault(self) -> View:
        """The likeliest of the views that are no upright frontal chest."""
        faults = (View.INVERTED, View.ROTATED, View.LATERAL, View.OTHER)
        return max(faults, key=lambda view: self.probabilities[view])


class ViewNetwork(nn.Module):
    """(batch, 1, 64, 64) thumbnails to (batch, 6) logits; 0.08 million parameters."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((1, *widths), widths, strict=False):
            for channels in (before, width):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            layers.append(nn.MaxPool2d(2))
        cells = (SIDE >> len(widths)) ** 2
        self.features = nn.Sequential(*layers)
        self.decision = nn.Sequential(nn.Dropout(0.3), nn.Linear(widths[-1] * cells, len(View)))

    def forward(self, thumbnails: torch.Tensor) -> torch.Tensor:
        """Return one logit for each view."""
        logits: torch.Tensor = self.decision(self.features(thumbnails).flatten(1))
        return logits


class ViewReader:
    """The network with its weights, on the CPU. The same picture gives the same probabilities."""

    def __init__(self, network: nn.Module, identity: str) -> None:
        self._network = network.eval()
        self.identity = identity

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> Self:
        """Read the weights of `folder` and check them against their recorded hash.

        Raises BundleError when they are absent or not what the metadata says.
        """
        try:
            metadata: dict[str, Any] = json.loads((folder / METADATA_NAME).read_text("utf-8"))
            weights = (folder / WEIGHTS_NAME).read_bytes()
            digest = hashlib.sha256(weights).hexdigest()
            if metadata["sha256"] != digest:
                msg = "The weights of the view network do not match the SHA-256 in their metadata."
                raise BundleError(msg)
            network = ViewNetwork(metadata["widths"])
            network.load_state_dict(load(weights))
        except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
            msg = "The weights of the view network are unusable."
            raise BundleError(msg) from error
        return cls(network, digest)

    @torch.inference_mode()
    def look(self, prepared: Prepared) -> Look:
        """Say what the picture shows."""
        top, left, height, width = prepared.box
        inside = torch.zeros_like(prepared.windowed)
        inside[..., top : top + height, left : left + width] = 1.0
        return self.looks(thumbnails(prepared.windowed, inside))[0]

    @torch.inference_mode()
    def looks(self, batch: torch.Tensor) -> list[Look]:
        """Say what each of `thumbnails(...)` shows."""
        rows = self._network(batch).softmax(dim=1).tolist()
        return [Look(dict(zip(View, row, strict=True))) for row in rows]


@cache
def view_reader() -> ViewReader:
    """Return the shipped network, read once per process. Raises BundleError as `load`."""
    return ViewReader.load()


def thumbnails(windowed: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Shrink squares on 0..1 with zero padding to what the network sees; training calls it too.

    Both are float (batch, 1, size, size); `inside` is 1 in the picture and 0 in the padding.
    """
    small, covered = (functional.adaptive_avg_pool2d(it, SIDE) for it in (windowed, inside))
    kept = (covered > _HALF).float()
    return standardise(small * kept, kept)
