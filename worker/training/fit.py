"""The training loop of one stage: AdamW with warm-up and cosine, averaged weights, checkpoints.

The same pools, stage, seed, threads and device give the same weights. A run that was cut goes on
from its checkpoint as if nothing had happened.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Subset

from models.files import atomic_write
from worker.errors import RecipeError
from worker.network import channels_last
from worker.training.augment import Batch, Draws
from worker.training.config import Pool, Stage
from worker.training.datasets import Samples
from worker.training.losses import segmentation_loss

_EMA_DECAY: Final = 0.999
_EMA_WARM_UP: Final = 100
_WARM_UP: Final = 0.02  # of the steps
_CLIP_NORM: Final = 5.0
_SAVE_EVERY: Final = 250


@dataclass(frozen=True)
class Machine:
    """Where and how a loop runs. Loader processes change the speed, never the result."""

    device: str = "cpu"
    loaders: int = 0

    @classmethod
    def of(cls, device: str, loaders: int = 0) -> "Machine":
        """Resolve `auto` to the GPU where there is one.

        Raises RecipeError when CUDA was asked for and torch sees no GPU.
        """
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            msg = "Device cuda was asked for, but torch sees no GPU."
            raise RecipeError(msg)
        return cls("cuda" if device != "cpu" and there else "cpu", loaders)


class Loop:
    """One stage in progress: networks, optimizer, losses so far."""

    def __init__(
        self, network: torch.nn.Module, stage: Stage, seed: int, machine: Machine | None = None
    ) -> None:
        self._machine = machine or Machine()
        self._stage = stage
        self._seed = seed
        torch.manual_seed(seed)
        self._network = channels_last(network.to(self._machine.device)).train()
        self._average = copy.deepcopy(self._network)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=stage.learning_rate, weight_decay=stage.weight_decay
        )
        self.losses: list[float] = []

    @property
    def averaged(self) -> torch.nn.Module:
        """The averaged network, on the CPU, ready to predict."""
        return self._average.cpu().eval()

    def run(
        self,
        pools: Mapping[str, Samples],
        *,
        checkpoint: Path | None = None,
        on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    ) -> None:
        """Train to the end of the stage, from the checkpoint if there is one.

        `on_step` hears of every step that was taken and its loss. Raises FloatingPointError when
        the loss is no number.
        """
        if checkpoint is not None and checkpoint.is_file():
            self._restore(checkpoint)
        for batch in self._batches(pools):
            loss = self._step(batch)
            if not math.isfinite(loss):
                msg = f"the loss is no number at step {len(self.losses)}: lower the learning rate"
                raise FloatingPointError(msg)
            self.losses.append(loss)
            on_step(len(self.losses), loss)
            if checkpoint is not None and len(self.losses) % _SAVE_EVERY == 0:
                self._save(checkpoint)

    def _batches(self, pools: Mapping[str, Samples]) -> Iterator[Batch]:
        stage = self._stage
        shares = {str(pool): count for pool, count in stage.shares.items() if pool in pools}
        missed = {str(Pool.OPACITY): stage.missed_cost}
        draws = Draws(pools, shares, stage.steps, self._seed, missed)
        left = range(len(self.losses) * draws.batch, len(draws))
        loader = DataLoader(
            Subset(draws, left),
            batch_size=draws.batch,
            num_workers=self._machine.loaders,
            generator=torch.Generator(),  # the loader must not take from the dropout's numbers
        )
        for parts in loader:
            yield Batch(*(part.to(self._machine.device) for part in parts))

    def _step(self, batch: Batch) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._stage.learning_rate * rate(len(self.losses) / self._stage.steps)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._machine.device, torch.bfloat16):
            logits = self._network(images)
        loss = segmentation_loss(logits, batch.targets, batch.supervised)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP_NORM)
        self._optimizer.step()
        self._update_average()
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        step = len(self.losses)
        decay = min(_EMA_DECAY, (1 + step) / (_EMA_WARM_UP + step))
        current = self._network.state_dict()
        for name, value in self._average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])

    def _save(self, checkpoint: Path) -> None:
        state: dict[str, Any] = {
            "network": self._network.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": self.losses,
            "random": torch.get_rng_state(),
        }
        if self._machine.device == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state()
        content = io.BytesIO()
        torch.save(state, content)
        atomic_write(checkpoint, content.getvalue())

    def _restore(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, map_location=self._machine.device, weights_only=True)
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"].cpu())


def rate(done: float) -> float:
    """Return the share of the learning rate after a share of the steps."""
    return min(1.0, done / _WARM_UP + _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * done))
