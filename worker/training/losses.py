"""The loss of a segmentation that sees only what a reader has judged."""

from typing import Final

import torch
from monai.losses import MaskedDiceLoss
from torch.nn import functional

_DICE: Final = MaskedDiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)


def segmentation_loss(
    logits: torch.Tensor, targets: torch.Tensor, supervised: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy plus batch Dice over the supervised pixels; a scalar.

    All three are (batch, channels, rows, columns); `targets` are 0..1, `supervised` is the weight
    of a pixel, 0 where nobody judged. Dice is taken per channel over the whole batch, so that a
    case without opacity does not weigh like one.
    """
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    axes = (0, 2, 3)
    mean_entropy = (entropy * supervised).sum(dim=axes) / supervised.sum(dim=axes).clamp(min=1.0)
    overlap = torch.stack(
        [
            _DICE(logits[:, [channel]], targets[:, [channel]], supervised[:, [channel]])
            for channel in range(logits.shape[1])
        ]
    )
    return (mean_entropy + overlap).mean()
