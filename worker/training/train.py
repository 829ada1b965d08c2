"""A recipe, run: stage after stage, each taught by the one before; then one bundle, measured.

With `fold` the patients of that fold are left out, for cross-validation.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from worker.network import Ensemble, build_network
from worker.training.config import Stage, TrainConfig
from worker.training.datasets import Samples
from worker.training.fit import Loop, Machine
from worker.training.pools import Material, Teacher, load_pools
from worker.training.pretrained import load_pretrained

_LOG_EVERY: Final = 20
_FINISHED: Final = "stage{}.pt"
_CHECKPOINT: Final = "stage{}.checkpoint.pt"


@dataclass(frozen=True)
class Trained:
    """The averaged network of the last stage, or the mean of several, and how it came about."""

    network: torch.nn.Module
    size: int
    losses: tuple[tuple[float, ...], ...]
    seconds: float

    @property
    def teacher(self) -> Teacher:
        """The network as the next stage uses it."""
        return Teacher(self.network, self.size)


def fit(
    config: TrainConfig,
    material: Material,
    *,
    machine: Machine | None = None,
    work: Path | None = None,
    label: str = "",
) -> Trained:
    """Run every stage on the material and return the last network, or the mean of all members'.

    `work` is a folder for checkpoints and finished stages: what lies there is gone on from.
    Raises RecipeError when a stage finds none of its pictures.
    """
    torch.set_num_threads(config.threads)
    if not config.members:
        return _fit_one(config, material, machine, work, label)
    made = [
        _fit_one(
            part,
            material,
            machine,
            work and work / f"member{number}",
            f"{label}network {number + 1}, ",
        )
        for number, part in enumerate(config.parts)
    ]
    return Trained(
        Ensemble([it.network for it in made], [it.size for it in made]).eval(),
        config.trained_size,
        tuple(losses for it in made for losses in it.losses),
        sum(it.seconds for it in made),
    )


def _fit_one(
    config: TrainConfig, material: Material, machine: Machine | None, work: Path | None, label: str
) -> Trained:
    started = time.monotonic()
    trained: Trained | None = None
    losses: list[tuple[float, ...]] = []
    for number, stage in enumerate(config.stages):
        step = _Step(config, number, stage, work)
        trained = step.run(material, trained, machine, f"{label}stage {number + 1}")
        losses += trained.losses
    if trained is None:  # pragma: no cover  a recipe has at least one stage
        raise AssertionError
    return Trained(trained.network, trained.size, tuple(losses), time.monotonic() - started)


@dataclass(frozen=True)
class _Step:
    """One stage of a recipe."""

    config: TrainConfig
    number: int
    stage: Stage
    work: Path | None

    def run(
        self, material: Material, before: Trained | None, machine: Machine | None, label: str
    ) -> Trained:
        """Return the trained stage: the finished one that lies in the work folder, or a new one."""
        finished = self.work / _FINISHED.format(self.number) if self.work else None
        size = self.config.size_of(self.stage)
        if finished is not None and finished.is_file():
            state = torch.load(finished, weights_only=True)
            network = build_network(self.config.network)
            network.load_state_dict(state["network"])
            return Trained(network.eval(), size, (tuple(state["losses"]),), 0.0)
        teacher = before.teacher if before else None
        loop = self._loop(before, machine)
        pools = load_pools(material, self.config, self.stage, teacher)
        self._train(loop, pools, label)
        if finished is not None:
            finished.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"network": loop.averaged.state_dict(), "losses": loop.losses}, finished)
        return Trained(loop.averaged, size, (tuple(loop.losses),), 0.0)

    def _loop(self, before: Trained | None, machine: Machine | None) -> Loop:
        seed = 1000 * self.config.seed + self.number
        torch.manual_seed(seed)
        network = build_network(self.config.network)
        if before is not None and not self.stage.fresh:
            network.load_state_dict(before.network.state_dict())
        elif self.config.pretrained:
            load_pretrained(network)
        return Loop(network, self.stage, seed, machine)

    def _train(self, loop: Loop, pools: dict[str, Samples], label: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, refresh_per_second=1) as progress:
            task = progress.add_task(label, total=self.stage.steps)

            def show(step: int, loss: float) -> None:
                text = f"{label}, step {step}, loss {loss:.3f}"
                progress.update(task, completed=step, description=text)

            checkpoint = self.work / _CHECKPOINT.format(self.number) if self.work else None
            loop.run(pools, checkpoint=checkpoint, on_step=show)
