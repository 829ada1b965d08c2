"""The training loop of the view network: batches of every view, AdamW, averaged weights."""

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch.nn import functional

from worker.training.views.chests import Dice, draw_chests
from worker.training.views.pictures import (
    Squares,
    load_squares,
    phantom_squares,
    training_pictures,
)
from worker.training.views.strangers import draw_strangers
from worker.view import METADATA_NAME, WEIGHTS_NAME, WIDTHS, View, ViewNetwork, thumbnails

_SHARES: Final = {
    View.FRONTAL: 22,
    View.MIRRORED: 10,
    View.INVERTED: 8,
    View.ROTATED: 10,
    View.LATERAL: 4,
    View.OTHER: 16,
}
_FIRST_SEED: Final = 3_000_000  # phantoms with seeds below are for other uses
_PHANTOM_SHARE: Final = 0.15
_WARM_UP: Final = 50
_DECAY: Final = 0.995


@dataclass(frozen=True)
class ViewRecipe:
    """Everything that decides a run, with the data folder."""

    steps: int = 1200
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    phantoms: int = 200


@dataclass(frozen=True)
class _Pools:
    chests: Squares
    phantoms: Squares
    laterals: Squares


def train_views(data: Path, out: Path, recipe: ViewRecipe, threads: int | None = None) -> Path:
    """Train, write weights and metadata into `out`, and return it.

    The same data, recipe and machine give the same weights.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network, losses = _fit(_load(data, recipe), recipe)
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(weights, out / WEIGHTS_NAME)
    text = json.dumps(_metadata(data, out, recipe, losses), indent=2) + "\n"
    (out / METADATA_NAME).write_text(text, encoding="utf-8")
    return out


def _load(data: Path, recipe: ViewRecipe) -> _Pools:
    seeds = range(_FIRST_SEED, _FIRST_SEED + recipe.phantoms)
    return _Pools(
        chests=load_squares(picture.pixels() for picture in training_pictures(data)),
        phantoms=phantom_squares(seeds, ("PA", "AP")),
        laterals=phantom_squares(seeds, ("LL",)),
    )


def _fit(pools: _Pools, recipe: ViewRecipe) -> tuple[ViewNetwork, list[float]]:
    torch.manual_seed(recipe.seed)
    network = ViewNetwork()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    losses = []
    for step, (batch, wanted) in enumerate(track(_batches(pools, recipe), total=recipe.steps)):
        rate = min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        loss = functional.cross_entropy(
            network.train()(batch), wanted, label_smoothing=recipe.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
        optimizer.step()
        losses.append(float(loss.detach()))
        _follow(average, network, min(_DECAY, (step + 1) / (step + 20)))
    return average.eval(), losses


@torch.no_grad()
def _follow(average: ViewNetwork, network: ViewNetwork, decay: float) -> None:
    """Move the averaged weights a little towards the newest."""
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for kept, newest in pairs:
        if kept.dtype.is_floating_point:
            kept.lerp_(newest, 1.0 - decay)
        else:
            kept.copy_(newest)


def _batches(pools: _Pools, recipe: ViewRecipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    dice = Dice.seeded(recipe.seed)
    for _ in range(recipe.steps):
        drawn = [_draw(pools, view, count, dice) for view, count in _SHARES.items()]
        wanted = [torch.full((count,), number) for number, count in enumerate(_SHARES.values())]
        squares = Squares(
            torch.cat([it.windowed for it in drawn]), torch.cat([it.inside for it in drawn])
        )
        yield thumbnails(squares.windowed, squares.inside), torch.cat(wanted)


def _draw(pools: _Pools, view: View, count: int, dice: Dice) -> Squares:
    if view is View.LATERAL:
        return draw_chests(_pick(pools.laterals, count, dice), view, dice)
    chosen = _pick(pools.chests, count, dice)
    if view is View.OTHER:
        return draw_strangers(chosen, dice)
    drawn = _pick(pools.phantoms, count, dice)
    phantom = dice.often(count, _PHANTOM_SHARE)
    mixed = Squares(
        torch.lerp(chosen.windowed, drawn.windowed, phantom),
        torch.lerp(chosen.inside, drawn.inside, phantom),
    )
    return draw_chests(mixed, view, dice)


def _pick(pool: Squares, count: int, dice: Dice) -> Squares:
    return pool[torch.randint(len(pool), (count,), generator=dice.tensors)]


def _metadata(data: Path, out: Path, recipe: ViewRecipe, losses: list[float]) -> dict[str, Any]:
    """Return what the weights are and what they were made from."""
    pictures = training_pictures(data)
    names = "\n".join(f"{it.table}/{it.name}" for it in pictures)
    licences = Counter(_licence(it.table, it.row) for it in pictures)
    return {
        "name": "view",
        "labels": [view.value for view in View],
        "widths": WIDTHS,
        "sha256": hashlib.sha256((out / WEIGHTS_NAME).read_bytes()).hexdigest(),
        "licence": "CC BY-NC-SA 4.0",
        "recipe": asdict(recipe),
        "loss": round(sum(losses[-100:]) / max(1, len(losses[-100:])), 4),
        "pictures": len(pictures),
        "pictures_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "picture_licences": dict(licences.most_common()),
        "pytorch_version": torch.__version__,
    }


def _licence(table: str, row: dict[str, str]) -> str:
    if table == "nih":
        return "NIH ChestX-ray14: free use with attribution"
    stated = row.get("license") or row.get("licence") or ""
    return stated.strip() or "none stated"
