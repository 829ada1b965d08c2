"""Losses that see only what a reader has judged."""

import torch
from torch.nn import functional

_SMOOTH = 1.0


def segmentation_loss(
    logits: torch.Tensor, targets: torch.Tensor, supervised: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy plus batch Dice over the supervised pixels; a scalar.

    All three are (batch, channels, rows, columns); `targets` are 0..1, `supervised` is the weight
    of a pixel, 0 where nobody judged. Dice is taken per channel over the whole batch, so that a
    case without opacity does not weigh like one. A weight above 1 counts twice in the overlap, so
    the loss of a perfect answer may lie below zero: it then favours recall.
    """
    logits = logits.float()
    entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    axes = (0, 2, 3)
    judged = supervised.sum(dim=axes).clamp(min=1.0)
    mean_entropy = (entropy * supervised).sum(dim=axes) / judged
    probabilities = logits.sigmoid() * supervised
    truth = targets * supervised
    overlap = 2.0 * (probabilities * truth).sum(dim=axes) + _SMOOTH
    sizes = probabilities.sum(dim=axes) + truth.sum(dim=axes) + _SMOOTH
    return (mean_entropy + 1.0 - overlap / sizes).mean()
