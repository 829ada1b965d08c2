"""Drawn chests whose percentage is known exactly: they test the chain, not the medicine."""

from collections.abc import Iterable
from typing import Final

import numpy as np

from worker.training.evaluation.measured import Segment, percent
from worker.training.phantom import make_phantom

TEST_PHANTOM_SEEDS: Final = range(500_000, 500_040)
_ROWS: Final = 512


def phantom_figures(segment: Segment, seeds: Iterable[int]) -> dict[str, float | int]:
    """Known against measured percentage of phantoms; every other one has none."""
    errors, alarms = [], []
    for number, seed in enumerate(seeds):
        clear = number % 2 == 0
        phantom = make_phantom(seed, _ROWS, 0.0 if clear else None, "AP" if number % 4 else "PA")
        found = percent(segment(phantom.pixels))
        if clear:
            alarms.append(found)
        else:
            errors.append(found - (phantom.percent or 0.0))
    return {
        "phantoms": len(errors) + len(alarms),
        "phantom_percent_mae": float(np.mean(np.abs(errors))),
        "phantom_percent_max_error": float(np.max(np.abs(errors))),
        "phantom_clear_percent_max": max(alarms),
    }
