"""Networks by name: what a bundle's `network` table says becomes a torch module.

All take one standardised image (batch, 1, size, size) and give three logits
(batch, 3, size, size): left lung, right lung, opacity (the patient's left).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from monai.networks.nets import BasicUNet, FlexibleUNet, UNet
from torch.nn import functional

from worker.efficientnet_lite import NAME as EFFICIENTNET_LITE
from worker.preactivation_unet import OpacityWithLungs

LABELS: Final = ("left_lung", "right_lung", "opacity")
_LOGIT_EPS: Final = 1e-6


def _unet(options: Mapping[str, Any]) -> torch.nn.Module:
    chosen: dict[str, Any] = {
        "channels": (16, 32, 64, 128, 256),
        "strides": (2, 2, 2, 2),
        "num_res_units": 2,
        **options,
    }
    return UNet(spatial_dims=2, in_channels=1, out_channels=len(LABELS), **chosen)


def _basic_unet(options: Mapping[str, Any]) -> torch.nn.Module:
    chosen: dict[str, Any] = {"features": (16, 16, 32, 64, 128, 16), **options}
    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=len(LABELS), **chosen)


def _resnet18_unet(options: Mapping[str, Any]) -> torch.nn.Module:
    chosen: dict[str, Any] = {"pretrained": False, **options}
    return FlexibleUNet(
        in_channels=1, out_channels=len(LABELS), backbone="resnet18", spatial_dims=2, **chosen
    )


def _efficientnet_lite_unet(options: Mapping[str, Any]) -> torch.nn.Module:
    chosen: dict[str, Any] = {"decoder_channels": (96, 64, 40, 24, 16), **options}
    return FlexibleUNet(
        in_channels=1,
        out_channels=len(LABELS),
        backbone=EFFICIENTNET_LITE,
        spatial_dims=2,
        **chosen | {"decoder_channels": tuple(chosen["decoder_channels"])},
    )


def _keras_resnet18_unet(options: Mapping[str, Any]) -> torch.nn.Module:
    """Opacity of the first ancestor, lungs of the network that the option `lungs` describes."""
    chosen: dict[str, Any] = {
        "lungs": {"name": "unet"},
        "lungs_size": None,
        "input_range": (0.0, 255.0),
        **options,
    }
    return OpacityWithLungs(**chosen | {"lungs": build_network(chosen["lungs"])})


class Ensemble(torch.nn.Module):
    """Networks whose probabilities are averaged; the mean is given as a logit.

    Each sees the picture at the size that it has learned on, in pixels of the side.
    """

    def __init__(self, members: Iterable[torch.nn.Module], sizes: Sequence[int]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self._sizes = tuple(sizes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of the mean probabilities."""
        pairs = zip(self.members, self._sizes, strict=True)
        found = torch.stack([_at(member, size, images) for member, size in pairs])
        return found.mean(dim=0).logit(eps=_LOGIT_EPS)


def _at(member: torch.nn.Module, size: int, images: torch.Tensor) -> torch.Tensor:
    """Return a member's probabilities of pictures that have another size."""
    shape = images.shape[-2:]
    if shape != (size, size):
        images = functional.interpolate(
            images, (size, size), mode="bilinear", align_corners=False, antialias=True
        )
    found: torch.Tensor = member(images).float().sigmoid()
    if found.shape[-2:] != shape:
        found = functional.interpolate(found, shape, mode="bilinear", align_corners=False)
    return found


_TWO_SIZES: Final = tuple({"network": {"name": "basic-unet"}, "size": it} for it in (160, 224))


def _ensemble(options: Mapping[str, Any]) -> torch.nn.Module:
    members: Sequence[Mapping[str, Any]] = options.get("members", _TWO_SIZES)
    return Ensemble(
        (build_network(member["network"]) for member in members),
        [int(member["size"]) for member in members],
    )


_BUILDERS: Final[dict[str, Callable[[Mapping[str, Any]], torch.nn.Module]]] = {
    "unet": _unet,
    "basic-unet": _basic_unet,
    "resnet18-unet": _resnet18_unet,
    "efficientnet-lite0-unet": _efficientnet_lite_unet,
    "keras-resnet18-unet": _keras_resnet18_unet,
    "ensemble": _ensemble,
}
NETWORKS: Final = tuple(_BUILDERS)


def build_network(config: Mapping[str, Any]) -> torch.nn.Module:
    """Build `config["name"]`; the other keys are options of that network.

    Raises ValueError on an unknown name, TypeError on an unknown option.
    """
    options = dict(config)
    name = options.pop("name", None)
    builder = _BUILDERS.get(str(name))
    if builder is None:
        msg = f"unknown network {name!r}; known: {', '.join(NETWORKS)}"
        raise ValueError(msg)
    return builder(options)


def channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """Lay the weights out as convolutions read them fastest; the results do not change."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch leaves this out of its overloads


def predict(
    network: torch.nn.Module, tensor: torch.Tensor, *, mirrored: bool = False
) -> torch.Tensor:
    """Return the probabilities of one standardised picture: float32 (3, size, size).

    `tensor` is (1, 1, size, size). With `mirrored` they are the mean of the picture and of its
    mirror image turned back, in which left and right lung have changed places.
    """
    if not mirrored:
        return network(tensor).float().sigmoid()[0]  # type: ignore[no-any-return]  # a Module's call
    plain, turned = network(torch.cat([tensor, tensor.flip(-1)])).float().sigmoid()
    return mirror_mean(plain, turned)


def mirror_mean(plain: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
    """Return the mean of (..., 3, rows, columns) and of what was found in the mirror image.

    The latter is turned back; left and right lung change places in a mirror.
    """
    return 0.5 * (plain + turned.flip(-1)[..., [1, 0, 2], :, :])
