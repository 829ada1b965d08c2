"""A segmenter trained against a discriminator that tells its opacity from a reader's.

The third of this project's ancestors, on its data. The generator is a registered segmentation
network; the discriminator sees a picture and a map of opacity, and only pictures whose opacity was
read. The same configuration, data and machine give the same weights.
"""

import copy
import csv
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch.utils.data import DataLoader

from worker.errors import RecipeError
from worker.network import build_network, channels_last
from worker.preprocess import fit, fit_box
from worker.training.augment import Batch, Draws
from worker.training.cases import Case
from worker.training.config import Pool, Stage, TrainConfig
from worker.training.datasets import Samples
from worker.training.fit import rate
from worker.training.formats import LabelFormat
from worker.training.losses import segmentation_loss
from worker.training.pictures import read_grid
from worker.training.pools import Material, load_pools
from worker.types import Mask, Orientation

GROUND_GLASS_BIT: Final = 4
_OPACITY: Final = 2  # channel
_RISE: Final = 0.2  # of the steps, over which the adversary gains its weight
_NOISE: Final = 0.1  # on the maps that the discriminator sees, fading: a soft edge is no evidence
_EMA_DECAY: Final = 0.995
_EMA_WARM_UP: Final = 50
_CLIP_NORM: Final = 5.0
_UPRIGHT: Final = Orientation()

Share = Annotated[int, Field(ge=1)]
PlainPool = Literal[Pool.OPACITY, Pool.LUNGS, Pool.NORMAL, Pool.PHANTOM]


class AdversarialConfig(BaseModel):
    """Everything that decides a run; a TOML file holds any of it.

    `weight` is that of the adversarial loss beside the segmentation's; 0 trains without adversary.
    `target` is what counts as opacity where readers told ground glass from consolidation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "adversarial-unet"
    version: str = "1.0.0"
    network: dict[str, Any] = {"name": "basic-unet", "norm": "batch"}
    size: Annotated[int, Field(ge=64, multiple_of=32)] = 160
    steps: Annotated[int, Field(ge=1)] = 800
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    discriminator_rate: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    weight: Annotated[float, Field(ge=0)] = 0.1
    target: Literal["opacity", "ground_glass"] = "opacity"
    phantoms: Annotated[int, Field(ge=0)] = 100
    shares: Annotated[dict[PlainPool, Share], Field(min_length=1)] = {
        Pool.OPACITY: 3, Pool.LUNGS: 3, Pool.NORMAL: 1, Pool.PHANTOM: 1,
    }  # fmt: skip  # one batch
    half: bool = True  # weights are stored in half precision, and measured as stored

    @property
    def recipe(self) -> TrainConfig:
        """The part of it that pictures are loaded by."""
        stage = Stage(shares=dict(self.shares), steps=self.steps)
        known = self.model_dump(include={"name", "version", "network", "seed", "phantoms"})
        return TrainConfig(**known, stages=(stage,), size=self.size)


def read_config(path: Path | None, **overrides: object) -> AdversarialConfig:
    """Read a TOML file, if there is one; overrides that are not None outweigh it.

    Raises RecipeError with one sentence.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
        chosen = {name: value for name, value in overrides.items() if value is not None}
        return AdversarialConfig(**content | chosen)
    except ValidationError as error:
        fault = error.errors()[0]
        msg = f"{path or 'options'}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise RecipeError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no readable TOML file: {error}"
        raise RecipeError(msg) from error


@dataclass(frozen=True)
class Losses:
    """The losses of one step; the last two are None where no adversary plays."""

    segmentation: float
    adversarial: float | None = None
    discriminator: float | None = None


@dataclass(frozen=True)
class Fitted:
    """The averaged generator and the losses of every step."""

    network: torch.nn.Module
    losses: tuple[Losses, ...]


def pools_of(config: AdversarialConfig, material: Material) -> dict[str, Samples]:
    """Load the pictures, with the target that the configuration names.

    Raises RecipeError when there are none, ValueError when readings do not tell ground glass.
    """
    pools = load_pools(material, config.recipe, config.recipe.stages[0])
    if config.target == "ground_glass" and Pool.OPACITY in pools:
        pools[Pool.OPACITY] = _ground_glass_only(pools[Pool.OPACITY], material.opacity)
    return pools


def ground_glass(case: Case) -> Mask:
    """Return the reader's ground glass alone, upright. Raises ValueError without a bit mask."""
    if case.format is not LabelFormat.BITMASK or case.labels is None:
        msg = f"case {case.name}: its labels do not tell ground glass from consolidation"
        raise ValueError(msg)
    with Image.open(case.labels, formats=("PNG",)) as picture:
        bits = np.asarray(picture)
    upright = read_grid(case.image).orientation.to_upright((bits & GROUND_GLASS_BIT) > 0)
    return np.ascontiguousarray(upright, dtype=np.bool_)


def _ground_glass_only(samples: Samples, cases: Sequence[Case]) -> Samples:
    targets = samples.targets.clone()
    size = targets.shape[-1]
    for number, case in enumerate(cases):
        mask = ground_glass(case)
        top, left, height, width = fit_box(mask.shape, _UPRIGHT, 1.0, size)
        square = (fit(mask, _UPRIGHT, 1.0, size)[0, 0] * 255).round().byte()
        targets[number, _OPACITY] = 0
        targets[number, _OPACITY, top : top + height, left : left + width] = square
    return replace(samples, targets=targets)


def fit_adversarial(
    config: AdversarialConfig,
    pools: Mapping[str, Samples],
    on_step: Callable[[int, Losses], None] = lambda _step, _losses: None,
) -> Fitted:
    """Train generator and discriminator in turn and return the averaged generator.

    The adversary judges readings; without any, phantoms, so that it can be tried without data.
    `on_step` hears of every step. Raises FloatingPointError when a loss is no number.
    """
    torch.set_num_threads(config.threads)
    game = _Game(config, pools)
    losses: list[Losses] = []
    for batch in _batches(config, pools):
        losses.append(game.play(batch, len(losses) / config.steps))
        on_step(len(losses), losses[-1])
    return Fitted(game.averaged, tuple(losses))


def _batches(config: AdversarialConfig, pools: Mapping[str, Samples]) -> Iterator[Batch]:
    draws = Draws(pools, _shares(config, pools), config.steps, config.seed)
    for parts in DataLoader(draws, batch_size=draws.batch, generator=torch.Generator()):
        yield Batch(*parts)


def _shares(config: AdversarialConfig, pools: Mapping[str, Samples]) -> dict[str, int]:
    return {str(pool): count for pool, count in config.shares.items() if pool in pools}


class _Game:
    """Both networks and their optimizers."""

    def __init__(self, config: AdversarialConfig, pools: Mapping[str, Samples]) -> None:
        torch.manual_seed(config.seed)
        self._config = config
        self._steps = 0
        self._generator = channels_last(build_network(config.network)).train()
        self._average = copy.deepcopy(self._generator)
        self._optimizer = torch.optim.AdamW(
            self._generator.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        self._adversary = _Adversary(config) if config.weight else None
        judged = Pool.OPACITY if Pool.OPACITY in pools else Pool.PHANTOM
        slots = [pool for pool, count in _shares(config, pools).items() for _ in range(count)]
        self._judged = [slot for slot, pool in enumerate(slots) if pool == judged]

    @property
    def averaged(self) -> torch.nn.Module:
        """The averaged generator, ready to predict."""
        return self._average.eval()

    def play(self, batch: Batch, done: float) -> Losses:
        """Take one step of each network."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * rate(done)
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self._generator(images).float()
        loss = segmentation_loss(logits, batch.targets, batch.supervised)
        losses = Losses(float(loss.detach()))
        if self._adversary is not None:
            pair = _Pair.of(batch, logits.sigmoid(), self._judged)
            deceit = self._adversary.deceit(pair, done)
            loss = loss + self._config.weight * min(1.0, done / _RISE) * deceit
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
        torch.nn.utils.clip_grad_norm_(self._generator.parameters(), _CLIP_NORM)
        self._optimizer.step()
        if self._adversary is not None:
            judged = self._adversary.learn(pair, done)
            losses = replace(losses, adversarial=float(deceit.detach()), discriminator=judged)
        if not np.isfinite(losses.segmentation):
            msg = f"the loss is no number at step {self._steps}: lower the learning rate"
            raise FloatingPointError(msg)
        self._update_average()
        return losses

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(_EMA_DECAY, (1 + self._steps) / (_EMA_WARM_UP + self._steps))
        current = self._generator.state_dict()
        for name, value in self._average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1.0 - decay)
            else:
                value.copy_(current[name])
        self._steps += 1


@dataclass(frozen=True)
class _Pair:
    """Pictures whose opacity was read, the reader's map of it and the generator's."""

    images: torch.Tensor
    read: torch.Tensor
    made: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, probabilities: torch.Tensor, judged: list[int]) -> "_Pair":
        """Take the judged pictures of a batch; both maps are empty where nobody judged."""
        rows = torch.tensor(judged)
        where = (batch.supervised[rows, _OPACITY:] > 0).float()
        read, made = (maps[rows, _OPACITY:] * where for maps in (batch.targets, probabilities))
        return cls(batch.images[rows], read, made)


class _Adversary:
    """The discriminator of (picture, opacity) pairs: patches of readings are 1, made ones 0."""

    def __init__(self, config: AdversarialConfig) -> None:
        self._network = PatchDiscriminator(
            spatial_dims=2, channels=16, in_channels=2, out_channels=1, num_layers_d=3,
            norm="INSTANCE",
        )  # fmt: skip  # one line of sizes
        self._criterion = PatchAdversarialLoss(criterion="least_squares")
        self._rate = config.discriminator_rate
        self._optimizer = torch.optim.AdamW(self._network.parameters(), self._rate, (0.5, 0.999))
        self._random = torch.Generator().manual_seed(config.seed)

    def deceit(self, pair: _Pair, done: float) -> torch.Tensor:
        """Return the loss of a generator whose map is not taken for a reader's."""
        self._network.requires_grad_(requires_grad=False)
        judged = self._judge(pair.images, pair.made, done)
        loss: torch.Tensor = self._criterion(judged, target_is_real=True, for_discriminator=False)
        return loss

    def learn(self, pair: _Pair, done: float) -> float:
        """Take one step in telling both maps apart and return the loss."""
        self._network.requires_grad_(requires_grad=True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * rate(done)
        loss: torch.Tensor = 0.5 * sum(
            self._criterion(
                self._judge(pair.images, maps.detach(), done),
                target_is_real=real,
                for_discriminator=True,
            )
            for maps, real in ((pair.read, True), (pair.made, False))
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # as above
        self._optimizer.step()
        return float(loss.detach())

    def _judge(self, images: torch.Tensor, maps: torch.Tensor, done: float) -> torch.Tensor:
        noise = torch.randn(maps.shape, generator=self._random) * _NOISE * (1.0 - done)
        with torch.autocast("cpu", torch.bfloat16):
            patches: torch.Tensor = self._network(torch.cat([images, maps + noise], dim=1))[-1]
        return patches.float()


def write_log(path: Path, losses: Sequence[Losses], every: int = 20) -> None:
    """Write the mean losses of every few steps of both networks as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("step", "segmentation", "adversarial", "discriminator"))
        for first in range(0, len(losses), every):
            part = losses[first : first + every]
            names = ("segmentation", "adversarial", "discriminator")
            writer.writerow((first, *(_mean(part, name) for name in names)))


def _mean(losses: Sequence[Losses], name: str) -> str:
    values = [getattr(one, name) for one in losses]
    return "" if None in values else f"{np.mean(values):.5f}"
