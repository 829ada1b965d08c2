"""The report on the two-step experiment: Markdown and two plots, every figure computed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from worker.training.evaluation.estimates import Estimate
from worker.training.evaluation.markdown import plain_table, show, table
from worker.training.two_step import LABELS
from worker.training.two_step_bundle import command_of
from worker.training.two_step_metrics import Answers, Areas, origins
from worker.training.two_step_study import Question, Study

_DPI: Final = 80
_TEXT: Final = """# Two steps: lungs, then a classifier

Written by `dicom-worker train-two-step`; no figure here was typed. The experiment repeats the
second of this project's ancestors: an installed model (`{lungs.name}` {lungs.version}) finds the
lungs, all else is blacked out, the lungs are cut out, and a small network (MONAI `{network}`,
{parameters:,} parameters, {size} x {size} pixels) says {labels}.
**It is not validated, and it is off** unless `analysis.experimental_classifier` names it.

    {command}

## What it means

{meaning}

## Pictures

{origins}

No picture of a patient of the test split trained, none under a no-derivatives licence.
{without_lungs} pictures were left out because no lung was found. NIH's labels were read from
reports by a program; they state neither view nor age here.

## Cross-validation

{folds} folds by patient; every probability comes from a network that knew no picture of that
patient. ROC AUC counts pairs of the same fold; intervals are 95 %, bootstrap over patients.
The rows below the network are what one gets without looking at the picture: the share of the class
among other patients with the same collection, view, age, patient number, or size of the file.

{questions}

![ROC curves]({roc})

![Calibration]({calibration})

## Does the network of all three classes see the collection?

Pictures of one class come from two collections here, so the class cannot help: 0.5 would be a
network that does not see where a picture comes from.

{leaks}

## The network that is installed

Trained on all training pictures and measured on the patients of the test split, among whom the
collections differ between the classes as above.

{test}
"""


def write_study(study: Study, report: Path) -> None:
    """Write the report and its plots, named like it and beside it."""
    report.parent.mkdir(parents=True, exist_ok=True)
    roc, calibration = (report.with_name(f"{report.stem}-{part}.png") for part in ("roc", "calib"))
    _save(roc, _roc(study))
    _save(calibration, _calibration((study.everything, *study.inside)))
    report.write_text(render_study(study, roc.name, calibration.name), encoding="utf-8")


def render_study(study: Study, roc: str, calibration: str) -> str:
    """Return the report as Markdown; `roc` and `calibration` are the names of the plots."""
    config = study.config
    return _TEXT.format(
        lungs=study.lungs,
        network=config.network["name"],
        parameters=study.parameters,
        size=config.size,
        labels=f"{', '.join(LABELS[:-1])} or {LABELS[-1]}",
        command=command_of(config.name, study.bundle.metadata.training[0]),
        meaning="\n".join(_meaning(study)),
        origins=_origins(study),
        without_lungs=study.without_lungs,
        folds=config.folds,
        questions="\n\n".join(_section(it) for it in (study.everything, *study.inside)),
        roc=roc,
        calibration=calibration,
        leaks=plain_table(("Question", "ROC AUC"), [(said, show(it)) for said, it in study.leaks]),
        test=_section(study.test) if study.test else "No patient was kept for a test.",
    )


def _meaning(study: Study) -> Iterator[str]:
    """Say what the figures allow to be said, from the figures themselves."""
    first = LABELS[0]
    network = study.everything.areas[first]
    collection = study.everything.baselines.get("collection")
    if collection is not None:
        verdict = "less than" if _value(network) <= _value(collection[first]) else "more than"
        yield (
            f"- Asked for {first} among all pictures, the network reaches ROC AUC {show(network)}."
            f" **Knowing the collection alone, without the picture, reaches"
            f" {show(collection[first])}**: the network says {verdict} the name of the hospital,"
            f" and the first figure must not be read as an ability to find {first}."
        )
    for question in study.inside:
        label = question.answers.names[0]
        best = _best_baseline(question)
        compared = ""
        if best is not None:
            name, area = best
            compared = f" The best baseline that sees no picture ({name}) reaches {show(area)}"
            more = (question.areas[label].low or 0.0) > _value(area)
            compared += "." if more else ": **nothing is shown to come from the lungs**."
        area = question.areas[label]
        chance = "its interval includes chance" if (area.low or 0.0) <= 0.5 else "above chance"  # noqa: PLR2004  an AUC of 0.5 is chance
        yield f"- {question.title}: ROC AUC {show(area)}, {chance}.{compared}"
    yield (
        "- Age, view and hospital go with the class in these collections, patient numbers with the"
        " time and place of the picture. What a network gains beyond such a baseline inside one"
        " collection is the most that can be credited to the lungs, and none of it is known to hold"
        " in another hospital."
    )
    yield "- Nobody should act on these probabilities."


def _best_baseline(question: Question) -> tuple[str, Estimate] | None:
    label = question.answers.names[0]
    known = [(name, found[label]) for name, found in question.baselines.items() if found]
    return max(known, key=lambda it: _value(it[1]), default=None)


def _origins(study: Study) -> str:
    parts = [("", study.everything.answers)]
    if study.test:
        parts.append((", test", study.test.answers))
    rows: list[tuple[object, ...]] = []
    for part, answers in parts:
        counts = origins(answers.cases, answers.classes.tolist())
        names = sorted({name for name, _ in counts})
        labels = range(len(LABELS))
        rows += [(f"{name}{part}", *(counts[name, it] for it in labels)) for name in names]
    return table(("Collection", *LABELS), rows)


def _section(question: Question) -> str:
    names = [question.answers.names[label] for label in question.answers.asked]
    rows = [_row("**network**", question.areas, names)]
    if question.within_view is not None and question.baselines["view"] is not None:
        rows.append(_row("network, pairs of the same view only", question.within_view, names))
    if question.of_three is not None:
        rows.append(_row("network of all three classes", question.of_three, names))
    rows += [_row(name, found, names) for name, found in question.baselines.items()]
    calibrated = question.reliability
    measured = (
        f"Expected calibration error {show(calibrated.error)}, Brier score (0 to 2)"
        f" {show(calibrated.brier)}; {calibrated.error.images} pictures of"
        f" {calibrated.error.patients} patients."
    )
    areas = table(("ROC AUC", *names), rows)
    return f"### {question.title}\n\n{areas}\n{_confusion(question)}\n{measured}"


def _row(title: str, found: Areas | None, names: Sequence[str]) -> list[str]:
    return [title, *(show(found[name]) if found else "nothing to know" for name in names)]


def _confusion(question: Question) -> str:
    names = question.answers.names
    counted = zip(names, question.confusion.tolist(), strict=True)
    headings = ("True, down; likeliest, across", *names)
    return table(headings, [(name, *counts) for name, counts in counted])


def _value(estimate: Estimate) -> float:
    return 0.5 if estimate.value is None else estimate.value


def _roc(study: Study) -> Figure:
    figure, axes = _axes("false alarms", "found")
    for question, style in ((study.everything, "-"), *((it, "--") for it in study.inside)):
        for label in question.answers.asked:
            name = question.answers.names[label]
            title = f"{name}, all" if style == "-" else question.title
            axes.plot(*_curve(question.answers, label), style, linewidth=1.2, label=title)
    axes.legend(fontsize=7, loc="lower right")
    return figure


def _curve(answers: Answers, label: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(-answers.probabilities[:, label], kind="stable")
    true = np.concatenate([[False], answers.classes[order] == label])
    alarms = np.concatenate([[False], answers.classes[order] != label])
    found, wrong = np.cumsum(true) / true.sum(), np.cumsum(alarms) / alarms.sum()
    return wrong, found


def _calibration(questions: Sequence[Question]) -> Figure:
    figure, axes = _axes("probability stated", "share observed")
    for question in questions:
        measured = question.reliability
        axes.plot(
            measured.stated, measured.observed, "o-", markersize=3, linewidth=1.0,
            label=question.title,
        )  # fmt: skip  # one line of points
    axes.legend(fontsize=7, loc="upper left")
    return figure


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.add_subplot(xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=0.8)
    return figure, axes


def _save(path: Path, figure: Figure) -> None:
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    figure.savefig(path, dpi=_DPI)
