"""Every training patient predicted by a network that has not seen him, to choose the threshold by.

Opacity readings, lung readings and normals are divided by patient; the test part is not touched.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

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


def cross_validate(
    config: TrainConfig,
    cases: Sequence[Case],
    *,
    machine: Machine | None = None,
    work: Path | None = None,
    jobs: int = 1,
) -> CrossValidation:
    """Train `config.folds` networks and return what each finds on the patients left out.

    `jobs` folds run at once, each with its share of the threads; `work` keeps what is finished, so
    that a run that was cut goes on. Raises RecipeError as `fit` does, ValueError when there are
    fewer patients with a reading of opacity than folds.
    """
    material = Material.of(cases)
    tasks = [
        (config, material, number, held, machine, work and work / f"fold{number}", jobs)
        for number, held in enumerate(folds_of(material, config.folds))
    ]
    if jobs == 1:
        curves = [curve for task in tasks for curve in _fold(*task)]
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(_fold, *task) for task in tasks]
            curves = [curve for future in futures for curve in future.result()]
    return CrossValidation(
        folds=config.folds,
        seed=_DIVISION_SEED,
        recipe_sha256=config.sha256,
        curves=tuple(curves),
        chosen_threshold=choose(trade_off(curves), config.normals_p90).threshold,
    )


def _fold(
    config: TrainConfig,
    material: Material,
    number: int,
    held: list[Case],
    machine: Machine | None,
    work: Path | None,
    jobs: int,
) -> list[CaseCurve]:
    share = config.model_copy(update={"threads": max(1, config.threads // jobs)})
    trained = fit(
        share, material.without(held), machine=machine, work=work, label=f"fold {number}, "
    )
    return [
        read_curve(probabilities(trained, case.pixels()), case, fold=number)
        for case in track(held, f"fold {number}, {len(held)} pictures left out")
    ]


@torch.inference_mode()
def probabilities(trained: Trained, pixels: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return (3, rows, columns) of left lung, right lung, opacity, as serving computes them."""
    prepared = prepare(pixels, Orientation(), 1.0, trained.size)
    return prepared.to_source(trained.network(prepared.tensor).float().sigmoid()[0])
