"""The figures that a bundle's metadata and its card quote, without intervals.

They are those of `dicom-worker evaluate`, through the same path as a real file. Dice, precision and
recall are of pixels on the picture's grid; percentages are opacity over lung pixels, 0..100.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from worker.training.cases import Case, load_manifest
from worker.training.evaluation.estimates import Figures as Estimates
from worker.training.evaluation.estimates import Sampling
from worker.training.evaluation.figures import by, lung_figures, of_kind
from worker.training.evaluation.measured import (
    Measured,
    Overlap,
    Segment,
    compare,
    percent,
    reading_of,
    segment_with,
)
from worker.training.evaluation.phantoms import TEST_PHANTOM_SEEDS, phantom_figures
from worker.training.evaluation.summary import sections_of
from worker.training.evaluation.uses import Uses

__all__ = ["Figures", "Overlap", "Segment", "measure", "percent", "phantom_figures", "segment_with"]

Figures = dict[str, float | int]
_WITHOUT_INTERVALS: Final = Sampling(replicates=0)
_NAMES: Final = {
    ("opacity", "dice_pooled"): "opacity_dice_pooled",
    ("opacity", "dice_mean"): "opacity_dice_mean",
    ("opacity", "precision"): "opacity_precision",
    ("opacity", "recall"): "opacity_recall",
    ("percent", "mae"): "percent_mae",
    ("percent", "bias"): "percent_bias",
    ("lungs", "lung_dice"): "lungs_dice",
    ("lungs", "left_dice"): "left_lung_dice",
    ("lungs", "right_dice"): "right_lung_dice",
    ("normals", "median"): "normals_held_out_percent_median",
    ("normals", "p90"): "normals_held_out_percent_p90",
    ("normals", "maximum"): "normals_held_out_percent_max",
    ("normals", "above_5"): "normals_held_out_above_5",
}


def measure(
    segment: Segment, data: Path, phantom_seeds: Iterable[int] = TEST_PHANTOM_SEEDS
) -> Figures:
    """Measure on the labelled test part and the held-out normals of a data folder, and phantoms.

    What the folder has no pictures for is absent. Raises ManifestError without a usable manifest.
    """
    uses = Uses.of(load_manifest(data))
    read = [_measure(segment, case) for case in uses.read]
    normals = [_measure(segment, case) for case in uses.normals]
    sections = sections_of(read, normals, _WITHOUT_INTERVALS)
    figures: Figures = {
        "opacity_images": len(of_kind(read, "opacity")),
        "normals_held_out": len(normals),
    }
    for (section, figure), name in _NAMES.items():
        figures |= _named(name, sections.get(section, {}), figure)
    drawn = [row for row in read if row.lung_dice is not None]
    sources = by(drawn, lambda row: row.source, lung_figures, _WITHOUT_INTERVALS)
    for source, found in sources.items():
        figures |= _named(f"lungs_dice_{source}", found, "lung_dice")
    return figures | phantom_figures(segment, phantom_seeds)


def _named(name: str, section: Estimates, figure: str) -> Figures:
    value = section[figure].value if figure in section else None
    return {} if value is None else {name: value}


def _measure(segment: Segment, case: Case) -> Measured:
    pixels = case.pixels()
    return compare(case, segment(pixels), reading_of(case, pixels.shape))
