"""Measure one model on one data folder, step by step; nothing is written here."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from worker.inference import Segmenter
from worker.postprocess import masks_from_probabilities
from worker.registry import Bundle, Thresholds
from worker.training.cases import Case, cases_sha256, load_manifest
from worker.training.curves import CaseCurve, read_curve, trade_off
from worker.training.evaluation.boundaries import Boundary, boundaries, boundary_figures
from worker.training.evaluation.calibration import (
    Calibration,
    PixelBins,
    calibrate,
    pixel_bins,
)
from worker.training.evaluation.estimates import Sampling
from worker.training.evaluation.measured import (
    Measured,
    Segment,
    chest_image,
    compare,
    reading_of,
    segment_with,
)
from worker.training.evaluation.outcome import OutcomeRow, outcome_rows
from worker.training.evaluation.phantoms import TEST_PHANTOM_SEEDS, phantom_figures
from worker.training.evaluation.results import Evaluation, Sections
from worker.training.evaluation.robustness import RobustnessRow, robustness_rows
from worker.training.evaluation.summary import cross_validated, groups_of, point_of, sections_of
from worker.training.evaluation.timing import take_times
from worker.training.evaluation.uses import Uses

_DEFAULT_SAMPLING: Final = Sampling()
_WHY: Final = {
    "opacity": "no test picture has its opacity read",
    "percent": "no test picture has its lungs and its opacity read",
    "lungs": "no test picture has its lungs read",
    "normals": "no normal was held out from training",
    "boundaries": "no test picture has a reading",
    "calibration": "no test picture has its opacity read",
    "outcome": "no outcome is known of a picture whose patient did not train",
    "robustness": "no test picture has its opacity read",
    "cross-validation": "the bundle has no cross_validation.json",
}


@dataclass(frozen=True)
class Options:
    """What decides the figures beside model and data; `threshold` None is the model's own.

    `skip` names parts to leave out, of `worker.training.evaluation.PARTS`.
    """

    threshold: float | None = None
    sampling: Sampling = _DEFAULT_SAMPLING
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Seen:
    """What is kept of one picture after the network has seen it."""

    measured: Measured
    curve: CaseCurve
    boundaries: tuple[Boundary, ...]
    bins: PixelBins | None


def evaluate(
    segmenter: Segmenter, bundle: Bundle, data: Path, options: Options, progress: Progress
) -> Evaluation:
    """Measure a loaded model on the test part of a data folder.

    1. Read the manifest and say which pictures serve for what.
    2. Run the network once on each of them and keep counts.
    3. Turn counts into figures with intervals.
    4. Run it again where pictures are made worse, drawn, or timed.

    Raises ManifestError without a usable manifest, and ValueError when it holds nothing to measure
    on, or naming case and file when a picture or its labels are unreadable.
    """
    cases = load_manifest(data)
    uses = Uses.of(cases)
    limits = _limits(bundle, options)
    seen = {
        case.name: look(segmenter, case, limits, options.skip)
        for case in progress.track(uses.all, description="measuring pictures")
    }
    read, normals = ([seen[it.name] for it in part] for part in (uses.read, uses.normals))
    rows, clear = [it.measured for it in read], [it.measured for it in normals]
    sections = sections_of(rows, clear, options.sampling)
    opaque = [it for it in read if it.measured.kind == "opacity"]
    points = trade_off(it.curve for it in (*opaque, *normals))
    folds = cross_validated(bundle.folder, cases, options.sampling)
    further = _further(read, opaque, seen, uses, options)
    again = _runs(segmenter, uses, limits, options, progress)
    return Evaluation(
        model=_model(bundle, limits),
        about=_about(segmenter, uses, options, cases_sha256(cases, data)),
        read=tuple(rows),
        normals=tuple(clear),
        sections=sections,
        groups=groups_of(rows, clear, options.sampling),
        trade_off=tuple(points),
        point=point_of(sections, limits.opacity, points[0]),
        cross_validation=folds,
        left_out=_left_out(sections, {**further, **again, "cross-validation": folds}, options),
        **further,
        **again,
    )


def look(
    segmenter: Segmenter, case: Case, limits: Thresholds, skip: frozenset[str] = frozenset()
) -> Seen:
    """Run the network on one picture and keep what the figures need."""
    pixels = case.pixels()
    probabilities = segmenter.probabilities(chest_image(pixels))
    masks = masks_from_probabilities(probabilities, limits.lung, limits.opacity)
    reading = reading_of(case, pixels.shape)
    measured = compare(case, masks, reading)
    judged = measured.kind == "opacity"
    drawn = [*(("left", "right") if case.has_lung else ()), *(("opacity",) if judged else ())]
    bins = None
    if judged and "calibration" not in skip:
        lungs = masks.left | masks.right
        bins = pixel_bins(case.person, probabilities[2], lungs, reading.opacity)
    apart = [] if "boundaries" in skip else boundaries(case.person, masks, reading, drawn)
    return Seen(measured, read_curve(probabilities, case, limits.lung), tuple(apart), bins)


def _limits(bundle: Bundle, options: Options) -> Thresholds:
    limits = bundle.metadata.threshold
    if options.threshold is None:
        return limits
    return Thresholds(lung=limits.lung, opacity=options.threshold)


def _further(
    read: Sequence[Seen],
    opaque: Sequence[Seen],
    seen: dict[str, Seen],
    uses: Uses,
    options: Options,
) -> dict[str, Any]:
    """Return the parts that need no further run; None for those without pictures or skipped."""
    apart = [row for it in read for row in it.boundaries]
    bins = [it.bins for it in opaque if it.bins is not None]
    outcome: tuple[OutcomeRow, ...] | None = None
    if uses.outcome and "outcome" not in options.skip:
        told = [(case, seen[case.name].measured.percent) for case in uses.outcome]
        outcome = tuple(outcome_rows(told, options.sampling))
    calibration: Calibration | None = calibrate(bins, options.sampling) if bins else None
    return {
        "boundaries": boundary_figures(apart, options.sampling) if apart else None,
        "calibration": calibration,
        "outcome": outcome,
    }


def _runs(
    segmenter: Segmenter, uses: Uses, limits: Thresholds, options: Options, progress: Progress
) -> dict[str, Any]:
    """Return the parts that run the network again."""
    segment = segment_with(segmenter, limits.opacity)
    phantoms = timing = None
    if "phantoms" not in options.skip:
        seeds = progress.track(TEST_PHANTOM_SEEDS, description="measuring phantoms")
        phantoms = phantom_figures(segment, seeds)
    if "timing" not in options.skip:
        timing = take_times(segmenter, uses.all[0].pixels())
    return {
        "robustness": _robustness(segment, uses, options, progress),
        "phantoms": phantoms,
        "timing": timing,
    }


def _robustness(
    segment: Segment, uses: Uses, options: Options, progress: Progress
) -> tuple[RobustnessRow, ...] | None:
    opaque = [case for case in uses.read if case.has_opacity and not case.normal]
    if not opaque or "robustness" in options.skip:
        return None
    task = progress.add_task("making pictures worse", total=len(opaque))
    return tuple(
        robustness_rows(segment, opaque, options.sampling, advance=lambda: progress.advance(task))
    )


def _model(bundle: Bundle, limits: Thresholds) -> dict[str, Any]:
    meta = bundle.metadata
    return {
        "name": meta.name,
        "version": meta.version,
        "sha256": meta.weights.sha256,
        "network": meta.network,
        "input_size": meta.input_size,
        "mirrored": meta.mirrored,
        "threshold": limits.model_dump(),
        "licence": meta.licence,
    }


def _about(segmenter: Segmenter, uses: Uses, options: Options, data_sha256: str) -> dict[str, Any]:
    return {
        "data_sha256": data_sha256,
        "device": segmenter.device,
        **asdict(options.sampling),
        "skipped": sorted(options.skip),
        "images_read": len(uses.read),
        "normals_held_out": len(uses.normals),
        "images_with_outcome": len(uses.outcome),
    }


def _left_out(sections: Sections, parts: dict[str, Any], options: Options) -> tuple[str, ...]:
    """Say in words what the report lacks, and why."""
    there = {name for name, part in {**sections, **parts}.items() if part is not None}
    reasons = {name: why for name, why in _WHY.items() if name not in there}
    reasons |= dict.fromkeys(sorted(options.skip), "skipped on request")
    return tuple(f"{name}: {why}" for name, why in reasons.items())
