"""What a classifier's probabilities are worth, beside what one knows without looking.

In cross-validation every fold has a network of its own, so pairs count for the ROC AUC only when
both pictures are of one fold; a baseline that knows nothing then has 0.5, not less.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.training.cases import Case
from worker.training.evaluation.estimates import Estimate, Indices, Sampling, auc_within
from worker.training.evaluation.measured import NOT_STATED, view_of
from worker.training.two_step import collection_of

BINS: Final = 10
_SMOOTH: Final = 1.0


def _age(case: Case) -> str:
    return NOT_STATED if case.age is None else f"{int(case.age // 10)}0s"


def _number(case: Case) -> str:
    return f"{int(case.patient) // 1000} thousand" if case.patient.isdigit() else NOT_STATED


def _bytes(case: Case) -> str:
    return f"{case.image.stat().st_size // 4096} blocks"


BASELINES: Final[Mapping[str, Callable[[Case], str]]] = {
    "collection": collection_of,
    "view": lambda case: view_of(case.view),
    "age, by decade": _age,
    "patient number, by thousand": _number,
    "size of the picture file, by 4 kB": _bytes,
}


@dataclass(frozen=True)
class Answers:
    """Probabilities (cases, labels) for cases of known class, each from a fold's network."""

    names: tuple[str, ...]
    cases: tuple[Case, ...]
    classes: NDArray[np.intp]
    fold: NDArray[np.intp]
    probabilities: NDArray[np.float64]

    @property
    def persons(self) -> list[str]:
        """The patient of each case."""
        return [case.person for case in self.cases]

    def where(self, kept: NDArray[np.bool_]) -> "Answers":
        """Return some of the cases."""
        cases = tuple(case for case, keep in zip(self.cases, kept, strict=True) if keep)
        return Answers(
            self.names, cases, self.classes[kept], self.fold[kept], self.probabilities[kept]
        )

    def between(self, first: int, second: int) -> "Answers":
        """Return the cases of two classes, with the odds between these two only."""
        chosen = self.where(np.isin(self.classes, (first, second)))
        pair = chosen.probabilities[:, [first, second]]
        return Answers(
            (self.names[first], self.names[second]),
            chosen.cases,
            np.where(chosen.classes == first, 0, 1),
            chosen.fold,
            pair / np.maximum(pair.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny),
        )

    @property
    def asked(self) -> tuple[int, ...]:
        """The labels that need a figure: of two, the second mirrors the first."""
        return tuple(range(len(self.names))) if len(self.names) > 2 else (0,)  # noqa: PLR2004  two

    def collections(self) -> NDArray[np.str_]:
        """Return the collection of each case."""
        return np.array([collection_of(case) for case in self.cases], dtype=np.str_)


Areas = dict[str, Estimate]


def areas(answers: Answers, sampling: Sampling, within: Sequence[str] | None = None) -> Areas:
    """Return the ROC AUC of each label against the rest; `within` divides the pairs further."""
    strata = answers.fold.astype(np.str_)
    if within is not None:
        strata = np.char.add(strata, np.array(within, dtype=np.str_))
    bootstrap = sampling.over(answers.persons)
    return {
        answers.names[label]: bootstrap.estimate(
            auc_within(answers.probabilities[:, label], answers.classes == label, strata)
        )
        for label in answers.asked
    }


def baseline(answers: Answers, key: Callable[[Case], str]) -> Answers | None:
    """Return the shares of the classes among other folds' cases with the same key.

    None when the key is the same for all: then there is nothing to know.
    """
    keys = np.array([key(case) for case in answers.cases], dtype=np.str_)
    if len(np.unique(keys)) == 1:
        return None
    probabilities = np.zeros((len(answers.cases), len(answers.names)))
    for fold in np.unique(answers.fold):
        seen = answers.fold != fold
        prior = _shares(answers.classes[seen], len(answers.names), np.zeros(len(answers.names)))
        for value in np.unique(keys[~seen]):
            same = answers.classes[seen & (keys == value)]
            of_value = ~seen & (keys == value)
            probabilities[of_value] = _shares(same, len(answers.names), prior)
    return Answers(answers.names, answers.cases, answers.classes, answers.fold, probabilities)


def _shares(
    classes: NDArray[np.intp], count: int, prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    counted = np.bincount(classes, minlength=count) + _SMOOTH * prior
    shares: NDArray[np.float64] = counted / max(counted.sum(), _SMOOTH)
    return shares


def tells_collection(answers: Answers, label: int, collection: str, sampling: Sampling) -> Estimate:
    """Return the ROC AUC of a label's probability for 'the picture is of that collection'."""
    of_it = answers.collections() == collection
    statistic = auc_within(answers.probabilities[:, label], of_it, answers.fold.astype(np.str_))
    return sampling.over(answers.persons).estimate(statistic)


def confusion(answers: Answers) -> NDArray[np.intp]:
    """Count (true class, likeliest class)."""
    count = len(answers.names)
    likeliest = answers.probabilities.argmax(axis=1)
    table: NDArray[np.intp] = np.bincount(
        answers.classes * count + likeliest, minlength=count * count
    ).reshape(count, count)
    return table


@dataclass(frozen=True)
class Reliability:
    """Whether probabilities are ones: over every label of every case, in bins of equal width."""

    error: Estimate
    brier: Estimate
    stated: tuple[float, ...]
    observed: tuple[float, ...]
    counts: tuple[int, ...]


def reliability(answers: Answers, sampling: Sampling) -> Reliability:
    """Return expected calibration error, Brier score (sum over the labels) and the diagram."""
    truth = np.eye(len(answers.names))[answers.classes]
    stated = answers.probabilities
    number = np.minimum((stated * BINS).astype(np.intp), BINS - 1)

    def bins(drawn: Indices) -> NDArray[np.float64]:
        weights = (np.ones_like(stated), stated, truth)
        return np.stack(
            [
                np.bincount(number[drawn].ravel(), each[drawn].ravel(), minlength=BINS)
                for each in weights
            ]
        )

    def error(drawn: Indices) -> float:
        count, probability, true = bins(drawn)
        return float(np.abs(probability - true).sum() / count.sum())

    squared = np.square(stated - truth).sum(axis=1)
    bootstrap = sampling.over(answers.persons)
    count, probability, true = bins(np.arange(len(answers.cases)))
    filled = count > 0
    return Reliability(
        error=bootstrap.estimate(error),
        brier=bootstrap.estimate(lambda drawn: float(squared[drawn].mean())),
        stated=tuple((probability[filled] / count[filled]).tolist()),
        observed=tuple((true[filled] / count[filled]).tolist()),
        counts=tuple(int(one) for one in count[filled]),
    )


def origins(cases: Sequence[Case], classes: Sequence[int]) -> Counter[tuple[str, int]]:
    """Count pictures by (collection, class)."""
    return Counter(zip(map(collection_of, cases), classes, strict=True))
