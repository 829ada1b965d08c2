"""What the picture itself must show to get a number: one upright chest with plausible lungs.

Pure decisions over what was measured: the look of the view network, the spread of the grey scale,
the shape of the lungs. Bounds come from `benchmarks/gate_table.py`; docs/gate.md has the figures.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.preprocess import Prepared
from worker.types import Caveat, LungMasks, Mask
from worker.view import Look, View

_BLACK: Final = 0.004
_WHITE: Final = 1.0 - _BLACK
MAX_WHITE: Final = 0.4
MAX_EXTREME: Final = 0.75

_VIEW_REASONS: Final = {
    View.INVERTED: Reason.INVERTED,
    View.ROTATED: Reason.ROTATED,
    View.LATERAL: Reason.LATERAL_VIEW,
    View.OTHER: Reason.NOT_CHEST,
}
_SMALLEST: Final = 1e-6
MIN_INVERTED: Final = 0.9  # below, a negative is refused and not turned over
MIN_MIRRORED: Final = 0.99


@dataclass(frozen=True)
class Exposure:
    """Shares of the picture that are pure white, and pure black or white, in its own window."""

    white: float
    extreme: float

    @classmethod
    def of(cls, prepared: Prepared) -> "Exposure":
        """Count inside the picture, without its padding."""
        top, left, height, width = prepared.box
        inside = prepared.windowed[0, 0, top : top + height, left : left + width]
        white = float((inside >= _WHITE).float().mean())
        return cls(white=white, extreme=white + float((inside <= _BLACK).float().mean()))


@dataclass(frozen=True)
class LungShape:
    """Size and place of two lung masks on an upright grid with square pixels.

    `left` and `right` are shares of the picture, `apart` is how far the left lung's centre lies to
    the right of the right lung's (in widths of the picture), `tall` the height of the box around
    both over its width. `apart` is None when a lung is missing.
    """

    left: float
    right: float
    apart: float | None
    tall: float

    @classmethod
    def of(cls, masks: LungMasks) -> "LungShape":
        """Measure masks; without lungs all is zero."""
        both = masks.left | masks.right
        found = masks.left.any() and masks.right.any()
        apart = _centre(masks.left) - _centre(masks.right) if found else None
        rows, columns = (_extent(np.asarray(both.any(axis=axis))) for axis in (1, 0))
        return cls(
            left=float(masks.left.mean()),
            right=float(masks.right.mean()),
            apart=None if apart is None else apart / both.shape[1],
            tall=rows / columns if columns else 0.0,
        )


# Wide on purpose: disease changes lungs more than any rule of thumb allows for, and the view
# network has already seen a chest. What is outside is no lung that anybody has.
MAX_LUNG: Final = 0.5  # of the picture, one side
MIN_APART: Final = 0.05
TALL: Final = (0.45, 1.9)
MIN_RATIO: Final = 0.25  # below: one lung only


def fault_of(look: Look, exposure: Exposure, settings: AnalysisSettings) -> Reason | None:
    """Return why a picture is no upright frontal chest with grey levels, or None."""
    if exposure.white > MAX_WHITE or exposure.extreme > MAX_EXTREME:
        return Reason.SATURATED
    if look.upright >= settings.min_view_probability:
        return None
    return _VIEW_REASONS[look.likeliest_fault]


def may_be_corrected(look: Look, settings: AnalysisSettings) -> bool:
    """Say whether the evidence for an inverted grey scale is strong enough to turn it over."""
    return settings.correct_inverted and look.probabilities[View.INVERTED] >= MIN_INVERTED


def check_lungs(shape: LungShape, settings: AnalysisSettings) -> None:
    """Raise NotAnalysable NO_LUNGS unless there is a plausible lung at least on one side.

    One white or absent lung is disease or surgery, not a wrong picture: it passes with a caveat.
    """
    larger = max(shape.left, shape.right)
    plausible = max(settings.min_lung_fraction, _SMALLEST) <= larger <= MAX_LUNG
    if not is_one_lung(shape, settings):
        apart = shape.apart is not None and shape.apart >= MIN_APART
        plausible = plausible and apart and TALL[0] <= shape.tall <= TALL[1]
    if not plausible:
        raise NotAnalysable(Reason.NO_LUNGS)


def is_one_lung(shape: LungShape, settings: AnalysisSettings) -> bool:
    """Say whether one side is missing, or far smaller than the other."""
    smaller, larger = sorted((shape.left, shape.right))
    return smaller < max(settings.min_lung_fraction, MIN_RATIO * larger)


def lung_caveats(shape: LungShape, settings: AnalysisSettings) -> tuple[Caveat, ...]:
    """Return ONE_LUNG where the figure is that of one lung, or nearly so."""
    return (Caveat.ONE_LUNG,) if is_one_lung(shape, settings) else ()


def view_caveats(look: Look) -> tuple[Caveat, ...]:
    """Return MIRRORED when the heart lies at the other side: sides swapped, or dextrocardia."""
    return (Caveat.MIRRORED,) if look.mirrored >= MIN_MIRRORED else ()


def doubt_caveats(doubt: float, settings: AnalysisSettings) -> tuple[Caveat, ...]:
    """Return UNCERTAIN when too much of the lungs is in doubt; the percentage hangs on them."""
    bound = settings.max_doubt_percent
    return (Caveat.UNCERTAIN,) if 0 < bound < doubt else ()


def _centre(mask: Mask) -> float:
    """Return the mean column of a mask."""
    return float(np.nonzero(mask)[1].mean())


def _extent(line: Mask) -> int:
    """Return how long the stretch from the first to the last true value is."""
    places = np.flatnonzero(line)
    return int(places[-1] - places[0]) + 1 if places.size else 0
