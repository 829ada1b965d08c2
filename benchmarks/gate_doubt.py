"""Which measure of doubt predicts errors, for `gate_table.py`.

Two errors are known of labelled pictures: that of the percentage (where opacity was read) and that
of the lungs. The training cases choose; the test cases are shown beside them.
"""

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

_USED: Final = "lung neither likely nor unlikely (0.25 to 0.75), one pass (used)"
_LUNG, _OPACITY = 0.5, 0.5
Rows = Sequence[dict[str, float]]
Area = NDArray[np.bool_]


def doubt_section(
    data: Path, model: Segmenter, sets: dict[str, list[Outcome]], bound: float
) -> list[str]:
    """Rank the measures, then show what the bound does, by set."""
    rows = {
        part: [_measure(case, model) for case in load_manifest(data) if _is_read(case, part)]
        for part in ("train", "test")
    }
    return [
        f"Bound: {bound} %.",
        "",
        *_ranks(rows),
        "",
        "| Set | Pictures | 50 % | 90 % | 95 % | largest | caveat `uncertain` |",
        "|---|---|---|---|---|---|---|",
        *(_quantiles(name, some, bound) for name, some in sets.items()),
        "",
        "| Cases | Percentage off by: no caveat | caveat | Lungs off by: no caveat | caveat |",
        "|---|---|---|---|---|",
        *(_effect(part, some, bound) for part, some in rows.items()),
    ]


def _is_read(case: Case, part: str) -> bool:
    return case.split == part and case.has_lung and case.labels is not None


def _ranks(rows: dict[str, Rows]) -> list[str]:
    """Spearman's correlations with both errors."""
    errors = ("percentage", "lungs")
    counts = [
        f"{error}, {part} ({len(_known(rows[part], error))})" for error in errors for part in rows
    ]
    lines = [
        f"| Rank correlation with the error of the … | {' | '.join(counts)} |",
        "|---" * 5 + "|",
    ]
    measures = [name for name in rows["train"][0] if name not in errors]
    found = {
        name: [_rank(_known(rows[part], error), name, error) for error in errors for part in rows]
        for name in measures
    }
    for name, values in sorted(found.items(), key=lambda item: -item[1][0]):
        lines.append(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return lines


def _known(rows: Rows, error: str) -> Rows:
    return [row for row in rows if error in row]


def _rank(rows: Rows, name: str, error: str) -> float:
    found = stats.spearmanr([row[name] for row in rows], [row[error] for row in rows])
    return float(found.statistic)


def _quantiles(name: str, outcomes: Sequence[Outcome], bound: float) -> str:
    values = np.array([it.doubt for it in outcomes if it.doubt is not None])
    shown = " | ".join(f"{it:.1f}" for it in np.percentile(values, (50, 90, 95, 100)))
    over = int((values > bound).sum())
    share = f"{over} ({100 * over / values.size:.1f} %)"
    return f"| {name} | {values.size} | {shown} | {share} |"


def _effect(part: str, rows: Rows, bound: float) -> str:
    shown = []
    for error in ("percentage", "lungs"):
        known = _known(rows, error)
        for flagged in (False, True):
            some = [row[error] for row in known if (row[_USED] > bound) is flagged]
            shown.append(f"{np.mean(some):.1f} ({len(some)})" if some else "none")
    return f"| {part} | {' | '.join(shown)} |"


def _measure(case: Case, model: Segmenter) -> dict[str, float]:
    grey = case.pixels()
    one = model.probabilities(upright(grey))
    turned = model.probabilities(upright(np.ascontiguousarray(grey[:, ::-1])))
    two = np.ascontiguousarray(turned[[1, 0, 2], :, ::-1])
    reading = model.read(model.prepared(upright(grey)))
    left, right, opacity = case.masks()
    found = reading.masks
    lungs = found.left | found.right
    first, second = (masks_from_probabilities(it, _LUNG, _OPACITY) for it in (one, two))
    moved = (first.left ^ second.left) | (first.right ^ second.right)
    ranges = [_percent(masks_from_probabilities(one, _LUNG, it)) for it in (0.3, 0.5, 0.7)]
    row = {
        _USED: reading.doubt,
        "lung area called differently in the mirror image": _part(moved, lungs),
        "opacity called differently in the mirror image": _part(
            first.opacity ^ second.opacity, lungs
        ),
        "percentage, picture against mirror image": abs(_percent(first) - _percent(second)),
        "percentage, range over thresholds 0.3 to 0.7": max(ranges) - min(ranges),
        "opacity: mean of 1 - abs(2p - 1) in the lungs": _mean(
            1.0 - abs(2.0 * one[2] - 1.0), lungs
        ),
        "the percentage itself": _percent(found),
        "lungs": _distance(found, left, right),
    }
    if case.has_opacity:
        reader = LungMasks(left, right, opacity & (left | right))
        row["percentage"] = abs(_percent(found) - _percent(reader))
    return row


def _percent(masks: LungMasks) -> float:
    return _part(masks.opacity, masks.left | masks.right)


def _distance(found: LungMasks, left: Area, right: Area) -> float:
    """1 - Dice of both lungs, each against its own, in percent."""
    both = int((found.left & left).sum()) + int((found.right & right).sum())
    areas = sum(int(it.sum()) for it in (found.left, found.right, left, right))
    return 100.0 * (1.0 - 2.0 * both / max(1, areas))


def _part(area: Area, lungs: Area) -> float:
    return 100.0 * float(area.sum()) / max(1, int(lungs.sum()))


def _mean(field: NDArray[np.float32], lungs: Area) -> float:
    return 100.0 * float(field[lungs].mean()) if lungs.any() else 0.0
