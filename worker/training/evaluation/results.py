"""What an evaluation holds, handed from measuring to plots, report and JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from worker.training.curves import OperatingPoint
from worker.training.evaluation.calibration import Calibration
from worker.training.evaluation.estimates import Estimate, Figures
from worker.training.evaluation.figures import of_kind
from worker.training.evaluation.measured import Measured
from worker.training.evaluation.outcome import OutcomeRow
from worker.training.evaluation.robustness import RobustnessRow
from worker.training.evaluation.targets import ANCESTORS, READERS, TARGETS, Target, Verdict
from worker.training.evaluation.timing import Timing

Sections = dict[str, Figures]
Groups = dict[str, dict[str, Sections]]


@dataclass(frozen=True)
class CrossValidated:
    """The same figures from the folds, at the threshold chosen on them."""

    folds: int
    seed: int
    recipe_sha256: str
    threshold: float
    images: int
    sections: Sections
    trade_off: tuple[OperatingPoint, ...]


@dataclass(frozen=True)
class Judged:
    """One target beside what was measured; `certain` when the interval does not hold the bound."""

    target: Target
    test: Estimate | None
    folds: Estimate | None
    verdict: Verdict
    certain: bool


@dataclass(frozen=True)
class Evaluation:
    """Everything measured. None and absent keys stand for what was skipped or had no pictures.

    `groups` is what was measured, then by what it is divided, then the group.
    """

    model: dict[str, Any]
    about: dict[str, Any]
    read: tuple[Measured, ...]
    normals: tuple[Measured, ...]
    sections: Sections
    groups: Groups
    trade_off: tuple[OperatingPoint, ...]
    point: OperatingPoint
    boundaries: Sections | None
    calibration: Calibration | None
    cross_validation: CrossValidated | None
    outcome: tuple[OutcomeRow, ...] | None
    robustness: tuple[RobustnessRow, ...] | None
    phantoms: dict[str, float | int] | None
    timing: Timing | None
    left_out: tuple[str, ...]

    @property
    def opaque(self) -> list[Measured]:
        """The pictures with a reading of opacity."""
        return of_kind(self.read, "opacity")

    def judged(self) -> list[Judged]:
        """Return every target with its verdict, which is the test part's."""
        folds = self.cross_validation.sections if self.cross_validation else {}
        rows = []
        for target in TARGETS:
            test = self.sections.get(target.section, {}).get(target.figure)
            rows.append(
                Judged(
                    target=target,
                    test=test,
                    folds=folds.get(target.section, {}).get(target.figure),
                    verdict=target.verdict(test),
                    certain=test is not None and target.is_certain(test),
                )
            )
        return rows

    def to_json(self) -> str:
        """Return every number as JSON text, with targets and the published figures.

        Pictures are named by their case; the patients behind them stay out.
        """
        values: dict[str, Any] = {
            "targets": [asdict(row) for row in self.judged()],
            **asdict(self),
            "published": [asdict(row) for row in (*READERS, *ANCESTORS)],
        }
        for picture in (*values["read"], *values["normals"]):
            del picture["patient"]
        return json.dumps(values, indent=1, allow_nan=False) + "\n"
