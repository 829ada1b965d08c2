"""From a recipe and a data folder to an installed model: train, cross-validate, store, measure."""

import csv
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worker.inference import Segmenter
from worker.registry import BUNDLES, Bundle
from worker.training.bundle import Recipe, write_bundle, write_metrics
from worker.training.cases import load_manifest
from worker.training.config import TrainConfig
from worker.training.cross_validation import cross_validate
from worker.training.curves import CrossValidation, choose, plot_trade_off, trade_off
from worker.training.datasets import licence_counts, manifest_sha256
from worker.training.evaluate import measure, segment_with
from worker.training.fit import Machine
from worker.training.pools import Material
from worker.training.train import Trained, fit

_LOG_EVERY: Final = 20
_THRESHOLD: Final = 0.5  # until a cross-validation says better


@dataclass(frozen=True)
class Production:
    """What to train on which data, and where the bundle goes: `out / config.name`.

    Unfinished work lies in `out / .work`, by the hashes of recipe and data, and is gone on from.
    """

    config: TrainConfig
    data: Path
    out: Path
    machine: Machine
    recipe: str
    jobs: int = 1

    @property
    def folder(self) -> Path:
        """The folder of the bundle."""
        return self.out / self.config.name

    @property
    def work(self) -> Path:
        """The folder of checkpoints."""
        hashes = (self.config.sha256[:12], manifest_sha256(self.data)[:12])
        return self.out / ".work" / "-".join(hashes)

    @property
    def command(self) -> str:
        """The command that repeats this, for the card."""
        return f"dicom-worker train --config {shlex.quote(self.recipe)} --data DATA --out OUT"


def produce(production: Production) -> Bundle:
    """Train on the whole training part, write the bundle and measure it on the test part.

    The threshold is the one that a cross-validation of the very same recipe chose: one whose
    figures lie in the folder, or in the installed model of that name; 0.5 where there is none.
    Raises RecipeError, ManifestError as their makers do.
    """
    config, folder = production.config, production.folder
    material = Material.of(load_manifest(production.data))
    trained = fit(config, material, machine=production.machine, work=production.work / "all")
    validation = _validation_of(production)
    if validation is not None:
        _show_validation(production, validation)
    _write_log(folder / "training.csv", trained.losses)
    plot_losses(folder / "docs" / "training.png", trained.losses)
    write_bundle(folder, trained.network, _recipe(production, trained, validation))
    return _measured(production, validation)


def validate(production: Production) -> CrossValidation:
    """Cross-validate the recipe, write the curves into the bundle's folder, draw the trade-off."""
    found = cross_validate(
        production.config,
        load_manifest(production.data),
        machine=production.machine,
        work=production.work,
        jobs=production.jobs,
    )
    _show_validation(production, found)
    return found


def _show_validation(production: Production, found: CrossValidation) -> None:
    docs = production.folder / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    found.write(production.folder)
    points = trade_off(found.curves)
    chosen = choose(points, production.config.normals_p90)
    title = f"{found.folds}-fold cross-validation"
    plot_trade_off(points, docs / "trade-off.png", chosen, title)


def _validation_of(production: Production) -> CrossValidation | None:
    for folder in (production.folder, BUNDLES / production.config.name):
        found = CrossValidation.read(folder)
        if found is not None and found.recipe_sha256 == production.config.sha256:
            return found
    return None


def _recipe(production: Production, made: Trained, validation: CrossValidation | None) -> Recipe:
    config = production.config
    material = Material.of(load_manifest(production.data))
    return Recipe(
        name=config.name,
        version=config.version,
        network=config.described,
        input_size=config.trained_size,
        data_manifest_sha256=manifest_sha256(production.data),
        picture_licences=licence_counts(material.cases),
        training=_stages(config, made.losses),
        opacity_threshold=validation.chosen_threshold if validation else _THRESHOLD,
        mirrored=config.mirrored,
        half=config.half,
        command=production.command,
        recipe=config.model_dump(mode="json"),
    )


def _stages(config: TrainConfig, losses_: tuple[tuple[float, ...], ...]) -> list[dict[str, Any]]:
    """Return what the metadata says of each stage."""
    run = [(part, stage) for part in config.parts for stage in part.stages]
    return [
        {
            "steps": len(losses),
            "shares": {str(pool): count for pool, count in stage.shares.items()},
            "learning_rate": stage.learning_rate,
            "size": part.size_of(stage),
            "final_loss": round(float(np.mean(losses[-_LOG_EVERY:])), 4),
        }
        for (part, stage), losses in zip(run, losses_, strict=True)
    ]


def _measured(production: Production, validation: CrossValidation | None) -> Bundle:
    """Measure the bundle as it is stored and record the figures, those of the folds beside them."""
    bundle = write_metrics(production.folder, {})
    segmenter = Segmenter.load(bundle, "cpu", production.config.threads)
    figures: dict[str, Any] = dict(measure(segment_with(segmenter), production.data))
    if validation is not None:
        chosen = choose(trade_off(validation.curves), production.config.normals_p90)
        values = chosen.to_json()
        figures |= {f"cv_{name}": value for name, value in values.items() if value is not None}
    return write_metrics(production.folder, figures)


def _write_log(path: Path, stages: Sequence[Sequence[float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("stage", "step", "mean_loss"))
        for number, losses in enumerate(stages, start=1):
            for first, mean in _means(losses):
                writer.writerow((number, first, f"{mean:.5f}"))


def plot_losses(path: Path, stages: Sequence[Sequence[float]]) -> None:
    """Draw the running mean of the loss, the stages one after the other."""
    figure = Figure(figsize=(7, 3), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)  # no display, no global state of pyplot
    axes = figure.subplots()
    begun = 0
    for number, losses in enumerate(stages, start=1):
        steps = [begun + first for first, _ in _means(losses)]
        axes.plot(steps, [mean for _, mean in _means(losses)], label=f"stage {number}")
        begun += len(losses)
    axes.set(xlabel="step", ylabel="loss (cross-entropy + Dice)", yscale="log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _means(losses: Sequence[float]) -> Iterator[tuple[int, float]]:
    for first in range(0, len(losses), _LOG_EVERY):
        part = losses[first : first + _LOG_EVERY]
        yield first, sum(part) / len(part)
