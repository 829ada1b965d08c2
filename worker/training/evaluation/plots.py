"""The plots of a report. Colours are told apart by people with any colour blindness."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from worker.training.curves import ALARM_PERCENT, NORMALS_P90
from worker.training.evaluation.calibration import Calibration
from worker.training.evaluation.estimates import Figures
from worker.training.evaluation.measured import Measured
from worker.training.evaluation.outcome import OutcomeRow
from worker.training.evaluation.robustness import PERTURBATIONS, Perturbation, RobustnessRow

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
_GROUPS: Final = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#56B4E9", _GREY)
_JITTER: Final = 0.13
_COLUMNS: Final = 4


def agreement_plot(rows: Sequence[Measured], figures: Figures, path: Path) -> None:
    """Measured against read percentage, and their difference against their mean (Bland-Altman)."""
    read = [row for row in rows if row.true_percent is not None]
    figure, (scatter, difference) = _panels(1, 2, (10.5, 4.6))
    for colour, view in zip(_GROUPS, sorted({row.view for row in read}), strict=False):
        part = [row for row in read if row.view == view]
        true = np.array([row.true_percent for row in part], dtype=np.float64)
        found = np.array([row.percent for row in part])
        scatter.scatter(true, found, color=colour, label=f"{view} ({len(part)})", alpha=0.85)
        difference.scatter((true + found) / 2, found - true, color=colour, alpha=0.85)
    scatter.plot([0, 100], [0, 100], color=_GREY, linewidth=1)
    scatter.set(
        xlim=(-2, 102), ylim=(-2, 102), aspect="equal",
        xlabel="opacity by the reader, % of lung", ylabel="opacity by the model, % of lung",
        title=f"Agreement (Pearson {_text(figures['pearson'].value, 2)})",
    )  # fmt: skip
    scatter.legend(frameon=False, loc="upper left", title="view")
    _draw_limits(difference, figures)
    _save(figure, path)


def _draw_limits(axes: Axes, figures: Figures) -> None:
    axes.axhline(0, color=_GREY, linewidth=0.8)
    for name, label, style in (
        ("agreement_high", "+1.96 SD", "--"),
        ("bias", "bias", "-"),
        ("agreement_low", "-1.96 SD", "--"),
    ):
        value = figures[name].value
        if value is None:
            continue
        axes.axhline(value, color=_RED, linestyle=style, linewidth=1.2)
        axes.annotate(
            f"{label} {value:+.1f}", (1.0, value), xycoords=("axes fraction", "data"),
            xytext=(-12, 3), textcoords="offset points", ha="right", fontsize=9, color=_RED,
        )  # fmt: skip
        low, high = figures[name].low, figures[name].high
        if low is not None and high is not None:
            axes.vlines(101, low, high, color=_RED, linewidth=4, alpha=0.35)
    axes.set(
        xlim=(-2, 102), xlabel="mean of model and reader, %", ylabel="model - reader, points",
        title="Bland-Altman; bars at the right: 95 % intervals",
    )  # fmt: skip


def normals_plot(rows: Sequence[Measured], path: Path) -> None:
    """Percentage on every normal by source, and the share of normals above each percentage."""
    sources = sorted({row.source for row in rows}, key=lambda it: -_count(rows, it))
    figure, (strip, share) = _panels(1, 2, (10.5, 4.4))
    random = np.random.default_rng(0)
    for number, source in enumerate(sources):
        values = np.array([row.percent for row in rows if row.source == source])
        spread = number + random.uniform(-_JITTER, _JITTER, len(values))
        strip.scatter(spread, values, s=16, alpha=0.6, color=_BLUE)
        strip.hlines(np.median(values), number - 0.3, number + 0.3, color=_RED, linewidth=2)
    strip.set_xticks(range(len(sources)), [f"{it}\n({_count(rows, it)})" for it in sources])
    strip.set(xlim=(-0.6, len(sources) - 0.4), ylabel="opacity, % of lung")
    strip.set_title("Each normal; red: median of the source")
    values = np.sort([row.percent for row in rows])
    above = 1.0 - np.arange(len(values)) / len(values)
    share.step(np.r_[0, values], 100 * np.r_[above[0], above], where="pre", color=_BLUE)
    for bound, style, label in (
        (ALARM_PERCENT, ":", "above it, a false alarm"),
        (NORMALS_P90, "--", "target for nine of ten"),
    ):
        share.axvline(
            bound, color=_RED, linestyle=style, linewidth=1.2, label=f"{bound:g} %: {label}"
        )
    share.axhline(10, color=_GREY, linestyle="--", linewidth=0.8, label="one in ten")
    share.set(xlim=(0, 100), ylim=(0, 102), xlabel="opacity found is at least, % of lung")
    share.set(ylabel="share of normals, %", title=f"All {len(values)} normals")
    share.legend(frameon=False, fontsize=9)
    strip.axhline(ALARM_PERCENT, color=_RED, linestyle=":", linewidth=1.2)
    strip.set_ylim(bottom=min(-1.0, strip.get_ylim()[0]))
    _save(figure, path)


def _count(rows: Sequence[Measured], source: str) -> int:
    return sum(row.source == source for row in rows)


def images_plot(rows: Sequence[Measured], path: Path) -> None:
    """Dice of every image: opacity against its extent, and lungs by source."""
    opaque = [row for row in rows if row.kind == "opacity"]
    drawn = [row for row in rows if row.lung_dice is not None]
    figure, (extent, lungs) = _panels(1, 2, (10.5, 4.4))
    for colour, view in zip(_GROUPS, sorted({row.view for row in opaque}), strict=False):
        part = [row for row in opaque if row.view == view and row.true_percent is not None]
        x = [row.true_percent or 0.0 for row in part]
        y = [row.opacity.dice for row in part]
        extent.scatter(x, y, color=colour, label=f"{view} ({len(part)})", alpha=0.85)
    extent.set(xlim=(-2, 102), ylim=(0, 1.02), xlabel="opacity by the reader, % of lung")
    extent.set(ylabel="Dice of opacity", title="Opacity: every image against its extent")
    if opaque:
        extent.legend(frameon=False, loc="lower right", title="view")
    sources = sorted({row.source for row in drawn})
    values = [[row.lung_dice or 0.0 for row in drawn if row.source == it] for it in sources]
    random = np.random.default_rng(0)
    for number, dice in enumerate(values):
        spread = number + random.uniform(-_JITTER, _JITTER, len(dice))
        lungs.scatter(spread, dice, s=18, alpha=0.6, color=_BLUE)
        lungs.hlines(np.mean(dice), number - 0.3, number + 0.3, color=_RED, linewidth=2)
    lungs.set_xticks(
        range(len(sources)), [f"{it}\n({len(v)})" for it, v in zip(sources, values, strict=True)]
    )
    lungs.set(xlim=(-0.6, max(len(sources) - 0.4, 0.6)), ylabel="Dice of both lungs")
    lungs.set_title("Lungs: every image by source of the reading; red: mean")
    _save(figure, path)


def calibration_plot(calibration: Calibration, path: Path) -> None:
    """Observed against stated probability, with the number of pixels below."""
    figure = Figure(figsize=(5.2, 5.6), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    diagram, amount = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    stated = np.array(calibration.probability, dtype=np.float64)
    observed = np.array(calibration.observed, dtype=np.float64)
    diagram.plot([0, 1], [0, 1], color=_GREY, linewidth=1, label="a probability")
    diagram.plot(stated, observed, "o-", color=_BLUE, label="this model")
    diagram.fill_between(stated, stated, observed, color=_RED, alpha=0.15, linewidth=0)
    diagram.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that the reader drew as opacity")
    ece = calibration.ece
    interval = f" [{_text(ece.low, 3)}, {_text(ece.high, 3)}]" if ece.low is not None else ""
    diagram.set_title(f"Pixels inside the lungs; ECE {_text(ece.value, 3)}{interval}")
    diagram.legend(frameon=False, loc="upper left")
    edges = (np.arange(len(stated)) + 0.5) / len(stated)
    amount.bar(edges, calibration.counts, width=0.9 / len(stated), color=_BLUE, alpha=0.7)
    amount.set(yscale="log", xlabel="probability of opacity", ylabel="pixels")
    for axes in (diagram, amount):
        _tidy(axes)
    figure.savefig(path)


def outcome_plot(rows: Sequence[OutcomeRow], path: Path) -> None:
    """Every AUC with its interval, the percentage beside the baselines."""
    shown = [row for row in rows if row.auc is not None and row.auc.value is not None]
    height = 1.2 + 0.36 * max(len(shown), 2)
    figure, (axes,) = _panels(1, 1, (8.5, height))
    labels = []
    for number, row in enumerate(shown):
        if row.auc is None or row.auc.value is None:
            continue
        colour = _BLUE if row.predictor == "percentage" else _ORANGE
        if row.auc.low is not None and row.auc.high is not None:
            axes.hlines(number, row.auc.low, row.auc.high, color=colour, linewidth=2.5, alpha=0.6)
        axes.plot(row.auc.value, number, "o", color=colour, markersize=7)
        labels.append(
            f"{row.outcome}: {row.predictor}, {row.pictures} ({row.events} / {row.others})"
        )
    axes.axvline(0.5, color=_GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.01), xlabel="AUC with 95 % interval (with the event / without)")
    axes.set_title("Blue: the percentage; orange: what needs no picture")
    _save(figure, path)


def robustness_plot(rows: Sequence[RobustnessRow], path: Path) -> None:
    """Change of Dice and of the percentage against the strength of every perturbation."""
    kinds = [it for it in PERTURBATIONS if any(row.perturbation == it.name for row in rows)]
    lines = -(-len(kinds) // _COLUMNS)
    size = (13.5, 4.8 * lines + 0.5)
    figure, panels = _panels(2 * lines, _COLUMNS, size)
    grid = np.array(panels, dtype=object).reshape(lines, 2, _COLUMNS)
    for number in range(lines * _COLUMNS):
        line, column = divmod(number, _COLUMNS)
        dice, percent = grid[line, :, column]
        if number >= len(kinds):
            figure.delaxes(dice)
            figure.delaxes(percent)
            continue
        part = [row for row in rows if row.perturbation == kinds[number].name]
        _draw_robustness(dice, percent, kinds[number], part)
    _share_scale(list(grid[:, 0].ravel()), [each for row in rows for each in _dice_ends(row)])
    shifts = [each for row in rows for each in (row.percent_change, row.percent_shift)]
    _share_scale(list(grid[:, 1].ravel()), shifts)
    handles, labels = panels[_COLUMNS].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    _save(figure, path)


def _draw_robustness(
    dice: Axes, percent: Axes, kind: Perturbation, rows: Sequence[RobustnessRow]
) -> None:
    steps = np.arange(len(rows))
    dice.plot(steps, _column(row.dice_change.value for row in rows), "o-", color=_BLUE)
    dice.fill_between(
        steps, _column(row.dice_change.low for row in rows),
        _column(row.dice_change.high for row in rows), color=_BLUE, alpha=0.15, linewidth=0,
    )  # fmt: skip
    change = [row.percent_change for row in rows]
    percent.plot(steps, change, "o-", color=_ORANGE, label="percentage: mean absolute change")
    shift = [row.percent_shift for row in rows]
    percent.plot(steps, shift, "s--", color=_GREY, markersize=4, label="percentage: mean shift")
    percent.plot([], [], "o-", color=_BLUE, label="Dice less that of the untouched picture")
    for axes in (dice, percent):
        axes.axhline(0, color=_GREY, linewidth=0.8)
        axes.set_xticks(steps, [f"{row.strength:g}" for row in rows])
    dice.set(title=kind.label, ylabel="pooled Dice, change")
    percent.set(xlabel=kind.unit, ylabel="percentage, points")


def _dice_ends(row: RobustnessRow) -> list[float]:
    found = (row.dice_change.low, row.dice_change.value, row.dice_change.high)
    return [value for value in found if value is not None]


def _share_scale(panels: Sequence[Axes], values: Sequence[float]) -> None:
    """Give all panels one scale, so that a small effect looks small."""
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.06 * (high - low or 1.0)
    for axes in panels:
        axes.set_ylim(low - margin, high + margin)


def _column(values: Any) -> NDArray[np.float64]:  # noqa: ANN401  numbers and None
    return np.array(list(values), dtype=np.float64)


def _panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    **options: Any,  # noqa: ANN401  matplotlib's
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(10)


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        _tidy(axes)
    figure.savefig(path)


def _text(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
