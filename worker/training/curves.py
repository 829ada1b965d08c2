"""What one model finds at every opacity threshold, and which threshold to take.

A picture is run once; its curve holds pixel counts per threshold, small enough to keep beside the
weights. Counts add up over pictures and folds. Percentages are opacity over lung pixels, 0..100.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from worker.postprocess import masks_from_probabilities
from worker.types import Mask

Kind = Literal["opacity", "normal", "lungs"]
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
CROSS_VALIDATION: Final = "cross_validation.json"
NORMALS_P90: Final = 10.0  # percent: the most that nine of ten normal pictures may show
EQUAL_DICE: Final = 0.005  # a tenth of what the folds' interval spans to one side
ALARM_PERCENT: Final = 5.0  # a normal picture above it counts as a false alarm
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"


class ReadCase(Protocol):
    """What a curve needs to know of a case; `worker.training.cases.Case` is one."""

    @property
    def name(self) -> str: ...  # noqa: D102  as in Case
    @property
    def source(self) -> str: ...  # noqa: D102  as in Case
    @property
    def has_lung(self) -> bool: ...  # noqa: D102  as in Case
    @property
    def has_opacity(self) -> bool: ...  # noqa: D102  as in Case
    @property
    def normal(self) -> bool: ...  # noqa: D102  as in Case
    def masks(self) -> tuple[Mask, Mask, Mask]:
        """Return the reader's left lung, right lung and opacity."""


@dataclass(frozen=True)
class CaseCurve:
    """One picture at all of THRESHOLDS.

    `both` is measured opacity that the reader drew too, `measured` all measured opacity, both
    inside the measured lungs; `percent` is `measured` over the measured lungs (0 without lungs).
    `true_opacity_pixels` counts the reader's opacity wherever it lies; `true_percent` is what he
    drew inside his lungs, None where he drew no lungs. A normal picture has none of either.
    """

    case: str
    source: str
    fold: int | None
    kind: Kind
    true_opacity_pixels: int
    lung_dice: float | None
    true_percent: float | None
    both: tuple[int, ...]
    measured: tuple[int, ...]
    percent: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {
            **asdict(self),
            "both": list(self.both),
            "measured": list(self.measured),
            "percent": list(self.percent),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises ValueError when a row has not one value per threshold.
        """
        rows = {name: tuple(values[name]) for name in ("both", "measured", "percent")}
        if any(len(row) != len(THRESHOLDS) for row in rows.values()):
            msg = f"curve of {values['case']} has not {len(THRESHOLDS)} values per row"
            raise ValueError(msg)
        return cls(**{**values, **rows})


@dataclass(frozen=True)
class OperatingPoint:
    """Figures of a set of pictures at one threshold.

    None stands where there was no picture to measure on. `bound_missed` is set by `choose`.
    """

    threshold: float
    images: int
    dice_pooled: float | None
    dice_mean: float | None
    precision: float | None
    recall: float | None
    percent_mae: float | None
    percent_bias: float | None
    normals: int
    normals_median: float | None
    normals_p90: float | None
    normals_above_5: float | None
    bound_missed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class CrossValidation:
    """Curves of pictures that each came from the fold that did not train on them."""

    folds: int
    seed: int
    recipe_sha256: str
    curves: tuple[CaseCurve, ...]
    chosen_threshold: float

    def write(self, folder: Path) -> Path:
        """Write cross_validation.json into a bundle folder and return its path."""
        values = {**asdict(self), "curves": [curve.to_json() for curve in self.curves]}
        path = folder / CROSS_VALIDATION
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the file of a bundle folder; None where there is none.

        Raises ValueError, KeyError or TypeError when it is not such a file.
        """
        path = folder / CROSS_VALIDATION
        if not path.is_file():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            folds=int(values["folds"]),
            seed=int(values["seed"]),
            recipe_sha256=str(values["recipe_sha256"]),
            curves=tuple(CaseCurve.from_json(curve) for curve in values["curves"]),
            chosen_threshold=float(values["chosen_threshold"]),
        )


def read_curve(
    probabilities: NDArray[np.float32],
    case: ReadCase,
    lung_threshold: float = 0.5,
    fold: int | None = None,
) -> CaseCurve:
    """Reduce the probabilities of one picture (3, rows, columns) to its curve.

    The lungs are cleaned as in serving, once; opacity counts from a probability on, inside them.
    """
    masks = masks_from_probabilities(probabilities, lung_threshold, THRESHOLDS[0])
    lungs = masks.left | masks.right
    left, right, opacity = _reading(case, lungs.shape)
    levels = np.searchsorted(
        np.array(THRESHOLDS, np.float32), probabilities[2][lungs], side="right"
    )
    measured = _at_least(levels)
    pixels = max(int(lungs.sum()), 1)
    return CaseCurve(
        case=case.name,
        source=case.source,
        fold=fold,
        kind="normal" if case.normal else "opacity" if case.has_opacity else "lungs",
        true_opacity_pixels=int(opacity.sum()),
        lung_dice=_dice(lungs, left | right) if case.has_lung else None,
        true_percent=_true_percent(case, left | right, opacity),
        both=_at_least(levels[opacity[lungs]]),
        measured=measured,
        percent=tuple(100.0 * count / pixels for count in measured),
    )


def _reading(case: ReadCase, shape: tuple[int, ...]) -> tuple[Mask, Mask, Mask]:
    """Return what was read; nothing of a normal picture or of one without a mask is opacity."""
    nothing = np.zeros(shape, dtype=np.bool_)
    if not (case.has_lung or (case.has_opacity and not case.normal)):
        return nothing, nothing, nothing
    left, right, opacity = case.masks()
    return left, right, opacity if case.has_opacity and not case.normal else nothing


def _at_least(levels: NDArray[np.intp]) -> tuple[int, ...]:
    """Count, per threshold, the pixels that reach it; `levels` is how many each one reaches."""
    counts = np.bincount(levels, minlength=len(THRESHOLDS) + 1)
    return tuple(int(count) for count in counts[::-1].cumsum()[::-1][1:])


def _dice(measured: Mask, true: Mask) -> float:
    areas = int(measured.sum()) + int(true.sum())
    return 2 * int((measured & true).sum()) / areas if areas else 1.0


def _true_percent(case: ReadCase, lungs: Mask, opacity: Mask) -> float | None:
    if case.normal:
        return 0.0
    pixels = int(lungs.sum())
    if not (case.has_opacity and case.has_lung and pixels):
        return None
    return 100.0 * int((opacity & lungs).sum()) / pixels


def trade_off(curves: Iterable[CaseCurve]) -> list[OperatingPoint]:
    """Return the figures at every threshold, in the order of THRESHOLDS."""
    curves = list(curves)
    opaque = [curve for curve in curves if curve.kind == "opacity"]
    normal = [curve for curve in curves if curve.kind == "normal"]
    return [_point(number, opaque, normal) for number in range(len(THRESHOLDS))]


def _point(number: int, opaque: Sequence[CaseCurve], normal: Sequence[CaseCurve]) -> OperatingPoint:
    both = np.array([curve.both[number] for curve in opaque], dtype=np.float64)
    measured = np.array([curve.measured[number] for curve in opaque], dtype=np.float64)
    true = np.array([curve.true_opacity_pixels for curve in opaque], dtype=np.float64)
    errors = np.array(
        [c.percent[number] - c.true_percent for c in opaque if c.true_percent is not None]
    )
    alarms = np.array([curve.percent[number] for curve in normal])
    return OperatingPoint(
        threshold=THRESHOLDS[number],
        images=len(opaque),
        dice_pooled=_ratio(2 * both.sum(), measured.sum() + true.sum()) if opaque else None,
        dice_mean=_of(
            np.array([_ratio(2 * b, m + t) for b, m, t in zip(both, measured, true, strict=True)]),
            np.mean,
        ),
        precision=_ratio(both.sum(), measured.sum()) if opaque else None,
        recall=_ratio(both.sum(), true.sum()) if opaque else None,
        percent_mae=_of(np.abs(errors), np.mean),
        percent_bias=_of(errors, np.mean),
        normals=len(normal),
        normals_median=_of(alarms, np.median),
        normals_p90=_of(alarms, lambda values: np.percentile(values, 90)),
        normals_above_5=_of(alarms > ALARM_PERCENT, np.mean),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0


def _of(values: NDArray[Any], figure: Callable[[NDArray[Any]], Any]) -> float | None:
    return float(figure(values)) if values.size else None


def choose(points: Sequence[OperatingPoint], normals_p90: float = NORMALS_P90) -> OperatingPoint:
    """Return the best pooled Dice among the points whose normals stay within the bound.

    Points within 0.005 of the best are as good as it: the folds cannot tell them apart. Of those,
    the one whose percentage is least biased is returned. Where no point is within the bound, the
    one with the lowest 90th percentile of the normals is returned with `bound_missed`. Without
    normals the best Dice is taken: `normals` says that it is unchecked.
    Raises ValueError when no opacity was read.
    """
    if not points or points[0].dice_pooled is None:
        msg = "a threshold is chosen on pictures with a reading of opacity; there are none"
        raise ValueError(msg)
    within = [p for p in points if p.normals_p90 is None or p.normals_p90 <= normals_p90]
    if within:
        best = max(point.dice_pooled or 0.0 for point in within)
        equal = [p for p in within if best - (p.dice_pooled or 0.0) <= EQUAL_DICE]
        return min(equal, key=lambda p: (abs(p.percent_bias or 0.0), -(p.dice_pooled or 0.0)))
    least = min(points, key=lambda point: (point.normals_p90 or 0.0, -(point.dice_pooled or 0.0)))
    return replace(least, bound_missed=True)


def plot_trade_off(
    points: Sequence[OperatingPoint],
    path: Path,
    chosen: OperatingPoint | None = None,
    title: str = "",
    normals_p90: float = NORMALS_P90,
) -> None:
    """Draw overlap and false alarms against the threshold, and recall against false alarms."""
    figure = Figure(figsize=(13.5, 4.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    overlap, alarms, exchange = figure.subplots(1, 3)
    _draw_overlap(overlap, points)
    _draw_alarms(alarms, points, normals_p90)
    _draw_exchange(exchange, points, chosen, normals_p90)
    if chosen is not None:
        for axes in (overlap, alarms):
            axes.axvline(chosen.threshold, color=_GREY, linestyle=":", linewidth=1.5)
    for axes in (overlap, alarms, exchange):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title or "Opacity threshold")
    figure.savefig(path)


def _draw_overlap(axes: Axes, points: Sequence[OperatingPoint]) -> None:
    thresholds = [point.threshold for point in points]
    for name, label, colour in (
        ("recall", "recall", _ORANGE),
        ("precision", "precision", _GREEN),
        ("dice_pooled", "Dice, pooled", _BLUE),
        ("dice_mean", "Dice, mean per image", "#56B4E9"),
    ):
        axes.plot(thresholds, _column(points, name), "o-", markersize=3, color=colour, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="opacity threshold", ylabel="share")
    axes.set_title(f"Against the reader ({points[0].images} images)", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_alarms(axes: Axes, points: Sequence[OperatingPoint], bound: float) -> None:
    axes.set_title(f"False alarms on {points[0].normals} normals", fontsize=10)
    axes.set(xlim=(0, 1), xlabel="opacity threshold", ylabel="opacity on normals, % of lung")
    if not points[0].normals:
        return
    thresholds = [point.threshold for point in points]
    for name, label, colour in (
        ("normals_p90", "90th percentile, %", _RED),
        ("normals_median", "median, %", _BLUE),
    ):
        axes.plot(thresholds, _column(points, name), "o-", markersize=3, color=colour, label=label)
    share = 100.0 * _column(points, "normals_above_5")
    axes.plot(thresholds, share, "--", color=_GREY, label="pictures above 5 %, %")
    axes.axhline(bound, color=_RED, linewidth=0.8, alpha=0.6)
    axes.annotate(f"bound {bound:g} %", (0.99, bound), ha="right", va="bottom", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _draw_exchange(
    axes: Axes, points: Sequence[OperatingPoint], chosen: OperatingPoint | None, bound: float
) -> None:
    axes.set_title("What recall costs on normals", fontsize=10)
    axes.set(xlabel="90th percentile of normals, % of lung", ylabel="recall", ylim=(0, 1.02))
    if not (points[0].normals and points[0].images):
        return
    alarms, recall = _column(points, "normals_p90"), _column(points, "recall")
    axes.plot(alarms, recall, "-", color=_GREY)
    dice = _column(points, "dice_pooled")
    marks = axes.scatter(alarms, recall, c=dice, cmap="viridis", zorder=3)
    axes.figure.colorbar(marks, ax=axes, label="Dice, pooled")
    for number in range(1, len(points), 4):
        axes.annotate(
            f"{points[number].threshold:g}", (alarms[number], recall[number]), xytext=(5, -10),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.axvline(bound, color=_RED, linewidth=0.8, alpha=0.6)
    if chosen is not None:
        axes.plot(
            _column([chosen], "normals_p90"), _column([chosen], "recall"), "o", markersize=13,
            fillstyle="none", color=_RED, label=f"threshold {chosen.threshold:g}",
        )  # fmt: skip
        axes.legend(frameon=False, fontsize=8, loc="lower right")


def _column(points: Sequence[OperatingPoint], name: str) -> NDArray[np.float64]:
    """Return one figure of every point; what was not measured is no number."""
    return np.array([getattr(point, name) for point in points], dtype=np.float64)
