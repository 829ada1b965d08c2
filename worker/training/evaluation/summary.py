"""The main figures of a set of measured pictures, whole and by group."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from worker.training.cases import Case
from worker.training.curves import CrossValidation, OperatingPoint, trade_off
from worker.training.evaluation.estimates import Sampling
from worker.training.evaluation.figures import (
    band_of,
    by,
    lung_figures,
    normal_figures,
    of_kind,
    opacity_and_percent,
    opacity_figures,
    percent_figures,
)
from worker.training.evaluation.measured import Measured, from_curves
from worker.training.evaluation.results import CrossValidated, Groups, Sections


def sections_of(
    read: Sequence[Measured], normals: Sequence[Measured], sampling: Sampling
) -> Sections:
    """Return the main figures; a section without pictures is absent.

    `read` are pictures with a reading, of which those with opacity and those with lungs count.
    """
    opaque = of_kind(read, "opacity")
    drawn = [row for row in read if row.lung_dice is not None]
    sections: Sections = {}
    if opaque:
        sections["opacity"] = opacity_figures(opaque, sampling)
    if any(row.true_percent is not None for row in opaque):
        sections["percent"] = percent_figures(opaque, sampling)
    if drawn:
        sections["lungs"] = lung_figures(drawn, sampling)
    if normals:
        sections["normals"] = normal_figures(normals, sampling)
    return sections


def groups_of(read: Sequence[Measured], normals: Sequence[Measured], sampling: Sampling) -> Groups:
    """Return the figures by source, by view, and of opacity by the severity the reader saw."""
    opaque = of_kind(read, "opacity")
    drawn = [row for row in read if row.lung_dice is not None]
    keys = {"source": lambda row: row.source, "view": lambda row: row.view}
    bands = {"severity": band_of}
    return {
        name: {by_what: by(rows, key, section, sampling) for by_what, key in divided.items()}
        for name, rows, section, divided in (
            ("opacity", opaque, opacity_and_percent, keys | bands),
            ("lungs", drawn, lung_figures, keys),
            ("normals", normals, normal_figures, keys),
        )
        if rows
    }


def point_of(sections: Sections, threshold: float, blank: OperatingPoint) -> OperatingPoint:
    """Return the model's own point, whose threshold may lie between the steps of the curve.

    `blank` is any point of the same pictures.
    """

    def value(section: str, figure: str) -> float | None:
        return sections[section][figure].value if section in sections else None

    return replace(
        blank,
        threshold=threshold,
        dice_pooled=value("opacity", "dice_pooled"),
        dice_mean=value("opacity", "dice_mean"),
        precision=value("opacity", "precision"),
        recall=value("opacity", "recall"),
        percent_mae=value("percent", "mae"),
        percent_bias=value("percent", "bias"),
        normals_median=value("normals", "median"),
        normals_p90=value("normals", "p90"),
        normals_above_5=value("normals", "above_5"),
    )


def cross_validated(
    folder: Path, cases: Sequence[Case], sampling: Sampling
) -> CrossValidated | None:
    """Return the figures of the folds that a bundle's folder holds; None where it holds none.

    The cases tell patients and views of the pictures.
    """
    found = CrossValidation.read(folder)
    if found is None:
        return None
    known = {case.name: case for case in cases}
    rows = from_curves(found.curves, found.chosen_threshold, known)
    return CrossValidated(
        folds=found.folds,
        seed=found.seed,
        recipe_sha256=found.recipe_sha256,
        threshold=found.chosen_threshold,
        images=len(rows),
        sections=sections_of(rows, of_kind(rows, "normal"), sampling),
        trade_off=tuple(trade_off(found.curves)),
    )
