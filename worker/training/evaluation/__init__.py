"""The report on a model: what it measures, on which pictures, and how sure that is."""

from typing import Final

PARTS: Final = (
    *("boundaries", "calibration", "outcome", "robustness", "phantoms", "timing", "sheets"),
)
