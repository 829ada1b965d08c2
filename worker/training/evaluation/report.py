"""The report as Markdown: what was reached first, then each part with its plot."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from worker.training.evaluation.estimates import Figures
from worker.training.evaluation.markdown import (
    cells,
    counts,
    picture,
    plain_table,
    show,
    table,
)
from worker.training.evaluation.outcome import FEW
from worker.training.evaluation.results import Evaluation, Judged
from worker.training.evaluation.robustness import PERTURBATIONS
from worker.training.evaluation.targets import ANCESTORS, READERS

Names = tuple[tuple[str, int], ...]
_INTRODUCTION: Final = """\
**Research use only. Not a medical device. Not for diagnosis or treatment decisions.**
Contact sheets, where drawn, are the pictures themselves: treat them as confidentially.

Figures are of the stored weights, through the same code as a received file. In square brackets:
95 % interval, bootstrap over patients. Overlaps count pixels on the picture's grid; percentages
are opacity over lung pixels, 0 to 100; their errors are in percentage points.
"""
_VERDICT: Final = """\
The verdict is that of the figure; 'open' says that its interval holds the target, so that other
patients could turn it. No interval is given below five patients. Two readers agree with each other
that far on public pictures: a target beyond them asks for the habits of one reader.
"""
_YARDSTICK: Final = """\
All rows but those of this model are of the public collections: on other data they are no yardstick.
"""
_NO_SPACING: Final = """\
Without pixel spacings there are no millimetres. Pictures on which model or reader drew nothing of a
structure are not counted.
"""
_WRONG_LABELS: Final = """\
Public 'No Finding' labels were mined from reports and some are wrong: without `--skip sheets` the
ten worst are drawn. A model trained before this division may have seen some of them.
"""
_CIRCUMSTANCES: Final = f"""\
Pictures of the test part and of patients without a reading; nobody of whom a picture trained. The
sickest are taken lying, from the front (AP), so the view alone predicts intensive care, and age
predicts death: the percentage counts within a view, and beside these. No AUC below {FEW} of a kind.
"""
_WORSE: Final = """\
Shift and absolute change are of the percentage, against the untouched picture. Rotated pictures
have black corners and lose what leaves the frame.
"""
_OPACITY: Final[Names] = (
    ("dice_pooled", 3), ("dice_mean", 3), ("precision", 3), ("recall", 3), ("mae", 1), ("bias", 1),
)  # fmt: skip
_LUNGS: Final[Names] = (("lung_dice", 3), ("left_dice", 3), ("right_dice", 3))
_NORMALS: Final[Names] = (("median", 1), ("p90", 1), ("maximum", 1))


def render(evaluation: Evaluation, files: Iterable[str]) -> str:
    """Return the report. `files` are the pictures that lie beside it."""
    there = set(files)
    parts = [_head(evaluation), _summary(evaluation)]
    parts += [section(evaluation, there) for section in _SECTIONS]
    return "\n".join(part for part in parts if part)


def _head(evaluation: Evaluation) -> str:
    model, about = evaluation.model, evaluation.about
    limits = model["threshold"]
    rows = [
        ("Weights, SHA-256", f"`{model['sha256']}`"),
        ("Network, input", f"{_network(model['network'])}, {model['input_size']} pixels square"),
        ("Thresholds", f"lung {limits['lung']:g}, opacity {limits['opacity']:g}"),
        ("Data, SHA-256 of the manifest", f"`{about['data_sha256']}`"),
        ("Test pictures with a reading", about["images_read"]),
        ("Normals held out from training", about["normals_held_out"]),
        ("Pictures with a known outcome", about["images_with_outcome"]),
        ("Bootstrap", f"{about['replicates']} replicates, seed {about['seed']}"),
        ("Device", about["device"]),
    ]
    title = f"# Evaluation of {model['name']} {model['version']}\n"
    return "\n".join([title, _INTRODUCTION, plain_table(("", ""), rows)])


def _network(config: Mapping[str, Any]) -> str:
    """Return the name of a network; of a mean of several, each with its size."""
    members = config.get("members")
    if members is None:
        return str(config["name"])
    each = [f"{_network(member['network'])} at {member['size']} pixels" for member in members]
    return f"mean of {' and '.join(each)}"


def _summary(evaluation: Evaluation) -> str:
    judged = evaluation.judged()
    met = sum(row.verdict == "met" for row in judged)
    measured = sum(row.verdict != "not measured" for row in judged)
    folds = evaluation.cross_validation
    heading = "Cross-validation" if folds is None else f"Cross-validation, {folds.folds} folds"
    headings = ("Figure", "Target", "Verdict", "Test part", heading, "Two readers")
    lines = [
        f"## Summary: {met} of {measured} targets met\n",
        table(headings, map(_judged, judged), left=3),
        _VERDICT,
    ]
    if folds is not None:
        lines.append(
            f"In cross-validation every patient of the training part ({folds.images} pictures) was "
            f"measured by a network that had not seen him, at the threshold {folds.threshold:g} "
            "that was chosen on these pictures.\n"
        )
    return "\n".join(lines)


def _judged(row: Judged) -> list[str]:
    target, digits = row.target, 1 if row.target.unit else 3
    sign = "≥" if target.at_least else "≤"
    bound = f"{sign} {target.bound:.2f}" if target.at_least else f"{sign} {target.bound:g}"
    verdict = f"**{row.verdict}**"
    if row.verdict != "not measured" and not row.certain:
        verdict += ", open"
    readers = "-" if target.readers is None else f"{target.readers:.{digits}f}"
    values = (show(row.test, digits), show(row.folds, digits), readers)
    return [target.label, f"{bound} {target.unit}".strip(), verdict, *values]


def _others(evaluation: Evaluation, _: set[str]) -> str:
    """Set this model beside readers and published models, and say what may be compared."""
    rows = [
        (f"{evaluation.model['name']} {evaluation.model['version']}", "test part",
         _in_words(evaluation.sections), "-"),
    ]  # fmt: skip
    if evaluation.cross_validation is not None:
        found = _in_words(evaluation.cross_validation.sections)
        rows.append(("the same recipe", "training part, cross-validated", found, "-"))
    rows += [(it.name, it.data, it.figures, it.comparable) for it in (*READERS, *ANCESTORS)]
    return "\n".join(
        [
            "## Beside readers and published models\n",
            plain_table(("Who", "On what", "Figures", "Comparable with the first row?"), rows),
            _YARDSTICK,
        ]
    )


def _in_words(sections: dict[str, Figures]) -> str:
    opacity, lungs = sections.get("opacity", {}), sections.get("lungs", {})
    percent = sections.get("percent", {})
    parts = [
        f"{label} {show(figure, digits)}"
        for label, figure, digits in (
            ("opacity Dice pooled", opacity.get("dice_pooled"), 3),
            ("mean", opacity.get("dice_mean"), 3),
            ("IoU mean", opacity.get("iou_mean"), 3),
            ("recall", opacity.get("recall"), 3),
            ("precision", opacity.get("precision"), 3),
            ("points off", percent.get("mae"), 1),
            ("lungs Dice", lungs.get("lung_dice"), 3),
        )
        if figure is not None
    ]
    return "; ".join(parts) or "-"


def _opacity(evaluation: Evaluation, there: set[str]) -> str:
    figures = evaluation.sections.get("opacity")
    if figures is None:
        return ""
    rows = [
        (label, show(figures[pooled]), show(figures[mean]))
        for label, pooled, mean in (
            ("Dice", "dice_pooled", "dice_mean"),
            ("IoU", "iou_pooled", "iou_mean"),
            ("Precision", "precision", "precision_mean"),
            ("Recall", "recall", "recall_mean"),
        )
    ]
    images, patients = counts(figures)
    headings = ("images", "patients", "Dice pooled", "mean", "precision", "recall", "MAE", "bias")
    return "\n".join(
        [
            f"## Opacity: {images} images of {patients} patients\n",
            table(("", "Pixels pooled", "Mean per image"), rows),
            *_grouped(evaluation, "opacity", headings, _OPACITY),
            *_shown("images.png", "Dice of every image", there),
            *_shown("worst_opacity.png", "The pictures that agree least with the reader", there),
        ]
    )


def _percentage(evaluation: Evaluation, there: set[str]) -> str:
    figures = evaluation.sections.get("percent")
    if figures is None:
        return ""
    rows = [
        ("Mean absolute error, points", show(figures["mae"], 1)),
        ("Bias (model - reader), points", show(figures["bias"], 1)),
        ("Limits of agreement, lower", show(figures["agreement_low"], 1)),
        ("Limits of agreement, upper", show(figures["agreement_high"], 1)),
        ("Pearson's correlation", show(figures["pearson"], 2)),
        ("Images within 10 points, %", show(figures["within_10"], 0, 100)),
    ]
    return "\n".join(
        [
            "## Percentage against the reader\n",
            table(("", "Value"), rows),
            *_shown("agreement.png", "Bland-Altman plot and scatter", there),
        ]
    )


def _lungs(evaluation: Evaluation, _: set[str]) -> str:
    figures = evaluation.sections.get("lungs")
    if figures is None:
        return ""
    headings = ("images", "patients", "both", "left", "right")
    whole = table(headings, [[*counts(figures), *cells(figures, _LUNGS)]])
    parts = ["## Lungs: Dice, mean per image\n", whole]
    parts += _grouped(evaluation, "lungs", headings, _LUNGS)
    if evaluation.boundaries is not None:
        rows = [
            (
                name,
                *counts(found),
                show(found["pixels_median"], 1),
                show(found["percent_median"], 2),
                show(found["percent_mean"], 2),
            )
            for name, found in evaluation.boundaries.items()
        ]
        names = ("", "images", "patients", "median, pixels", "median, % of diagonal")
        parts += [
            "### Boundaries: HD95\n",
            table((*names, "mean, % of diagonal"), rows),
            _NO_SPACING,
        ]
    return "\n".join(parts)


def _normals(evaluation: Evaluation, there: set[str]) -> str:
    figures = evaluation.sections.get("normals")
    if figures is None:
        return ""
    images, patients = counts(figures)
    headings = ("images", "patients", "median, %", "90th, %", "highest, %")
    return "\n".join(
        [
            f"## False alarms: {images} normals of {patients} patients, held out from training\n",
            table(headings, [[images, patients, *cells(figures, _NORMALS)]]),
            f"Above 5 % of the lungs: {show(figures['above_5'], 0, 100)} % of the normals.\n",
            _WRONG_LABELS,
            *_grouped(evaluation, "normals", headings, _NORMALS),
            *_shown("normals.png", "Opacity found on normals", there),
            *_shown("worst_normals.png", "The normals with the most opacity found", there),
        ]
    )


def _threshold(_: Evaluation, there: set[str]) -> str:
    if not {"trade_off.png", "cross_validation.png"} & there:
        return ""
    return "\n".join(
        [
            "## Opacity threshold\n",
            "What another threshold would have given. The test part must not choose one.\n",
            *_shown("trade_off.png", "Recall, Dice and false alarms, test part", there),
            *_shown("cross_validation.png", "The same in cross-validation", there),
        ]
    )


def _calibration(evaluation: Evaluation, there: set[str]) -> str:
    found = evaluation.calibration
    if found is None:
        return ""
    return "\n".join(
        [
            "## Calibration of the pixels inside the lungs\n",
            f"Expected calibration error {show(found.ece)}, Brier score {show(found.brier)}.\n",
            *_shown("calibration.png", "Reliability diagram", there),
        ]
    )


def _outcome(evaluation: Evaluation, there: set[str]) -> str:
    if evaluation.outcome is None:
        return ""
    rows = [
        (
            row.outcome,
            row.predictor,
            row.pictures,
            row.events,
            row.others,
            "too few" if row.auc is None else show(row.auc, 2),
        )
        for row in evaluation.outcome
    ]
    headings = ("Outcome", "Predictor", "pictures", "with", "without", "AUC")
    return "\n".join(
        [
            "## Outcome: is it the lungs or the circumstances?\n",
            _CIRCUMSTANCES,
            table(headings, rows, left=3),
            *_shown("outcome.png", "AUC with intervals", there),
        ]
    )


def _robustness(evaluation: Evaluation, there: set[str]) -> str:
    if evaluation.robustness is None:
        return ""
    labels = {it.name: f"{it.label} ({it.unit})" for it in PERTURBATIONS}
    rows = [
        (
            labels.get(row.perturbation, row.perturbation),
            f"{row.strength:g}",
            show(row.dice_pooled),
            show(row.dice_change),
            "-" if row.lung_dice is None else f"{row.lung_dice:.3f}",
            f"{row.percent_shift:+.1f}",
            f"{row.percent_change:.1f}",
        )
        for row in evaluation.robustness
    ]
    headings = ("Made worse by", "strength", "opacity Dice", "change", "lungs Dice",
                "shift, points", "absolute, points")  # fmt: skip
    return "\n".join(
        [
            "## Robustness\n",
            *_shown("robustness.png", "Dice and percentage of pictures made worse", there),
            table(headings, rows),
            _WORSE,
        ]
    )


def _phantoms(evaluation: Evaluation, _: set[str]) -> str:
    if evaluation.phantoms is None:
        return ""
    found = evaluation.phantoms
    return (
        "## Phantoms\n\n"
        f"{found['phantoms']} drawn chests whose percentage is known: mean absolute error "
        f"{found['phantom_percent_mae']:.1f} points, largest "
        f"{found['phantom_percent_max_error']:.1f}; highest percentage without opacity "
        f"{found['phantom_clear_percent_max']:.1f} %. They test the chain, not the medicine.\n"
    )


def _timing(evaluation: Evaluation, _: set[str]) -> str:
    timing = evaluation.timing
    if timing is None:
        return ""
    rows = [
        (f"{row.columns} x {row.rows}", f"{row.median_ms:.0f}", f"{row.p90_ms:.0f}", row.repeats)
        for row in timing.pictures
    ]
    return "\n".join(
        [
            "## Time per picture\n",
            (
                f"From pixels to masks, one at a time; other load counts. Device {timing.device} "
                f"({timing.processor}), {timing.threads} threads, torch {timing.torch}.\n"
            ),
            table(("Picture", "median, ms", "90th, ms", "repeats"), rows),
        ]
    )


def _left_out(evaluation: Evaluation, _: set[str]) -> str:
    if not evaluation.left_out:
        return ""
    return "## Not in this report\n\n" + "\n".join(f"- {it}." for it in evaluation.left_out) + "\n"


def _grouped(
    evaluation: Evaluation, what: str, headings: tuple[str, ...], names: Names
) -> list[str]:
    """Return one table per way of dividing; none where a division has one group only."""
    return [
        table(
            (f"by {divided}", *headings),
            [(name, *counts(found), *cells(found, names)) for name, found in groups.items()],
        )
        for divided, groups in evaluation.groups.get(what, {}).items()
        if len(groups) > 1
    ]


def _shown(name: str, says: str, there: set[str]) -> list[str]:
    return [picture(name, says)] if name in there else []


_SECTIONS: Final[tuple[Callable[[Evaluation, set[str]], str], ...]] = (
    *(_others, _opacity, _percentage, _lungs, _normals, _threshold),
    *(_calibration, _outcome, _robustness, _phantoms, _timing, _left_out),
)
