"""A network that looks at each picture once: given it again, it answers what it found before.

Most of the time of a test that has a model is spent in the network. It gives the same for the same
picture (tests/unit/worker/test_segmenter.py), so tests of what is made of its answer need not ask
it again. The networks are told apart by their weights, the pictures by their numbers.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from weakref import WeakKeyDictionary

import pytest
import torch
from typing_extensions import override

from worker import inference
from worker.inference import Segmenter
from worker.network import predict
from worker.preprocess import Prepared


class AskedOnce(Segmenter):
    """A segmenter that does so."""

    @cached_property
    def _found(self) -> dict[str, torch.Tensor]:
        return {}

    @override
    def square(self, prepared: Prepared) -> torch.Tensor:
        key = _sha256(prepared.tensor)
        if key not in self._found:
            self._found[key] = super().square(prepared)
        return self._found[key].clone()


_digests: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


@contextmanager
def network_asked_once() -> Iterator[None]:
    """Let every segmenter of this process ask its network once for a picture, in this block."""
    found: dict[tuple[str, str, bool], torch.Tensor] = {}

    def remembering(
        network: torch.nn.Module, tensor: torch.Tensor, *, mirrored: bool = False
    ) -> torch.Tensor:
        key = (_weights(network), _sha256(tensor), mirrored)
        if key not in found:
            found[key] = predict(network, tensor, mirrored=mirrored)
        return found[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "predict", remembering)
        yield


def _weights(network: torch.nn.Module) -> str:
    if network not in _digests:
        parts = (f"{name} {_sha256(part)}" for name, part in network.state_dict().items())
        _digests[network] = hashlib.sha256("\n".join([repr(network), *parts]).encode()).hexdigest()
    return _digests[network]


def _sha256(tensor: torch.Tensor) -> str:
    numbers = tensor.detach().cpu().contiguous().numpy()
    return hashlib.sha256(
        f"{numbers.shape} {numbers.dtype}".encode() + numbers.tobytes()
    ).hexdigest()
