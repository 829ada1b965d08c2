"""Figures over a set of measured pictures, each with its interval."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.analysis_sections import AnalysisSettings
from worker.measurements import severity_of
from worker.training.curves import ALARM_PERCENT
from worker.training.evaluation.estimates import (
    Figures,
    Sampling,
    correlation,
    mean,
    percentile,
    ratio,
)
from worker.training.evaluation.measured import NOT_STATED, Measured
from worker.types import Severity

Key = Callable[[Measured], str]
Section = Callable[[Sequence[Measured], Sampling], Figures]
LIMITS_OF_AGREEMENT: Final = 1.96
_ORDER: Final = {band.value: number for number, band in enumerate(Severity, start=1)}
_CLOSE: Final = 10.0  # points: the target of the mean absolute error


def of_kind(rows: Iterable[Measured], kind: str) -> list[Measured]:
    """Return the pictures measured for one thing."""
    return [row for row in rows if row.kind == kind]


def by(rows: Sequence[Measured], key: Key, section: Section, sampling: Sampling) -> dict[str, Any]:
    """Return a section for each group of pictures; severities ascend, other names by the letter."""
    names = sorted({key(row) for row in rows}, key=lambda name: (_ORDER.get(name, 0), name))
    return {name: section([row for row in rows if key(row) == name], sampling) for name in names}


def band_of(row: Measured) -> str:
    """Return the severity band that the reader's percentage falls into."""
    if row.true_percent is None:
        return NOT_STATED
    return severity_of(row.true_percent, AnalysisSettings()).value


def opacity_figures(rows: Sequence[Measured], sampling: Sampling) -> Figures:
    """Overlap with the reader's opacity, of pixels pooled and as a mean over images."""
    overlaps = [row.opacity for row in rows]
    both, measured, true = (
        _column(getattr(overlap, name) for overlap in overlaps)
        for name in ("both", "measured", "true")
    )
    statistics = {
        "dice_pooled": ratio(2 * both, measured + true),
        "iou_pooled": ratio(both, measured + true - both),
        "precision": ratio(both, measured),
        "recall": ratio(both, true),
        "dice_mean": mean(_column(overlap.dice for overlap in overlaps)),
        "iou_mean": mean(_column(overlap.iou for overlap in overlaps)),
        "precision_mean": mean(_column(overlap.precision for overlap in overlaps)),
        "recall_mean": mean(_column(overlap.recall for overlap in overlaps)),
    }
    bootstrap = sampling.over([row.patient for row in rows])
    return {name: bootstrap.estimate(statistic) for name, statistic in statistics.items()}


def percent_figures(rows: Sequence[Measured], sampling: Sampling) -> Figures:
    """Measured percentage against the reader's, where he read lungs and opacity."""
    read = [row for row in rows if row.true_percent is not None]
    found, true = _column(row.percent for row in read), _column(row.true_percent for row in read)
    errors = found - true

    def limit(sign: float) -> Callable[[NDArray[np.intp]], float]:
        def of(drawn: NDArray[np.intp]) -> float:
            if len(drawn) < 2:  # noqa: PLR2004  one difference has no spread
                return float("nan")
            spread = LIMITS_OF_AGREEMENT * float(errors[drawn].std(ddof=1))
            return float(errors[drawn].mean()) + sign * spread

        return of

    bootstrap = sampling.over([row.patient for row in read])
    statistics = {
        "mae": mean(np.abs(errors)),
        "bias": mean(errors),
        "agreement_low": limit(-1.0),
        "agreement_high": limit(+1.0),
        "pearson": correlation(found, true),
        "within_10": mean((np.abs(errors) <= _CLOSE).astype(np.float64)),
    }
    return {name: bootstrap.estimate(statistic) for name, statistic in statistics.items()}


def opacity_and_percent(rows: Sequence[Measured], sampling: Sampling) -> Figures:
    """Both sections at once, for tables by group."""
    return {**opacity_figures(rows, sampling), **percent_figures(rows, sampling)}


def lung_figures(rows: Sequence[Measured], sampling: Sampling) -> Figures:
    """Mean Dice of both lungs together and of each side, over pictures with a reading of them."""
    read = [row for row in rows if row.lung_dice is not None]
    figures: Figures = {}
    for name in ("lung_dice", "left_dice", "right_dice"):
        known = [row for row in read if getattr(row, name) is not None]
        values = _column(getattr(row, name) for row in known)
        figures[name] = sampling.over([row.patient for row in known]).estimate(mean(values))
    return figures


def normal_figures(rows: Sequence[Measured], sampling: Sampling) -> Figures:
    """Percentage on pictures read as normal, where every point is a false alarm.

    Drawing again never exceeds the maximum, so that one has no interval.
    """
    values = _column(row.percent for row in rows)
    bootstrap = sampling.over([row.patient for row in rows])
    return {
        "median": bootstrap.estimate(percentile(values, 50)),
        "p90": bootstrap.estimate(percentile(values, 90)),
        "mean": bootstrap.estimate(mean(values)),
        "maximum": replace(bootstrap.estimate(percentile(values, 100)), low=None, high=None),
        "above_5": bootstrap.estimate(mean((values > ALARM_PERCENT).astype(np.float64))),
    }


def _column(values: Iterable[Any]) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)
