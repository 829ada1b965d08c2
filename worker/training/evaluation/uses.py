"""Which pictures of a data set serve for what, so that none that trained is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.training.cases import Case, apart_from, held_out
from worker.training.evaluation.outcome import OUTCOMES


@dataclass(frozen=True)
class Uses:
    """Pictures with a reading, normals kept from training, and pictures with a known outcome.

    One picture may serve for several.
    """

    read: tuple[Case, ...]
    normals: tuple[Case, ...]
    outcome: tuple[Case, ...]

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Uses":
        """Divide a data set; of a patient who trained, no picture is a normal or tells an outcome.

        Raises ValueError when there is nothing to measure on.
        """
        trained = [case for case in cases if case.split == "train"]
        told = [
            case
            for case in cases
            if case.split != "train" and any(it.of(case) is not None for it in OUTCOMES)
        ]
        uses = cls(
            read=tuple(case for case in cases if case.split == "test" and case.labels is not None),
            normals=tuple(apart_from([case for case in cases if held_out(case)], trained)),
            outcome=tuple(apart_from(told, trained)),
        )
        if not uses.all:
            msg = "the data hold no labelled test case, no held-out normal and no outcome"
            raise ValueError(msg)
        return uses

    @property
    def all(self) -> list[Case]:
        """Every picture once, in their order."""
        each = {case.name: case for case in (*self.read, *self.normals, *self.outcome)}
        return list(each.values())
