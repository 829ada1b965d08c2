"""What the maker of the phantoms knows of them: true percentages, expected status."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from dicom_node.demo.node import Result
from models.reasons import Reason

_LATERAL = frozenset({"LL", "RL"})


@dataclass(frozen=True)
class Known:
    """The truth about one phantom."""

    file: str
    view: str
    status: str
    reason: str | None
    percent: Mapping[str, float | None]

    def problem(self, result: Result | None) -> str | None:
        """Say how the node's status differs from the expected one, or None.

        Percentages are not judged here: the table shows both, side by side.
        """
        if result is None:
            return f"{self.file}: no result"
        if (result.status, result.reason) == (self.status, self.reason):
            return None
        got, wanted = (f"{each.status} ({each.reason})" for each in (result, self))
        return f"{self.file}: {got}, expected {wanted}"


def read_known(manifest: Path) -> dict[str, Known]:
    """Read the manifest of `dicom-worker phantom`; keys are SOP Instance UIDs."""
    instances = json.loads(manifest.read_text())["instances"]
    return {uid: _known(row) for uid, row in instances.items()}


def _known(row: Mapping[str, Any]) -> Known:
    lateral = row["view"] in _LATERAL
    return Known(
        file=row["file"],
        view=row["view"],
        status="not_analysed" if lateral else "analysed",
        reason=Reason.LATERAL_VIEW if lateral else None,
        percent=row["percent"],
    )


def mean_distance(results: list[Result], known: Mapping[str, Known]) -> float | None:
    """Return the mean absolute difference of measured and known totals; None without a pair."""
    pairs = [
        (each.percent["total"], known[each.sop_instance_uid].percent["total"])
        for each in results
        if each.sop_instance_uid in known
    ]
    distances = [abs(one - two) for one, two in pairs if one is not None and two is not None]
    return mean(distances) if distances else None
