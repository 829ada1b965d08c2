"""A figure with its interval: bootstrap over patients, because pictures of one are alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Indices = NDArray[np.intp]
Statistic = Callable[[Indices], float]
_INTERVAL: Final = (2.5, 97.5)
MIN_PATIENTS: Final = 5  # fewer draw the same few again and again: an interval would be too narrow
_MIN_SHARE: Final = 0.5  # of the replicates must have a value for an interval to mean anything


@dataclass(frozen=True)
class Estimate:
    """One figure; `low` and `high` bound 95 % of the replicates.

    Both are None below MIN_PATIENTS. `value` is None where the pictures do not define it (a
    correlation of one picture).
    """

    value: float | None
    low: float | None
    high: float | None
    images: int
    patients: int


Figures = dict[str, Estimate]


@dataclass(frozen=True)
class Sampling:
    """How intervals are drawn; no replicates, no intervals."""

    replicates: int = 2000
    seed: int = 0

    def over(self, patients: Sequence[str]) -> "Bootstrap":
        """Return the bootstrap of pictures that belong to these patients, in their order."""
        return Bootstrap(patients, self)


class Bootstrap:
    """Draws patients with replacement; every figure of one object sees the same draws."""

    def __init__(self, patients: Sequence[str], sampling: Sampling) -> None:
        self._images = len(patients)
        _, owner = np.unique(np.array(patients, dtype=np.str_), return_inverse=True)
        groups = [np.flatnonzero(owner == number) for number in range(len(set(patients)))]
        self._patients = len(groups)
        random = np.random.default_rng(sampling.seed)
        self._draws: list[Indices] = []
        if self._patients >= MIN_PATIENTS:
            self._draws = [
                np.concatenate([groups[number] for number in draw])
                for draw in random.integers(
                    0, self._patients, (sampling.replicates, self._patients)
                )
            ]

    def estimate(self, statistic: Statistic) -> Estimate:
        """Return the statistic of all pictures, with its interval over the draws."""
        if not self._images:
            return Estimate(None, None, None, 0, 0)
        value = statistic(np.arange(self._images))
        low, high = self._interval(statistic)
        return Estimate(
            value=float(value) if np.isfinite(value) else None,
            low=low,
            high=high,
            images=self._images,
            patients=self._patients,
        )

    def _interval(self, statistic: Statistic) -> tuple[float | None, float | None]:
        values = np.array([statistic(draw) for draw in self._draws], dtype=np.float64)
        finite = values[np.isfinite(values)]
        if not len(values) or len(finite) < _MIN_SHARE * len(values):
            return None, None
        low, high = np.percentile(finite, _INTERVAL)
        return float(low), float(high)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Statistic:
    """Return the statistic sum over sum; 1 where the whole is nothing."""

    def of(drawn: Indices) -> float:
        total = float(whole[drawn].sum())
        return float(part[drawn].sum()) / total if total else 1.0

    return of


def mean(values: NDArray[np.float64]) -> Statistic:
    """Return the statistic mean."""
    return lambda drawn: float(values[drawn].mean())


def percentile(values: NDArray[np.float64], share: float) -> Statistic:
    """Return the statistic percentile, `share` on 0..100."""
    return lambda drawn: float(np.percentile(values[drawn], share))


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> Statistic:
    """Return Pearson's correlation; no number where one of them does not vary."""

    def of(drawn: Indices) -> float:
        x, y = first[drawn] - first[drawn].mean(), second[drawn] - second[drawn].mean()
        scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
        return float((x * y).sum()) / scale if scale else float("nan")

    return of


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Statistic:
    """Return the area under the ROC curve, ties counted half; no number with one class only."""

    def of(drawn: Indices) -> float:
        concordant, pairs = _concordance(scores[drawn], positive[drawn])
        return concordant / pairs if pairs else float("nan")

    return of


def auc_within(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], strata: NDArray[np.str_]
) -> Statistic:
    """Return the AUC over pairs of the same stratum only, so that the stratum itself earns none."""
    members = [strata == stratum for stratum in np.unique(strata)]

    def of(drawn: Indices) -> float:
        parts = [
            _concordance(scores[chosen], positive[chosen])
            for chosen in (drawn[member[drawn]] for member in members)
        ]
        pairs = sum(part[1] for part in parts)
        return sum(part[0] for part in parts) / pairs if pairs else float("nan")

    return of


def _concordance(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, int]:
    """Return how many (positive, negative) pairs are in order, and how many there are."""
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    if not pairs:
        return 0.0, 0
    ranks = float(stats.rankdata(scores)[positive].sum())
    return ranks - positives * (positives + 1) / 2, pairs
