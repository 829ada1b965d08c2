"""The whole experiment: train with and without the adversary, write the bundle, judge them all."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.progress import Progress

from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.training.adversarial import (
    AdversarialConfig,
    Fitted,
    Losses,
    fit_adversarial,
    pools_of,
    write_log,
)
from worker.training.adversarial_report import PLAIN, Trial, judge, judge_normals
from worker.training.bundle import Recipe, write_bundle, write_metrics
from worker.training.cases import load_manifest
from worker.training.datasets import Samples, licence_counts, manifest_sha256
from worker.training.evaluate import measure, segment_with
from worker.training.evaluation.measured import Segment
from worker.training.evaluation.uses import Uses
from worker.training.pools import Material

_LAST: Final = 20  # steps whose mean loss the metadata state


@dataclass(frozen=True)
class Plan:
    """What to train on which data, where the bundle goes, and what to set beside it."""

    config: AdversarialConfig
    data: Path
    out: Path
    command: str
    plain_too: bool = True
    compare: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the bundle."""
        return self.out / self.config.name


def run_trial(plan: Plan) -> Trial:
    """Train, write the bundle, measure it and what it is compared with.

    Raises RecipeError, ManifestError or ValueError when the data cannot serve, BundleError when a
    model to compare with is not installed.
    """
    config = plan.config
    installed = [_installed(name, config.threads) for name in plan.compare]
    cases = load_manifest(plan.data)
    material = Material.of(cases)
    pools = pools_of(config, material)
    fitted = _train(config, pools, config.name)
    write_log(plan.folder / "training.csv", fitted.losses)
    bundle = write_bundle(plan.folder, fitted.network, _recipe(plan, fitted, material))
    served = segment_with(Segmenter.load(bundle, "cpu", config.threads))
    segments: list[tuple[str, Segment]] = [(config.name, served)]
    plain = None
    if plan.plain_too and config.weight:
        plain = _train(config.model_copy(update={"weight": 0.0}), pools, PLAIN)
        stored = Segmenter(_stored(plain.network), bundle, "cpu")
        segments.append((PLAIN, segment_with(stored)))
    segments += installed
    write_metrics(plan.folder, dict(measure(served, plan.data)))
    uses = Uses.of(cases)
    test = [case for case in uses.read if case.has_opacity]
    return Trial(
        config=config,
        command=plan.command,
        fitted=fitted,
        plain=plain,
        judged=tuple(
            judge(name, part, segment, pictures)
            for name, segment in segments
            for part, pictures in (("training", material.opacity), ("test", test))
        ),
        normals=tuple(judge_normals(name, segment, uses.normals) for name, segment in segments),
    )


def _installed(name: str, threads: int) -> tuple[str, Segment]:
    """Load a model to compare with before the training, so that a missing one costs no time."""
    segmenter = Segmenter.load(find_bundle(name), "cpu", threads)
    said = f"installed `{name}` {segmenter.identity.version}"
    return said, segment_with(segmenter)


def _train(config: AdversarialConfig, pools: dict[str, Samples], label: str) -> Fitted:
    with Progress(refresh_per_second=1) as progress:
        task = progress.add_task(label, total=config.steps)

        def show(step: int, losses: Losses) -> None:
            text = f"{label}, loss {losses.segmentation:.3f}"
            progress.update(task, completed=step, description=text)

        return fit_adversarial(config, pools, show)


def _stored(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network with weights as a file in half precision holds them."""
    return copy.deepcopy(network).half().float()


def _recipe(plan: Plan, fitted: Fitted, material: Material) -> Recipe:
    config = plan.config
    stage: dict[str, Any] = {
        "steps": len(fitted.losses),
        "shares": {str(pool): count for pool, count in config.shares.items()},
        "learning_rate": config.learning_rate,
        "size": config.size,
        "final_loss": _last(fitted.losses),
        "adversarial_weight": config.weight,
        "target": config.target,
    }
    return Recipe(
        name=config.name,
        version=config.version,
        network=config.network,
        input_size=config.size,
        data_manifest_sha256=manifest_sha256(plan.data),
        picture_licences=licence_counts(material.cases),
        training=[stage],
        half=config.half,
        command=plan.command,
        recipe=config.model_dump(mode="json"),
    )


def _last(losses: Sequence[Losses]) -> float:
    return round(float(np.mean([one.segmentation for one in losses[-_LAST:]])), 4)


def command_of(
    config: Path | None, overrides: Mapping[str, object], compare: Sequence[str] = ()
) -> str:
    """Return the command that repeats a trial, without anybody's paths."""
    parts = ["dicom-worker train-adversarial --data DATA --out OUT"]
    parts += ["--config CONFIG.toml"] if config else []
    parts += [f"--{name} {value}" for name, value in overrides.items() if value is not None]
    parts += [f"--compare {name}" for name in compare]
    return " ".join(parts)
