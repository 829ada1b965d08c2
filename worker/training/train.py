"""The training loop: mixed batches, AdamW with cosine decay, averaged weights, one bundle.

Recipe and baselines: binary cross-entropy plus batch Dice, 256 x 256, batch 8, AdamW 1e-3, EMA.
The same seed, steps and data give the same weights on the same machine.
"""

import copy
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import Progress
from safetensors.torch import load_file

from worker.inference import Segmenter
from worker.network import build_network, channels_last
from worker.registry import Bundle, read_bundle
from worker.training.augment import Batch, augment, pick
from worker.training.bundle import Recipe, write_bundle, write_metrics
from worker.training.datasets import (
    Samples,
    labelled_cases,
    licence_counts,
    load_cases,
    load_phantoms,
    manifest_sha256,
    normal_cases,
)
from worker.training.evaluate import measure, segment_with
from worker.training.losses import segmentation_loss

SHARES: Final = (("gb", 3), ("v7", 3), ("phantom", 1), ("normal", 1))
PHANTOM_TRAINING_SEED: Final = 1_000_000  # seeds below are for tests, demos and figures
_EMA_DECAY: Final = 0.999
_EMA_WARM_UP: Final = 100
_LOG_EVERY: Final = 20
_WRITE_EVERY: Final = 200


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run.

    `missed_cost` is what a missed opacity pixel of a real radiograph costs beside a false one: with
    normals and phantoms in the batch, equal costs gave precision 0.86 and recall 0.58.
    `start` is a bundle folder whose weights are the beginning, for a second stage.
    `minutes` ends a run early by the clock, with the learning rate following; a run ended so is not
    repeatable. `shares` is how many cases of each kind stand in every batch.
    """

    data: Path | None
    out: Path
    name: str = "unet"
    version: str = "1.0.0"
    steps: int = 2800
    minutes: float | None = None
    seed: int = 0
    size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    missed_cost: float = 2.0
    phantoms: int = 400
    threads: int | None = None
    start: Path | None = None
    network: dict[str, Any] = field(default_factory=lambda: {"name": "unet", "dropout": 0.15})
    shares: tuple[tuple[str, int], ...] = SHARES


@dataclass(frozen=True)
class Trained:
    """The averaged network and how it came about."""

    network: torch.nn.Module
    steps: int
    seconds: float
    losses: tuple[float, ...]


def train(config: TrainConfig) -> Bundle:
    """Train, write the bundle `config.out / config.name`, measure it, and return it.

    The loss of every few steps goes to `training.csv` beside the bundle's folders. Without a data
    folder the network learns from phantoms only and nothing is measured.
    Raises FileNotFoundError when the data folder has no labelled radiographs.
    """
    folder = config.out / config.name
    trained = fit_network(config, load_kinds(config), folder / "training.csv")
    recipe = Recipe(
        name=config.name,
        version=config.version,
        network=config.network,
        input_size=config.size,
        data_manifest_sha256=manifest_sha256(config.data) if config.data else "",
        picture_licences=licence_counts(config.data) if config.data else {},
        training=_stages(config, trained),
    )
    bundle = write_bundle(folder, trained.network, recipe)
    if config.data is None:
        return bundle
    segmenter = Segmenter.load(bundle, "cpu")
    return write_metrics(folder, measure(segment_with(segmenter), config.data))


def _stages(config: TrainConfig, trained: Trained) -> list[dict[str, Any]]:
    """Return what the metadata says of this run and of those it went on from."""
    earlier = read_bundle(config.start).metadata.training if config.start else []
    stage = {
        "steps": trained.steps,
        "seed": config.seed,
        "shares": dict(config.shares),
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "missed_cost": config.missed_cost,
        "phantoms": config.phantoms,
        "minutes": round(trained.seconds / 60, 1),
        "cut_by_clock": config.minutes is not None and trained.steps < config.steps,
    }
    return [*earlier, stage]


def load_kinds(config: TrainConfig) -> dict[str, Samples]:
    """Load each kind of training case into memory; without a data folder only phantoms.

    Raises FileNotFoundError when the folder has no labelled radiographs.
    """
    first = PHANTOM_TRAINING_SEED + config.seed * config.phantoms
    kinds: dict[str, Samples] = {}
    if config.phantoms:
        kinds["phantom"] = load_phantoms(range(first, first + config.phantoms), config.size)
    if config.data is not None:
        cases = labelled_cases(config.data, "train")
        opaque = [case for case in cases if case.has_opacity]
        kinds["gb"] = load_cases(opaque, config.size)
        kinds["v7"] = load_cases([case for case in cases if not case.has_opacity], config.size)
        kinds["normal"] = load_cases(normal_cases(config.data)[0], config.size)
    return kinds


def fit_network(config: TrainConfig, kinds: dict[str, Samples], log: Path | None = None) -> Trained:
    """Train on the kinds given and return the averaged network.

    Kinds without cases leave their share of the batch to the others. Raises ValueError when none
    of the kinds named in the shares is there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    network = channels_last(_initial(config)).train()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    losses: list[float] = []
    started = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("training", total=1.0)
        for step, batch in enumerate(_batches(config, kinds)):
            done = _done(config, step, time.monotonic() - started)
            if done >= 1.0:
                break
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _schedule(done)
            losses.append(_step(network, optimizer, batch))
            _average(average, network, step)
            progress.update(task, completed=done, description=f"loss {losses[-1]:.3f}")
            if log is not None and step % _WRITE_EVERY == 0:
                _write_log(log, losses)
    if log is not None:
        _write_log(log, losses)
    return Trained(average.eval(), len(losses), time.monotonic() - started, tuple(losses))


def _initial(config: TrainConfig) -> torch.nn.Module:
    network = build_network(config.network)
    if config.start is not None:
        network.load_state_dict(load_file(read_bundle(config.start).weights))
    return network


def _batches(config: TrainConfig, kinds: dict[str, Samples]) -> Iterator[Batch]:
    shares = [(kinds[name], share) for name, share in config.shares if name in kinds]
    if not shares:
        msg = "no training cases of the kinds named in the shares"
        raise ValueError(msg)
    costs = [
        torch.full((share,), config.missed_cost if name == "gb" else 1.0)
        for name, share in config.shares
        if name in kinds
    ]
    missed = torch.cat(costs).view(-1, 1, 1)
    generator = torch.Generator().manual_seed(config.seed)
    while True:
        batch = augment(torch.cat([pick(*share, generator) for share in shares]), generator)
        batch.supervised[:, 2] *= 1.0 + (missed - 1.0) * batch.targets[:, 2]
        yield batch


def _done(config: TrainConfig, step: int, seconds: float) -> float:
    by_clock = seconds / (60.0 * config.minutes) if config.minutes else 0.0
    return max(step / config.steps, by_clock)


def _schedule(done: float) -> float:
    """Warm up over the first 2 %, then fall by a cosine to zero."""
    return min(1.0, done / 0.02 + 0.02) * 0.5 * (1.0 + math.cos(math.pi * done))


def _step(network: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images)
    loss = segmentation_loss(logits, batch.targets, batch.supervised)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _average(average: torch.nn.Module, network: torch.nn.Module, step: int) -> None:
    decay = min(_EMA_DECAY, (1 + step) / (_EMA_WARM_UP + step))
    current = network.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1.0 - decay)
        else:
            value.copy_(current[name])


def _write_log(log: Path, losses: list[float]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("step", "mean_loss"))
        for first in range(0, len(losses), _LOG_EVERY):
            part = losses[first : first + _LOG_EVERY]
            writer.writerow((first, f"{sum(part) / len(part):.5f}"))
