"""Weights that Keras wrote (HDF5), read into the first ancestor's network.

Layouts: `save_weights` and `save` of Keras 2 (`layer_names`, a group per layer, `weight_names`)
and `.weights.h5` of Keras 3 (numbered variables). Only numbers are read, and only in the shapes
of the network; nothing is unpickled.
"""

from collections.abc import Iterator
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from torch import nn

from worker.errors import WeightsFileError
from worker.preactivation_unet import PreactivationUNet

_CONVOLUTION: Final = {"weight": "kernel", "bias": "bias"}
_NORM: Final = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_TO_KERAS: Final = (2, 3, 1, 0)  # kernels: torch (out, in, rows, columns), Keras the reverse pairs
_TO_TORCH: Final = (3, 2, 0, 1)
_TEXT_BYTES: Final = 1024  # a link or a pointer in place of a large file is not longer

_Layers = dict[str, dict[str, Any]]  # layer: {"kernel": data set}; h5py ships no types


def load_keras_weights(path: Path) -> PreactivationUNet:
    """Return the ancestor's network with the weights of `path`.

    Raises WeightsFileError, which names the layer and the shapes, unless the file holds every
    number of this network and no other.
    """
    network = PreactivationUNet()
    try:
        with h5py.File(path, "r") as file:
            network.load_state_dict(_state(network, _layers(file, path)))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsFileError(_unreadable(path, error)) from error
    return network


def expected_layers(network: nn.Module) -> dict[str, dict[str, str]]:
    """Return {Keras layer: {"kernel": key of the state dict}} of a network, in Keras's order."""
    expected = {}
    for name, module in network.named_modules():
        known = _CONVOLUTION if isinstance(module, nn.Conv2d) else _NORM
        own = dict(module.named_parameters(recurse=False)) | dict(
            module.named_buffers(recurse=False)
        )
        if found := {known[key]: f"{name}.{key}" for key in known if key in own}:
            expected[name.replace(".", "_")] = found
    return expected


def _state(network: nn.Module, layers: _Layers) -> dict[str, torch.Tensor]:
    """Return the network's state with every number taken from `layers`."""
    state = dict(network.state_dict())
    expected = expected_layers(network)
    for layer, keys in expected.items():
        found = layers.get(layer, {})
        for kind, key in keys.items():
            state[key] = _tensor(layer, kind, found.get(kind), state[key])
        _refuse_others(layer, {kind: found[kind] for kind in found if kind not in keys})
    for layer, found in layers.items():
        _refuse_others(layer, {} if layer in expected else found)
    return state


def _tensor(layer: str, kind: str, found: Any, wanted: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  h5py ships no types
    """Return a data set as a tensor of the shape of `wanted`."""
    is_kernel = kind == "kernel"
    shape = tuple(wanted.permute(_TO_KERAS).shape if is_kernel else wanted.shape)
    if not isinstance(found, h5py.Dataset):
        msg = f"Layer {layer} lacks its {kind} of shape {shape}."
        raise WeightsFileError(msg)
    if found.shape != shape:
        msg = f"Layer {layer} has a {kind} of shape {found.shape}, not {shape}."
        raise WeightsFileError(msg)
    if found.dtype.kind != "f":
        msg = f"Layer {layer} has a {kind} of {found.dtype}, not of real numbers."
        raise WeightsFileError(msg)
    values = found[()].astype(np.float32)
    if not np.isfinite(values).all() or (kind == "moving_variance" and values.min() < 0):
        msg = f"Layer {layer} has a {kind} of shape {shape} with numbers that it cannot have."
        raise WeightsFileError(msg)
    return torch.from_numpy(values.transpose(_TO_TORCH).copy() if is_kernel else values)


def _refuse_others(layer: str, others: dict[str, Any]) -> None:
    for kind, found in others.items():
        shape = getattr(found, "shape", ())
        msg = f"Layer {layer} has a {kind} of shape {shape}, which this network does not have."
        raise WeightsFileError(msg)


def _layers(file: Any, path: Path) -> _Layers:  # noqa: ANN401  h5py ships no types
    """Return the data sets of every layer that has any."""
    root = _group(file, "model_weights") or file
    if names := _names(root, "layer_names"):
        return {name: found for name in names if (found := _named(_group(root, name)))}
    if numbered := dict(_numbered(_group(file, "layers"))):
        return numbered
    msg = f"{path.name} is HDF5 without layers of Keras."
    raise WeightsFileError(msg)


def _group(parent: Any, name: str) -> Any:  # noqa: ANN401  h5py ships no types
    """Return a group inside a group, or None: the file may hold anything under that name."""
    found = parent.get(name) if isinstance(parent, h5py.Group) else None
    return found if isinstance(found, h5py.Group) else None


def _named(group: Any) -> dict[str, Any]:  # noqa: ANN401  h5py ships no types
    """Return {"kernel": data set} of a Keras 2 group: `conv0/kernel:0` is the weight's name."""
    names = _names(group, "weight_names")
    return {name.rpartition("/")[2].partition(":")[0]: group.get(name) for name in names}


def _names(group: Any, attribute: str) -> list[str]:  # noqa: ANN401  h5py ships no types
    """Return a list of names, which Keras cuts into `layer_names0`, `1`, ... when it is long."""
    if group is None:
        return []
    found = [*group.attrs.get(attribute, ())]
    parts = takewhile(group.attrs.__contains__, (f"{attribute}{part}" for part in count()))
    found += chain.from_iterable(group.attrs[part] for part in parts)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]


def _numbered(layers: Any) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401  h5py ships no types
    """Yield the layers of Keras 3, whose variables stand under numbers in the network's order."""
    expected = expected_layers(PreactivationUNet())
    for folder in layers or ():
        variables = _group(_group(layers, folder), "vars")
        if variables is None or not len(variables):
            continue
        name = str(variables.attrs.get("name", folder))
        kinds = [*expected.get(name, ()), *(f"weight {number}" for number in variables)]
        ordered = [variables[number] for number in sorted(variables, key=int)]
        yield name, dict(zip(kinds, ordered, strict=False))


def _unreadable(path: Path, error: Exception) -> str:
    if not path.is_file():
        return f"There is no file {path}."
    if h5py.is_hdf5(path):
        return f"{path.name} is damaged: {error}."
    if path.stat().st_size <= _TEXT_BYTES and path.read_bytes().isascii():
        return f"{path.name} is a line of text (a Git LFS pointer or a link), not the weights."
    return f"{path.name} is not an HDF5 file."
