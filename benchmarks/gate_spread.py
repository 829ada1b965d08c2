"""Which measure of doubt predicts the error of the percentage, for `gate_table.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from gate_pictures import Outcome, upright
from numpy.typing import NDArray
from scipy import stats

from worker.inference import Segmenter
from worker.postprocess import masks_from_probabilities
from worker.training.cases import Case, load_manifest
from worker.types import LungMasks

_LUNG: Final = 0.5
_USED: Final = "range over both passes and three thresholds (used)"


def spread_section(
    data: Path, model: Segmenter, sets: dict[str, list[Outcome]], bound: float
) -> list[str]:
    """Rank measures on the training cases, then show what the bound does, by set."""
    cases = {part: _opaque(data, part) for part in ("train", "test")}
    measured = {part: [_measure(case, model) for case in some] for part, some in cases.items()}
    lines = [
        "| Measure, in percentage points or percent of the lungs | Spearman, train | test |",
        "|---|---|---|",
    ]
    ranks = {
        name: [_rank(measured[part], name) for part in measured] for name in measured["train"][0]
    }
    ranks.pop("error")
    for name, (train, test) in sorted(ranks.items(), key=lambda item: -item[1][0]):
        lines.append(f"| {name} | {train:.2f} | {test:.2f} |")
    lines += ["", "| Set | Pictures | 50 % | 90 % | 95 % | largest | caveat `uncertain` |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, outcomes in sets.items():
        values = np.array([it.spread for it in outcomes if it.spread is not None])
        if values.size:
            shown = " | ".join(f"{it:.1f}" for it in np.percentile(values, (50, 90, 95, 100)))
            over = int((values > bound).sum())
            lines.append(f"| {name} | {values.size} | {shown} | {_share(over, values.size)} |")
    lines += ["", "| gb cases | Mean error, no caveat | Mean error, caveat |", "|---|---|---|"]
    for part, rows in measured.items():
        flagged = np.array([row[_USED] > bound for row in rows])
        errors = np.array([row["error"] for row in rows])
        shown = " | ".join(_mean(errors[chosen]) for chosen in (~flagged, flagged))
        lines.append(f"| {part} ({len(rows)}) | {shown} |")
    return lines


def _opaque(data: Path, part: str) -> list[Case]:
    cases = load_manifest(data)
    return [it for it in cases if it.has_opacity and it.split == part and it.labels is not None]


def _rank(rows: Sequence[dict[str, float]], name: str) -> float:
    """Spearman's correlation of a measure with the error."""
    found = stats.spearmanr([row[name] for row in rows], [row["error"] for row in rows])
    return float(found.statistic)


def _measure(case: Case, model: Segmenter) -> dict[str, float]:
    grey = case.pixels()
    one = model.probabilities(upright(grey))
    turned = model.probabilities(upright(np.ascontiguousarray(grey[:, ::-1])))
    two = np.ascontiguousarray(turned[[1, 0, 2], :, ::-1])
    found = model.read(model.prepared(upright(grey)), with_spread=True)
    left, right, opacity = case.masks()
    reader = LungMasks(left, right, opacity & (left | right))
    first, second = (masks_from_probabilities(it, _LUNG, _LUNG) for it in (one, two))
    lungs = first.left | first.right
    ranges = [_percent(masks_from_probabilities(one, _LUNG, it)) for it in (0.3, 0.5, 0.7)]
    return {
        "error": abs(_percent(found.masks) - _percent(reader)),
        _USED: found.spread or 0.0,
        "range over three thresholds, one pass": max(ranges) - min(ranges),
        "percentage, image against mirror image": abs(_percent(first) - _percent(second)),
        "area called differently in the mirror image": _part(first.opacity ^ second.opacity, lungs),
        "mean change of probability in the mirror image": 100.0
        * _mean_of(abs(one - two)[2], lungs),
        "mean doubt, 1 - abs(2p - 1)": 100.0 * _mean_of(1.0 - abs(2.0 * one[2] - 1.0), lungs),
        "lung area called differently in the mirror image": _part(
            (first.left ^ second.left) | (first.right ^ second.right), lungs
        ),
        "the percentage itself": _percent(found.masks),
    }


def _percent(masks: LungMasks) -> float:
    return _part(masks.opacity, masks.left | masks.right)


def _part(area: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> float:
    return 100.0 * float(area.sum()) / max(1, int(lungs.sum()))


def _mean_of(field: NDArray[np.float32], lungs: NDArray[np.bool_]) -> float:
    return float(field[lungs].mean()) if lungs.any() else 0.0


def _mean(errors: NDArray[np.float64]) -> str:
    return f"{errors.mean():.1f} ({errors.size})" if errors.size else "none"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)"
