"""EfficientNet-Lite0 as an encoder of MONAI's FlexibleUNet.

EfficientNet-B0 without squeeze-and-excitation, with ReLU6 for swish (Google, 2020, "EfficientNet
Lite"): the same accuracy class, without the operations that are slow on CPUs. MONAI has the blocks
and the U-Net; this puts them together.
"""

from typing import Any, Final

from monai.networks.nets import EfficientNetEncoder
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from torch import nn

NAME: Final = "efficientnet-lite0"
# repeats, kernel, stride, expansion, channels in and out; B0's without their squeeze
_BLOCKS: Final = (
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
)
_CLASSIFIER: Final = ("_conv_head_padding", "_conv_head", "_bn1", "_avg_pooling", "_dropout", "_fc")


class EfficientNetLiteEncoder(EfficientNetEncoder):
    """Five feature maps of 16, 24, 40, 112, 320 channels, at 1/2 to 1/32 of the side.

    The side must be a multiple of 32: paddings are laid out for even maps. `pretrained` is part of
    MONAI's interface and must be False; `worker.training.pretrained` loads such weights.
    """

    backbone_names = [NAME]  # noqa: RUF012  MONAI's name for it

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        pretrained: bool = False,  # noqa: FBT001, FBT002  MONAI's signature
        drop_connect_rate: float = 0.1,
    ) -> None:
        if pretrained:
            msg = "MONAI has no pretrained weights of EfficientNet-Lite"
            raise ValueError(msg)
        EfficientNet.__init__(
            self,
            blocks_args_str=list(_BLOCKS),
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            num_classes=1,
            norm=("batch", {"eps": 1e-3, "momentum": 0.05}),
            drop_connect_rate=drop_connect_rate,
        )
        for part in _CLASSIFIER:
            setattr(self, part, nn.Identity())
        for module in self.modules():
            if isinstance(module, EfficientNet | MBConvBlock):
                module._swish = nn.ReLU6(inplace=True)  # noqa: SLF001  MONAI has no other way

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """Return what FlexibleUNet calls the constructor with."""
        return [{"spatial_dims": 2, "in_channels": 1, "pretrained": False}]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Return the channels of the five maps."""
        return [(16, 24, 40, 112, 320)]

    @classmethod
    def num_outputs(cls) -> list[int]:
        """Return the number of maps."""
        return [5]


FLEXUNET_BACKBONE.register_class(EfficientNetLiteEncoder)
