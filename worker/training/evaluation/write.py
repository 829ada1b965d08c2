"""Write an evaluation: report.md, report.json, plots, contact sheets and the names on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from worker.training.cases import Case
from worker.training.curves import choose, plot_trade_off
from worker.training.evaluation import plots
from worker.training.evaluation.measured import Measured, Segment
from worker.training.evaluation.report import render
from worker.training.evaluation.results import CrossValidated, Evaluation
from worker.training.evaluation.sheets import (
    normals_sheet,
    opacity_sheet,
    worst_normals,
    worst_opacity,
    write_names,
)

REPORT: Final = "report.md"
NUMBERS: Final = "report.json"
_Sheet = Callable[[Segment, Sequence[tuple[Case, Measured]], str, Path], None]


def write(
    evaluation: Evaluation,
    out: Path,
    segment: Segment | None = None,
    cases: Sequence[Case] = (),
) -> list[str]:
    """Write everything into a folder and return the names of its pictures.

    Contact sheets are drawn with `segment`, from the pictures of `cases`; none without it.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = _draw_plots(evaluation, out)
    if segment is not None:
        names += _draw_sheets(evaluation, out, segment, cases)
    (out / NUMBERS).write_text(evaluation.to_json(), encoding="utf-8")
    (out / REPORT).write_text(render(evaluation, names), encoding="utf-8")
    return names


def _draw_plots(evaluation: Evaluation, out: Path) -> list[str]:
    """Draw every plot that there are figures for."""
    sections, drawn = evaluation.sections, []

    def path(name: str) -> Path:
        drawn.append(name)
        return out / name

    if evaluation.read:
        plots.images_plot(evaluation.read, path("images.png"))
    if "percent" in sections:
        plots.agreement_plot(evaluation.opaque, sections["percent"], path("agreement.png"))
    if evaluation.normals:
        plots.normals_plot(evaluation.normals, path("normals.png"))
    if evaluation.calibration is not None:
        plots.calibration_plot(evaluation.calibration, path("calibration.png"))
    if evaluation.outcome and any(row.auc for row in evaluation.outcome):
        plots.outcome_plot(evaluation.outcome, path("outcome.png"))
    if evaluation.robustness:
        plots.robustness_plot(evaluation.robustness, path("robustness.png"))
    if evaluation.opaque:
        title = f"{evaluation.model['name']}, test part"
        plot_trade_off(evaluation.trade_off, path("trade_off.png"), evaluation.point, title)
    if evaluation.cross_validation is not None:
        _draw_folds(evaluation.cross_validation, path("cross_validation.png"))
    return drawn


def _draw_folds(folds: CrossValidated, path: Path) -> None:
    points = folds.trade_off
    nearest = min(points, key=lambda point: abs(point.threshold - folds.threshold))
    title = f"Cross-validation, {folds.folds} folds"
    if choose(points).bound_missed:
        title += "; no threshold keeps the bound on normals"
    plot_trade_off(points, path, nearest, title)


def _draw_sheets(
    evaluation: Evaluation, out: Path, segment: Segment, cases: Sequence[Case]
) -> list[str]:
    known = {case.name: case for case in cases}
    normals, opaque = worst_normals(evaluation.normals), worst_opacity(evaluation.opaque)
    sheets: tuple[tuple[str, list[Measured], str, _Sheet], ...] = (
        (
            "worst_normals",
            normals,
            f"Most opacity found on {len(evaluation.normals)} normals held out from training",
            normals_sheet,
        ),
        (
            "worst_opacity",
            opaque,
            f"Least agreement with the reader on {len(evaluation.opaque)} test pictures",
            opacity_sheet,
        ),
    )
    drawn = []
    for name, rows, title, sheet in sheets:
        if rows:
            pairs = [(known[row.case], row) for row in rows]
            sheet(segment, pairs, f"{title}. Research use only.", out / f"{name}.png")
            write_names(rows, out / f"{name}.csv")
            drawn.append(f"{name}.png")
    return drawn
