"""What a model should reach, what readers reach, and what others have published."""

from dataclasses import dataclass
from typing import Final, Literal

from worker.training.evaluation.estimates import Estimate

Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True)
class Target:
    """One bound on one figure: an overlap is at least that, what has a `unit` at most.

    `readers` is how far two people agree on the public pictures.
    """

    section: str
    figure: str
    label: str
    bound: float
    unit: str = ""
    readers: float | None = None

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return not self.unit

    def verdict(self, estimate: Estimate | None) -> Verdict:
        """Judge the figure itself, not its interval."""
        if estimate is None or estimate.value is None:
            return "not measured"
        met = estimate.value >= self.bound if self.at_least else estimate.value <= self.bound
        return "met" if met else "missed"

    def is_certain(self, estimate: Estimate) -> bool:
        """Say whether the whole interval lies on one side of the bound."""
        if estimate.low is None or estimate.high is None:
            return False
        return not estimate.low < self.bound < estimate.high


_OPACITY, _LUNGS, _PERCENT, _NORMALS = "opacity", "lungs", "percent", "normals"
TARGETS: Final = (
    Target(_OPACITY, "dice_pooled", "Opacity Dice, pixels pooled", 0.74, readers=0.761),
    Target(_OPACITY, "dice_mean", "Opacity Dice, mean per image", 0.70, readers=0.484),
    Target(_OPACITY, "recall", "Opacity recall, pixels pooled", 0.70),
    Target(_LUNGS, "lung_dice", "Lungs Dice, mean per image", 0.95, readers=0.947),
    Target(_PERCENT, "mae", "Percentage, mean absolute error", 10.0, "points", readers=15.0),
    Target(_NORMALS, "median", "Normals never trained on, median", 2.0, "%"),
    Target(_NORMALS, "p90", "Normals never trained on, 90th percentile", 10.0, "%"),
)


@dataclass(frozen=True)
class Published:
    """Figures of others, as they published them, and what may be compared with ours."""

    name: str
    data: str
    figures: str
    comparable: str


READERS: Final = (
    Published(
        "Two readers of the same pictures",
        "15 public pictures (opacity); gb and v7 (lungs)",
        "opacity Dice 0.761 pooled, 0.484 mean per image; percentages differ by 15 points on "
        "average; lungs Dice 0.947",
        "As a ceiling: same collections and definitions, not the same pictures. A model that "
        "learned from one reader can come closer to him than another reader does.",
    ),
)
ANCESTORS: Final = (
    Published(
        "ResNet18-UNet",
        "221 rural radiographs, validation part",
        "F1 0.643, IoU 0.496 at its best epoch; F1 0.623, IoU 0.476 at the last",
        "No: other pictures, lungs about 29 % smaller (without the region behind the heart), and "
        "the best epoch was picked on the pictures it was measured on. The figures are averages: "
        "pooled pixels would give F1 0.663 with this IoU.",
    ),
    Published(
        "Adversarial network (GAN)",
        "the gb collection, in a division of its own",
        "Dice 0.886 in training, 0.501 on test; recall 0.474, precision 0.532",
        "Partly: same collection and readers, but other test pictures. Precision and recall give "
        "this Dice exactly, as pooled pixels do. The training figure compares with nothing here.",
    ),
)
