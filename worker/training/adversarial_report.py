"""What the adversary brings: overlap by pixel, false alarms, and the published figures beside them.

Pixels are those of the picture. Recall is the rate of true positives; the rate of true negatives is
given over the whole picture and inside the reader's lungs, where it is not won by the background.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from worker.training.adversarial import AdversarialConfig, Fitted, ground_glass
from worker.training.cases import Case
from worker.training.evaluation.estimates import Estimate, Figures, Sampling, mean, ratio
from worker.training.evaluation.figures import lung_figures, normal_figures, percent_figures
from worker.training.evaluation.markdown import show, table
from worker.training.evaluation.measured import Measured, Segment, compare, reading_of
from worker.training.formats import LabelFormat
from worker.types import LungMasks, Mask

PLAIN: Final = "without the adversary"
WHOLE: Final = "opacity: ground glass and consolidation"
GROUND_GLASS: Final = "ground glass only"
WITHOUT_CONSOLIDATION: Final = "ground glass only, consolidation not counted"
TRUTHS: Final = (WHOLE, GROUND_GLASS, WITHOUT_CONSOLIDATION)
_PUBLISHED: Final = (
    ("*published, training*", "", "0.886", "", "", "", "", ""),
    ("*published, test*", "", "0.501", "", "0.474", "0.532", "", ""),
)
_HEADINGS: Final = (
    *("Model, part", "Images", "DSC, pooled", "DSC, mean", "Recall (TP rate)", "Precision"),
    *("TN rate", "TN rate in the lungs"),
)
_DPI: Final = 80


@dataclass(frozen=True)
class Counts:
    """Pixels of one picture against one truth: true and false, positives and negatives.

    `lung_tn` and `lung_fp` are those inside the reader's lungs.
    """

    patient: str
    tp: int
    fp: int
    fn: int
    tn: int
    lung_tn: int
    lung_fp: int

    @classmethod
    def of(
        cls, patient: str, measured: Mask, truth: Mask, lungs: Mask, counted: Mask | None = None
    ) -> "Counts":
        """Count the pixels of a picture; with `counted`, those of them alone."""
        where = np.ones_like(truth) if counted is None else counted
        tp, fp = measured & truth & where, measured & ~truth & where
        fn, tn = ~measured & truth & where, ~measured & ~truth & where
        parts = (tp, fp, fn, tn, tn & lungs, fp & lungs)
        return cls(patient, *(int(part.sum()) for part in parts))

    @property
    def dice(self) -> float:
        """Twice the overlap over both areas; 1 when both are empty."""
        areas = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / areas if areas else 1.0


@dataclass(frozen=True)
class Judged:
    """One model on one part of the data: counts by truth, and what the product would say."""

    model: str
    part: str
    counts: dict[str, list[Counts]]
    measured: list[Measured]


@dataclass(frozen=True)
class Trial:
    """Everything that the report says. `plain` is the same training without the adversary."""

    config: AdversarialConfig
    command: str
    fitted: Fitted
    plain: Fitted | None
    judged: tuple[Judged, ...]
    normals: tuple[tuple[str, list[Measured]], ...]


def judge(model: str, part: str, segment: Segment, cases: Sequence[Case]) -> Judged:
    """Measure a model on pictures whose opacity was read."""
    counts: dict[str, list[Counts]] = {truth: [] for truth in TRUTHS}
    measured: list[Measured] = []
    for case in track(cases, f"{model}, {part}"):
        pixels = case.pixels()
        masks = segment(pixels)
        reading = reading_of(case, pixels.shape)
        measured.append(compare(case, masks, reading))
        for truth, found in _against(case, masks, reading):
            counts[truth].append(found)
    return Judged(model, part, counts, measured)


def judge_normals(
    model: str, segment: Segment, cases: Sequence[Case]
) -> tuple[str, list[Measured]]:
    """Measure a model on pictures that were read as normal."""
    rows = []
    for case in track(cases, f"{model}, normals"):
        pixels = case.pixels()
        rows.append(compare(case, segment(pixels), reading_of(case, pixels.shape)))
    return model, rows


def _against(case: Case, masks: LungMasks, reading: LungMasks) -> Iterator[tuple[str, Counts]]:
    lungs = reading.left | reading.right
    yield WHOLE, Counts.of(case.person, masks.opacity, reading.opacity, lungs)
    if case.format is not LabelFormat.BITMASK:
        return
    glass = ground_glass(case)
    others = reading.opacity & ~glass
    yield GROUND_GLASS, Counts.of(case.person, masks.opacity, glass, lungs)
    yield WITHOUT_CONSOLIDATION, Counts.of(case.person, masks.opacity, glass, lungs, ~others)


def rates(counts: Sequence[Counts], sampling: Sampling) -> Figures:
    """Return the figures of the ancestor's report, pixels pooled over pictures but for the mean."""

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(one, name) for one in counts], dtype=np.float64)

    tp, fp, fn, tn = (column(name) for name in ("tp", "fp", "fn", "tn"))
    lung_tn, lung_fp = column("lung_tn"), column("lung_fp")
    bootstrap = sampling.over([one.patient for one in counts])
    statistics = {
        "dsc": ratio(2 * tp, 2 * tp + fp + fn),
        "dsc_mean": mean(column("dice")),
        "recall": ratio(tp, tp + fn),
        "precision": ratio(tp, tp + fp),
        "tn_rate": ratio(tn, tn + fp),
        "tn_rate_lungs": ratio(lung_tn, lung_tn + lung_fp),
    }
    return {name: bootstrap.estimate(statistic) for name, statistic in statistics.items()}


_TEXT: Final = """# The adversarial segmenter

Written by `dicom-worker train-adversarial`; no figure here was typed. The experiment repeats the
third of this project's ancestors on its data (readings `gb`, split by patient): a generator draws
opacity, a discriminator is shown a radiograph with a map and tells the reader's from the
generator's, and the generator is trained to be right and to be taken for the reader.

    {command}

Preprocessing, as everywhere here: one grey channel, window from the 1st to the 99th percentile,
fitted into {size} x {size} with square pixels, zero mean and unit variance over the picture.
Generator: MONAI `{network}`. Discriminator: MONAI `PatchDiscriminator` on picture and map, least
squares, only where opacity was read. Loss: segmentation + {weight} x adversarial, the latter rising
over the first fifth of {steps} steps. Target in training: {target}. One batch: {shares}.
Threshold 0.5, chosen on nothing.

## What it means

{meaning}

{tables}

Intervals are 95 %, bootstrap over patients. Published: figures of the ancestor's own report, on its
own split of the same readings; it does not say whether pixels were pooled. Two readers of the same
15 pictures agree at pooled DSC 0.761 and mean 0.484. Pictures of the training part trained every
model of the table: those rows say only how much was learnt by heart.

## The percentage, and false alarms on normals

Normals are of patients that trained nothing here.

{percentages}

## Losses

![Losses]({plot})
"""


def write_trial(trial: Trial, report: Path, sampling: Sampling) -> None:
    """Write the report and its plot, named like it and beside it."""
    report.parent.mkdir(parents=True, exist_ok=True)
    plot = report.with_name(f"{report.stem}-losses.png")
    _plot(trial, plot)
    report.write_text(render_trial(trial, plot.name, sampling), encoding="utf-8")


def render_trial(trial: Trial, plot: str, sampling: Sampling) -> str:
    """Return the report as Markdown; `plot` is the name of the plot."""
    config = trial.config
    return _TEXT.format(
        command=trial.command,
        size=config.size,
        network=config.network["name"],
        weight=config.weight,
        steps=config.steps,
        target=config.target.replace("_", " "),
        shares=", ".join(f"{count} {pool}" for pool, count in config.shares.items()),
        meaning="\n".join(_meaning(trial, sampling)),
        tables="\n".join(_overlaps(trial, truth, sampling) for truth in TRUTHS),
        percentages=_percentages(trial, sampling),
        plot=plot,
    )


def _meaning(trial: Trial, sampling: Sampling) -> Iterator[str]:
    """Say what the figures allow to be said, from the figures themselves."""
    counts = {(row.model, row.part): row.counts[WHOLE] for row in trial.judged}
    name = trial.config.name
    test = counts[name, "test"]
    learnt, unseen = (rates(counts[name, part], sampling)["dsc"] for part in ("training", "test"))
    yield (
        f"- DSC {show(learnt)} on the pictures that trained, {show(unseen)} on unseen patients;"
        " the published fall is from 0.886 to 0.501."
    )
    if (PLAIN, "test") in counts:
        gain = gained(test, counts[PLAIN, "test"], sampling)
        shown = gain.low is not None and gain.high is not None and gain.low * gain.high > 0
        verdict = "an effect is shown" if shown else "**no effect of the adversary is shown**"
        yield (
            "- The same training without the adversary, on the same test pictures: the adversary"
            f" adds {show(gain)} to the pooled DSC; {verdict}."
        )
    yield (
        "- Where ground glass alone is the truth, consolidation that the model drew counts as"
        " false, unless it is left out of the count."
    )


def gained(first: Sequence[Counts], second: Sequence[Counts], sampling: Sampling) -> Estimate:
    """Return by how much the pooled DSC of the first is larger, on the same pictures."""
    columns = []
    for counts in (first, second):
        both = np.array([2.0 * one.tp for one in counts])
        columns.append(ratio(both, both + np.array([float(one.fp + one.fn) for one in counts])))
    bootstrap = sampling.over([one.patient for one in first])
    return bootstrap.estimate(lambda drawn: columns[0](drawn) - columns[1](drawn))


def _overlaps(trial: Trial, truth: str, sampling: Sampling) -> str:
    rows: list[Sequence[object]] = list(_PUBLISHED)
    for judged in trial.judged:
        counts = judged.counts[truth]
        if counts:
            figures = rates(counts, sampling)
            shown = [show(it) for it in figures.values()]
            rows.append((f"{judged.model}, {judged.part}", len(counts), *shown))
    return f"## Against the reader: {truth}\n\n{table(_HEADINGS, rows)}"


def _percentages(trial: Trial, sampling: Sampling) -> str:
    normals: Mapping[str, list[Measured]] = dict(trial.normals)
    rows = []
    for judged in trial.judged:
        if judged.part != "test":
            continue
        percent = percent_figures(judged.measured, sampling)
        lungs = lung_figures(judged.measured, sampling)
        alarms = normal_figures(normals[judged.model], sampling)
        rows.append(
            (
                judged.model,
                show(percent["mae"], 1),
                show(percent["bias"], 1),
                show(lungs["lung_dice"]),
                show(alarms["median"], 1),
                show(alarms["p90"], 1),
            )
        )
    headings = (
        *("Model", "Mean absolute error, points", "Bias, points", "Lungs DSC"),
        *("Normals, median %", "Normals, 90th percentile %"),
    )
    return table(headings, rows)


def _plot(trial: Trial, path: Path) -> None:
    figure = Figure(figsize=(7.0, 2.8), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    segmentation, adversary = figure.subplots(1, 2)
    names: list[tuple[Fitted | None, str]] = [(trial.fitted, "adversarial"), (trial.plain, PLAIN)]
    for fitted, name in names:
        if fitted is not None:
            segmentation.plot(
                *_smooth(fitted, lambda one: one.segmentation), label=name, linewidth=1.0
            )
    for label in ("adversarial", "discriminator"):
        adversary.plot(
            *_smooth(trial.fitted, lambda one, label=label: getattr(one, label) or 0.0),
            label=label,
            linewidth=1.0,
        )
    for axes, title in ((segmentation, "segmentation loss"), (adversary, "adversarial losses")):
        axes.set(xlabel="step", title=title)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=_DPI)


def _smooth(
    fitted: Fitted, of: Callable[..., float], every: int = 10
) -> tuple[list[int], list[float]]:
    values = [of(one) for one in fitted.losses]
    firsts = list(range(0, len(values), every))
    return firsts, [float(np.mean(values[first : first + every])) for first in firsts]
