"""The first ancestor's network in Keras, with random weights, and files as Keras 2 wrote them."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

ENCODER = {"epsilon": 2e-5, "momentum": 0.99}
SKIPS = ("stage4_unit1_relu1", "stage3_unit1_relu1", "stage2_unit1_relu1", "relu0")


def load_keras(home: Path) -> ModuleType:
    """Import Keras on torch and the CPU; its settings file goes to `home`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_TORCH_DEVICE", "cpu")
        patch.setenv("KERAS_HOME", str(home))
        import keras  # noqa: PLC0415  reads the environment when imported
    return keras


def build(keras: ModuleType) -> Any:
    """Return the ancestor up to its sigmoid, layers named as in the published summary."""
    layers = keras.layers
    image = keras.Input((None, None, 3), name="data")
    x = layers.BatchNormalization(scale=False, name="bn_data", **ENCODER)(image)
    x = _convolution(keras, x, 64, "conv0", size=7, stride=2, padding=3)
    x = _activated(keras, x, "bn0", "relu0")
    x = layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, strides=2, padding="valid", name="pooling0")(x)
    for stage in range(4):
        for unit in range(2):
            stride = 2 if stage and not unit else 1
            x = _unit(keras, x, 64 * 2**stage, f"stage{stage + 1}_unit{unit + 1}_", stride)
    x = _activated(keras, x, "bn1", "relu1")
    encoder = keras.Model(image, x)
    for stage, width in enumerate((256, 128, 64, 32, 16)):
        x = layers.UpSampling2D(2, name=f"decoder_stage{stage}_upsampling")(x)
        if stage < len(SKIPS):
            x = layers.Concatenate()([x, encoder.get_layer(SKIPS[stage]).output])
        for half in "ab":
            name = f"decoder_stage{stage}{half}_"
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}conv")(x)
            x = layers.BatchNormalization(name=f"{name}bn")(x)
            x = layers.ReLU(name=f"{name}relu")(x)
    x = layers.Conv2D(1, 3, padding="same", name="final_conv")(x)
    return keras.Model(image, x)


def _activated(keras: ModuleType, x: Any, norm: str, activation: str) -> Any:
    x = keras.layers.BatchNormalization(name=norm, **ENCODER)(x)
    return keras.layers.Activation("relu", name=activation)(x)


def _convolution(
    keras: ModuleType, x: Any, width: int, name: str, *, size: int, stride: int, padding: int
) -> Any:
    x = keras.layers.ZeroPadding2D(padding)(x)
    return keras.layers.Conv2D(width, size, strides=stride, use_bias=False, name=name)(x)


def _unit(keras: ModuleType, x: Any, width: int, name: str, stride: int) -> Any:
    active = _activated(keras, x, f"{name}bn1", f"{name}relu1")
    y = _convolution(keras, active, width, f"{name}conv1", size=3, stride=stride, padding=1)
    y = _activated(keras, y, f"{name}bn2", f"{name}relu2")
    y = _convolution(keras, y, width, f"{name}conv2", size=3, stride=1, padding=1)
    if name.endswith("unit1_"):
        x = _convolution(keras, active, width, f"{name}sc", size=1, stride=stride, padding=0)
    return keras.layers.Add()([y, x])


def randomise(model: Any, seed: int, white: float = 255.0) -> None:
    """Give every weight and every moving statistic a random value; grey levels up to `white`.

    Variances go down to where epsilon tells, and gammas go with them, so that signals keep size.
    """
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.name == "bn_data":
            mean, deviation = (white * generator.uniform(*it, 3) for it in ((0.4, 0.6), (0.2, 0.3)))
            layer.set_weights([generator.uniform(-0.3, 0.3, 3), mean, deviation**2])
        elif "bn" in layer.name:
            shape = layer.weights[0].shape
            variance = 10.0 ** generator.uniform(-3.0, 0.0, shape)
            gamma = generator.uniform(0.5, 1.5, shape) * np.sqrt(variance)
            beta, mean = generator.uniform(-0.3, 0.3, (2, *shape))
            layer.set_weights([gamma, beta, mean, variance])
        elif layer.weights:
            bound = np.sqrt(4.0 / np.prod(layer.weights[0].shape[:-1]))
            layer.set_weights([generator.uniform(-bound, bound, it.shape) for it in layer.weights])


def logits(model: Any, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (rows, columns) logits of a (rows, columns, 3) picture."""
    with torch.inference_mode():
        return model(image[None], training=False).numpy()[0, ..., 0]


def weights_of(model: Any) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return {layer: {"kernel": numbers}}, with the layers that have none."""
    return {
        layer.name: {weight.name: weight.value.numpy(force=True) for weight in layer.weights}
        for layer in model.layers
    }


def write_keras2(path: Path, layers: Mapping[str, Mapping[str, NDArray[Any]]]) -> Path:
    """Write what `save_weights` of Keras 2 wrote."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.3.1"
        for name, weights in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in weights]
            for kind, values in weights.items():
                group.create_dataset(f"{name}/{kind}:0", data=values)
    return path
