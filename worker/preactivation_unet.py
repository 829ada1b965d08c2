"""The first ancestor's opacity network, and its place beside lungs of ours.

A pre-activation ResNet18 under a U-Net decoder, as `segmentation_models` 1.0 built it on the
`resnet18` of `classification_models` 1.0. Submodules are named so that their path, with `_` for
`.`, is the name of the Keras layer: published weights find their place without a table.
"""

from typing import Final

import torch
from torch import nn
from torch.nn import functional

_ENCODER_EPSILON: Final = 2e-5  # the backbone's own; the decoder has the Keras default
_DECODER_EPSILON: Final = 1e-3
_MOMENTUM: Final = 0.01  # Keras 0.99 counts the old share, torch the new one
_STAGE_WIDTHS: Final = (64, 128, 256, 512)
_DECODER_WIDTHS: Final = (256, 128, 64, 32, 16)
_CONTRAST_FLOOR: Final = 1e-6


class InputNorm(nn.Module):
    """Batch normalisation without a scale, which torch does not offer; by stored statistics."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise per channel."""
        scale = (self.running_var + _ENCODER_EPSILON).rsqrt()
        shift = self.bias - self.running_mean * scale
        return image * scale[:, None, None] + shift[:, None, None]


class ResidualUnit(nn.Module):
    """Normalise, activate, convolve, twice; the first unit of a stage projects its shortcut."""

    def __init__(self, channels: int, width: int, stride: int, *, projects: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels, _ENCODER_EPSILON, _MOMENTUM)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width, _ENCODER_EPSILON, _MOMENTUM)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.sc = nn.Conv2d(channels, width, 1, stride, bias=False) if projects else None

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the output and the activated input, which the decoder takes as its skip."""
        active = functional.relu(self.bn1(inputs))
        shortcut = inputs if self.sc is None else self.sc(active)
        inner = functional.relu(self.bn2(self.conv1(active)))
        return self.conv2(inner) + shortcut, active


class DecoderHalf(nn.Module):
    """Convolution, normalisation, activation: half of a decoder stage."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width, _DECODER_EPSILON, _MOMENTUM)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the activated features."""
        return functional.relu(self.bn(self.conv(inputs)))


class PreactivationUNet(nn.Module):
    """One opacity logit per pixel from three channels in the grey range it was trained on.

    Sides are multiples of 32. 14,340,570 numbers, as Keras counts them (moving statistics too).
    """

    def __init__(self) -> None:
        super().__init__()
        self.bn_data = InputNorm(3)
        self.conv0 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn0 = nn.BatchNorm2d(64, _ENCODER_EPSILON, _MOMENTUM)
        # Keras pads with zeros, torch with -inf: after an activation the maximum is the same.
        self.pooling0 = nn.MaxPool2d(3, 2, padding=1)
        channels, skips = 64, [64]
        for stage, width in enumerate(_STAGE_WIDTHS, start=1):
            stride = 1 if stage == 1 else 2
            skips += [channels] if stage > 1 else []
            first = ResidualUnit(channels, width, stride, projects=True)
            self.add_module(f"stage{stage}_unit1", first)
            self.add_module(f"stage{stage}_unit2", ResidualUnit(width, width, 1, projects=False))
            channels = width
        self.bn1 = nn.BatchNorm2d(channels, _ENCODER_EPSILON, _MOMENTUM)
        for stage, width in enumerate(_DECODER_WIDTHS):
            joined = channels + (skips.pop() if skips else 0)
            self.add_module(f"decoder_stage{stage}a", DecoderHalf(joined, width))
            self.add_module(f"decoder_stage{stage}b", DecoderHalf(width, width))
            channels = width
        self.final_conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1, height, width) of (batch, 3, height, width)."""
        active = functional.relu(self.bn0(self.conv0(self.bn_data(image))))
        skips = [active]
        features = self.pooling0(active)
        for stage in range(1, len(_STAGE_WIDTHS) + 1):
            features, active = self.get_submodule(f"stage{stage}_unit1")(features)
            skips += [active] if stage > 1 else []
            features, _ = self.get_submodule(f"stage{stage}_unit2")(features)
        features = functional.relu(self.bn1(features))
        for stage in range(len(_DECODER_WIDTHS)):
            features = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            if skips:
                features = torch.cat([features, skips.pop()], dim=1)
            features = self.get_submodule(f"decoder_stage{stage}a")(features)
            features = self.get_submodule(f"decoder_stage{stage}b")(features)
        logits: torch.Tensor = self.final_conv(features)
        return logits


class OpacityWithLungs(nn.Module):
    """Left lung and right lung of one of our networks, opacity of the ancestor's.

    `lungs_size` is the side that `lungs` was trained at; None takes the image as it comes.
    `input_range` is what black and white were when the ancestor was trained.
    Raises ValueError when the range does not ascend.
    """

    def __init__(
        self, lungs: nn.Module, lungs_size: int | None, input_range: tuple[float, float]
    ) -> None:
        super().__init__()
        self._black, self._white = input_range
        if not self._black < self._white:
            msg = f"input_range must ascend, not {input_range}"
            raise ValueError(msg)
        self._lungs_size = lungs_size
        self.lungs = lungs
        self.opacity = PreactivationUNet()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return three logits per pixel of a standardised image (batch, 1, side, side)."""
        return torch.cat([self._both_lungs(image), self.opacity(self._grey(image))], dim=1)

    def _both_lungs(self, image: torch.Tensor) -> torch.Tensor:
        side, own = image.shape[-1], self._lungs_size
        if own is None or own == side:
            logits: torch.Tensor = self.lungs(image)
            return logits[:, :2]
        small = functional.interpolate(image, (own, own), mode="bilinear", antialias=True)
        return functional.interpolate(self.lungs(small)[:, :2], (side, side), mode="bilinear")

    def _grey(self, image: torch.Tensor) -> torch.Tensor:
        """Undo the standardisation: darkest to black, brightest to white, three equal channels.

        The padding is the mean of the image, so it is never one of the two.
        """
        low = image.amin(dim=(1, 2, 3), keepdim=True)
        contrast = (image.amax(dim=(1, 2, 3), keepdim=True) - low).clamp(min=_CONTRAST_FLOOR)
        grey = (image - low) / contrast * (self._white - self._black) + self._black
        return grey.expand(-1, 3, -1, -1)
