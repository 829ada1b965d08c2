"""Whether the percentage tells outcomes apart, beside what view and age tell alone.

Pictures of the sickest are taken lying, from the front (AP): the view itself predicts intensive
care. So the percentage is judged within a view, and beside the baselines on the same pictures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.training.cases import Case
from worker.training.evaluation.estimates import (
    Estimate,
    Sampling,
    Statistic,
    auc,
    auc_within,
)
from worker.training.evaluation.measured import view_of

FEW: Final = 5  # outcomes of a kind below which an AUC is not given
_VIEWS: Final = ("AP", "PA")


@dataclass(frozen=True)
class Outcome:
    """What happened: the column of the table and the value that counts as the event."""

    name: str
    label: str
    event: str
    other: str

    def of(self, case: Case) -> bool | None:
        """Return whether it happened; None when it is not known."""
        value = getattr(case, self.name)
        return True if value == self.event else False if value == self.other else None


OUTCOMES: Final = (
    Outcome("went_icu", "intensive care", "Y", "N"),
    Outcome("survival", "death", "N", "Y"),
)


@dataclass(frozen=True)
class OutcomeRow:
    """One predictor of one outcome on one set of pictures; `few` says why there is no AUC."""

    outcome: str
    predictor: str
    pictures: str
    events: int
    others: int
    auc: Estimate | None

    @property
    def few(self) -> bool:
        """Whether there were too few of either kind."""
        return self.auc is None


@dataclass(frozen=True)
class _Known:
    """Pictures with a known outcome, as columns."""

    patients: NDArray[np.str_]
    event: NDArray[np.bool_]
    percent: NDArray[np.float64]
    view: NDArray[np.str_]
    age: NDArray[np.float64]

    def only(self, chosen: NDArray[np.bool_]) -> "_Known":
        return _Known(
            self.patients[chosen],
            self.event[chosen],
            self.percent[chosen],
            self.view[chosen],
            self.age[chosen],
        )


def outcome_rows(pairs: Sequence[tuple[Case, float]], sampling: Sampling) -> list[OutcomeRow]:
    """Return every predictor of every outcome over (case, measured percentage)."""
    rows: list[OutcomeRow] = []
    for outcome in OUTCOMES:
        known = _known(pairs, outcome)
        viewed = known.only(np.isin(known.view, _VIEWS))
        aged = known.only(np.isfinite(known.age))
        for predictor, pictures, part, statistic in (
            ("percentage", "all", known, lambda it: auc(it.percent, it.event)),
            ("percentage", "pairs of one view", viewed, _within_view),
            *(
                ("percentage", f"{view} only", known.only(known.view == view), _percentage)
                for view in _VIEWS
            ),
            (
                "AP view alone",
                "AP and PA",
                viewed,
                lambda it: auc(1.0 * (it.view == "AP"), it.event),
            ),
            ("age alone", "with age", aged, lambda it: auc(it.age, it.event)),
            ("percentage", "with age", aged, _percentage),
        ):
            rows.append(_row(outcome.label, predictor, pictures, part, statistic, sampling))
    return rows


def _percentage(known: _Known) -> Statistic:
    return auc(known.percent, known.event)


def _within_view(known: _Known) -> Statistic:
    return auc_within(known.percent, known.event, known.view)


def _row(
    outcome: str,
    predictor: str,
    pictures: str,
    known: _Known,
    statistic: Callable[[_Known], Statistic],
    sampling: Sampling,
) -> OutcomeRow:
    events = int(known.event.sum())
    others = len(known.event) - events
    estimate = None
    if min(events, others) >= FEW:
        estimate = sampling.over(list(known.patients)).estimate(statistic(known))
    return OutcomeRow(outcome, predictor, pictures, events, others, estimate)


def _known(pairs: Sequence[tuple[Case, float]], outcome: Outcome) -> _Known:
    known = [(case, percent, outcome.of(case)) for case, percent in pairs]
    rows = [(case, percent, event) for case, percent, event in known if event is not None]
    return _Known(
        patients=np.array([case.person for case, _, _ in rows], dtype=np.str_),
        event=np.array([event for *_, event in rows], dtype=np.bool_),
        percent=np.array([percent for _, percent, _ in rows], dtype=np.float64),
        view=np.array([view_of(case.view) for case, _, _ in rows], dtype=np.str_),
        age=np.array([case.age for case, _, _ in rows], dtype=np.float64),
    )
