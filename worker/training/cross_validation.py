"""Every training patient predicted by a network that has not seen him, to choose the threshold by.

Opacity readings, lung readings and normals are divided by patient; the test part is not touched.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from worker.network import predict
from worker.preprocess import prepare
from worker.training.cases import Case, patient_folds
from worker.training.config import TrainConfig
from worker.training.curves import CaseCurve, CrossValidation, choose, read_curve, trade_off
from worker.training.fit import Machine
from worker.training.pools import Material
from worker.training.train import Trained, fit
from worker.types import Orientation

_DIVISION_SEED = 0  # the folds are the same for every recipe, so that recipes can be compared


def folds_of(material: Material, count: int) -> list[list[Case]]:
    """Divide all of the material, each kind about equally."""
    divided = [
        patient_folds(cases, count, _DIVISION_SEED)
        for cases in (material.opacity, material.lungs, material.normal)
        if len({case.person for case in cases}) >= count
    ]
    return [[case for part in fold for case in part] for fold in zip(*divided, strict=True)]


@dataclass(frozen=True)
class Fold:
    """One division of the material: what is left out, and where its checkpoints lie."""

    number: int
    held: list[Case]
    work: Path | None


def cross_validate(
    config: TrainConfig,
    cases: Sequence[Case],
    *,
    machine: Machine | None = None,
    work: Path | None = None,
    jobs: int = 1,
) -> CrossValidation:
    """Train the recipe `config.folds` times and return what is found on the patients left out.

    `jobs` folds run at once, each with the threads of the recipe; `work` keeps what is finished, so
    that a run that was cut goes on. Raises RecipeError as `fit` does, ValueError when there are
    fewer patients with a reading of opacity than folds.
    """
    material = Material.of(cases)
    folds = [
        Fold(number, held, work and work / f"fold{number}")
        for number, held in enumerate(folds_of(material, config.folds))
    ]
    run = partial(_run, config, material, machine)
    if jobs == 1:
        done = [run(fold) for fold in folds]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            done = list(pool.map(run, folds))
    curves = tuple(curve for found in done for curve in found)
    return CrossValidation(
        folds=config.folds,
        seed=_DIVISION_SEED,
        recipe_sha256=config.sha256,
        curves=curves,
        chosen_threshold=choose(trade_off(curves), config.normals_p90).threshold,
    )


def _run(
    config: TrainConfig, material: Material, machine: Machine | None, fold: Fold
) -> list[CaseCurve]:
    trained = fit(
        config,
        material.without(fold.held),
        machine=machine,
        work=fold.work,
        label=f"fold {fold.number}, ",
    )
    title = f"fold {fold.number}, {len(fold.held)} pictures left out"
    return [
        read_curve(
            probabilities(trained, case.pixels(), mirrored=config.mirrored), case, fold=fold.number
        )
        for case in track(fold.held, title)
    ]


@torch.inference_mode()
def probabilities(
    trained: Trained, pixels: NDArray[np.uint16], *, mirrored: bool = False
) -> NDArray[np.float32]:
    """Return (3, rows, columns) of left lung, right lung, opacity, as serving computes them."""
    prepared = prepare(pixels, Orientation(), 1.0, trained.size)
    return prepared.to_source(predict(trained.network, prepared.tensor, mirrored=mirrored))
