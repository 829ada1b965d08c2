"""The pictures of a stage, by kind, in memory: read, drawn, or blended from two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from worker.errors import RecipeError
from worker.network import mirror_mean
from worker.preprocess import standardise
from worker.training.cases import Case, apart_from, held_out
from worker.training.config import Pool, Stage, TrainConfig
from worker.training.datasets import Samples, load_cases, load_phantoms
from worker.training.grafts import Chest, chests, clear, graft, stacked, whiten

PHANTOM_TRAINING_SEED: Final = 1_000_000  # seeds below are for tests, demos and figures
_GRAFTS_ON_NORMALS: Final = 0.8
_CLEARED_OF_OPACITY: Final = 0.4
_TAUGHT_AT_ONCE: Final = 16
_SMALL_SOURCE: Final = 8


@dataclass(frozen=True)
class Teacher:
    """The network of the stage before and the square it has learned on."""

    network: torch.nn.Module
    size: int

    @torch.inference_mode()
    def probabilities(self, samples: Samples) -> torch.Tensor:
        """Return float32 (cases, 3, size, size): the mean of each picture and its mirror."""
        parts = []
        for first in range(0, len(samples), _TAUGHT_AT_ONCE):
            rows = slice(first, first + _TAUGHT_AT_ONCE)
            inside = (samples.inside[rows] > 127).float()  # noqa: PLR2004  half covered
            images = standardise(samples.images[rows].float() / 255.0 * inside, inside)
            shape = images.shape[-2:]
            fitted = functional.interpolate(
                images, size=self.size, mode="bilinear", align_corners=False, antialias=True
            )
            plain = self.network(fitted).float().sigmoid()
            turned = self.network(fitted.flip(-1)).float().sigmoid()
            mean = mirror_mean(plain, turned)
            parts.append(functional.interpolate(mean, shape, mode="bilinear"))
        return torch.cat(parts)


@dataclass(frozen=True)
class Material:
    """The cases that a run may learn from."""

    opacity: tuple[Case, ...]
    lungs: tuple[Case, ...]
    normal: tuple[Case, ...]

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Material":
        """Sort the training part of a manifest; what may not train or is held out is left out."""
        usable = [case for case in cases if case.may_train and not held_out(case)]
        read = [case for case in usable if case.split == "train" and case.labels is not None]
        return cls(
            opacity=tuple(case for case in read if case.has_opacity),
            lungs=tuple(case for case in read if case.has_lung and not case.has_opacity),
            normal=tuple(case for case in usable if case.normal and case.labels is None),
        )

    @property
    def cases(self) -> tuple[Case, ...]:
        """All of them."""
        return (*self.opacity, *self.lungs, *self.normal)

    def without(self, left_out: Sequence[Case]) -> "Material":
        """Return the material less every picture of the patients in `left_out`."""
        return Material(
            tuple(apart_from(self.opacity, left_out)),
            tuple(apart_from(self.lungs, left_out)),
            tuple(apart_from(self.normal, left_out)),
        )


def load_pools(
    material: Material, config: TrainConfig, stage: Stage, teacher: Teacher | None = None
) -> dict[str, Samples]:
    """Load the pools that a stage names and that the data has, by name.

    The teacher gives normals the lungs by which they are blended, and a `taught` stage the opacity
    inside the lungs of lung-only cases. Raises RecipeError when the data has nothing of what the
    stage names.
    """
    size = config.size_of(stage)
    wanted = set(stage.shares)
    blended = {Pool.GRAFTED, Pool.CLEARED} & wanted
    loaded: dict[str, Samples] = {}
    for pool, cases in (
        (Pool.OPACITY, material.opacity),
        (Pool.LUNGS, material.lungs),
        (Pool.NORMAL, material.normal),
    ):
        if cases and (pool in wanted or blended):
            loaded[pool] = load_cases(_balanced(cases) if pool is Pool.NORMAL else cases, size)
    if Pool.PHANTOM in wanted and config.phantoms:
        first = PHANTOM_TRAINING_SEED + config.seed * config.phantoms
        loaded[Pool.PHANTOM] = load_phantoms(range(first, first + config.phantoms), size)
    if teacher is not None:
        loaded |= _taught(loaded, config, stage, teacher)
    pools = {str(pool): loaded[pool] for pool in stage.shares if pool in loaded}
    if not pools:
        msg = f"the data has nothing of what the stage names: {', '.join(stage.shares)}"
        raise RecipeError(msg)
    return pools


def _balanced(cases: Sequence[Case]) -> list[Case]:
    """Repeat the pictures of small sources until each is an eighth of the largest at least."""
    sources: dict[str, list[Case]] = {}
    for case in cases:
        sources.setdefault(case.source, []).append(case)
    least = max(len(group) for group in sources.values()) / _SMALL_SOURCE
    return [
        case for group in sources.values() for case in group * max(1, math.ceil(least / len(group)))
    ]


def _taught(
    loaded: dict[str, Samples], config: TrainConfig, stage: Stage, teacher: Teacher
) -> dict[str, Samples]:
    """Return the pools that need the teacher's reading."""
    made: dict[str, Samples] = {}
    if stage.taught and Pool.LUNGS in loaded:
        made[Pool.LUNGS] = _with_opacity(loaded[Pool.LUNGS], teacher)
    blended = {Pool.GRAFTED: config.grafted, Pool.CLEARED: config.cleared}
    if Pool.NORMAL not in loaded or not any(pool in stage.shares for pool in blended):
        return made
    random = np.random.default_rng([config.seed, len(loaded[Pool.NORMAL])])
    normals = chests(_with_lungs(loaded[Pool.NORMAL], teacher))
    patients = chests(loaded[Pool.OPACITY]) if Pool.OPACITY in loaded else []
    others = chests(loaded[Pool.LUNGS]) if Pool.LUNGS in loaded else []
    if Pool.GRAFTED in stage.shares and config.grafted:
        made[Pool.GRAFTED] = _grafted(normals, patients, config, random)
    if Pool.CLEARED in stage.shares and config.cleared:
        made[Pool.CLEARED] = _cleared(normals, patients, others, config.cleared, random)
    return made


def _with_opacity(samples: Samples, teacher: Teacher) -> Samples:
    """Judge opacity everywhere: where no reader did, by the teacher, as a probability."""
    targets, supervised = samples.targets.clone(), samples.supervised.clone()
    opacity = (teacher.probabilities(samples)[:, 2] * 255).round().byte()
    targets[:, 2] = torch.where(supervised[:, 2] > 0, targets[:, 2], opacity)
    supervised[:, 2] = samples.inside[:, 0]
    return replace(samples, targets=targets, supervised=supervised)


def _with_lungs(samples: Samples, teacher: Teacher) -> Samples:
    targets = samples.targets.clone()
    targets[:, :2] = (teacher.probabilities(samples)[:, :2] * 255).round().byte()
    return replace(samples, targets=targets)


def _grafted(
    normals: list[Chest], patients: list[Chest], config: TrainConfig, random: np.random.Generator
) -> Samples:
    donors = [chest for chest in patients if chest.opacity.any()]
    _need(normals, donors)
    blended = []
    for _ in range(config.grafted):
        if config.whitened and random.random() < config.whitened:
            onto = normals if random.random() < 0.5 else patients  # noqa: PLR2004  half
            blended.append(whiten(_one(onto, random), random))
            continue
        onto = normals if random.random() < _GRAFTS_ON_NORMALS else patients
        blended.append(graft(_one(onto, random), _one(donors, random), random))
    return stacked(blended)


def _cleared(
    normals: list[Chest],
    patients: list[Chest],
    others: list[Chest],
    count: int,
    random: np.random.Generator,
) -> Samples:
    """Clear read and lung-only chests; what was not read is taken for clear where it is covered."""
    _need(normals, [*patients, *others])
    blended = []
    for _ in range(count):
        read = bool(patients) and (not others or random.random() < _CLEARED_OF_OPACITY)
        recipient = _one(patients if read else others, random)
        if not read:
            recipient = replace(recipient, opacity=np.zeros_like(recipient.opacity))
        blended.append(clear(recipient, _one(normals, random), random))
    return stacked(blended)


def _need(normals: list[Chest], patients: list[Chest]) -> None:
    if not (normals and patients):
        msg = "blended pictures need normals and readings of opacity, and the data lacks one"
        raise RecipeError(msg)


def _one(chests_: list[Chest], random: np.random.Generator) -> Chest:
    return chests_[int(random.integers(len(chests_)))]
