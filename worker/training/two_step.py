"""Two steps: an installed model finds the lungs, a small network names what it sees in them.

COVID-19, another pneumonia, or no finding. The network is an experiment: docs/two-step.md says
what its figures are worth. The same seed, data and machine give the same weights.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from worker.classifier import build_classifier
from worker.network import channels_last
from worker.training.cases import Case, apart_from, patient_folds
from worker.training.crops import Crops, draw

LABELS: Final = ("COVID-19", "other pneumonia", "no finding")
COVID, OTHER, NONE = range(len(LABELS))
_COVID_PREFIX: Final = "covid-19"
_NO_FINDING: Final = "no finding"
_PNEUMONIAS: Final = frozenset({
    *("pneumonia", "sars", "pneumocystis", "streptococcus", "klebsiella", "legionella"),
    *("mycoplasma bacterial pneumonia", "varicella", "e.coli", "lipoid", "bacterial"),
    *("influenza", "chlamydophila"),
})  # fmt: skip  # one finding after the other
_COLLECTIONS: Final = {
    "gb": "ieee8023", "v7": "ieee8023", "ieee8023": "ieee8023", "normals": "Actualmed",
    "nih": "NIH",
}  # fmt: skip  # one line per collection
_WARM_UP: Final = 0.05
_MULTIPLE: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class TwoStepConfig:
    """Everything that decides a run. `fewest_steps` keeps small collections from too short ones."""

    data: Path
    out: Path
    name: str = "two-step"
    version: str = "0.1.0"
    lung_model: str = "unet"
    folds: int = 5
    epochs: float = 12.0
    fewest_steps: int = 150
    batch: int = 12
    size: int = 96
    seed: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 5e-2
    threads: int | None = None
    network: Mapping[str, Any] = field(
        default_factory=lambda: {"name": "densenet", "dropout_prob": 0.1}
    )

    def __post_init__(self) -> None:
        """Refuse at once what a bundle could not say after an hour of training."""
        if self.size % _MULTIPLE:
            msg = f"the size must be a multiple of {_MULTIPLE}, not {self.size}"
            raise ValueError(msg)
        if not _NAME.fullmatch(self.name):
            msg = f"{self.name!r} is no name for a model: use letters, digits, dots and hyphens"
            raise ValueError(msg)


def label_of(case: Case) -> int | None:
    """Return the class of a case; None where the finding is unknown or no cause (ARDS)."""
    finding = case.finding.strip().lower()
    if finding.startswith(_COVID_PREFIX):
        return COVID
    if finding in _PNEUMONIAS:
        return OTHER
    return NONE if finding == _NO_FINDING or case.normal else None


def collection_of(case: Case) -> str:
    """Return the public collection that a picture comes from: hospital, machine and file format."""
    return _COLLECTIONS.get(case.source, case.source or "not stated")


def divide(cases: Iterable[Case]) -> tuple[list[tuple[Case, int]], list[tuple[Case, int]]]:
    """Return the cases with a class as (training, test).

    A patient of the test split is there with all of his pictures. Pictures whose licence allows no
    derivatives do not train.
    """
    known = [case for case in cases if label_of(case) is not None]
    test = [case for case in known if case.split == "test"]
    training = [case for case in apart_from(known, test) if case.may_train]
    persons = {case.person for case in test}
    held = [case for case in known if case.person in persons]
    return _labelled(training), _labelled(held)


def _labelled(cases: Iterable[Case]) -> list[tuple[Case, int]]:
    return [(case, label) for case in cases if (label := label_of(case)) is not None]


def folds_of(crops: Crops, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold of each case: patients stay together, and every fold has of every class.

    Raises ValueError when the rarest class has fewer patients than there are folds.
    """
    labels = crops.labels.tolist()
    rarity = {label: labels.count(label) for label in set(labels)}
    stratum: dict[str, int] = {}
    for case, label in zip(crops.cases, labels, strict=True):
        other = stratum.get(case.person, label)
        stratum[case.person] = min(label, other, key=lambda one: (rarity[one], one))
    number = {case.name: position for position, case in enumerate(crops.cases)}
    fold = np.zeros(len(crops), dtype=np.intp)
    for label in sorted(rarity):
        members = [case for case in crops.cases if stratum[case.person] == label]
        for place, part in enumerate(patient_folds(members, folds, seed)):
            fold[[number[case.name] for case in part]] = place
    return fold


def cross_validate(
    config: TwoStepConfig, crops: Crops, fold: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return probabilities (cases, classes), each from a network that knew no such patient."""
    classes = _classes(crops)
    probabilities = np.zeros((len(crops), classes))
    for place in range(int(fold.max()) + 1):
        network = fit_classifier(config, crops.at(np.flatnonzero(fold != place).tolist())).network
        unseen = np.flatnonzero(fold == place)
        probabilities[unseen] = predict(network, crops.at(unseen.tolist()))
    return probabilities


@dataclass(frozen=True)
class Fitted:
    """A trained classifier and how it came about."""

    network: torch.nn.Module
    losses: tuple[float, ...]
    seconds: float


def fit_classifier(config: TwoStepConfig, crops: Crops) -> Fitted:
    """Train on all crops given; every batch has each class in its proportion, at least once.

    Raises ValueError when a class is missing.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    shares = _shares(crops, config.batch)
    network = channels_last(build_classifier(config.network, len(shares))).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    steps = max(config.fewest_steps, math.ceil(config.epochs * len(crops) / config.batch))
    losses: list[float] = []
    started = time.monotonic()
    for step in track(range(steps), f"training on {len(crops)} crops"):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step / steps)
        losses.append(_step(network, optimizer, *draw(crops, shares, generator)))
    return Fitted(network.eval(), tuple(losses), time.monotonic() - started)


@torch.inference_mode()
def predict(network: torch.nn.Module, crops: Crops, batch: int = 64) -> NDArray[np.float64]:
    """Return probabilities (cases, classes) of unchanged crops."""
    inputs = crops.inputs().contiguous(memory_format=torch.channels_last)
    firsts = range(0, len(inputs), batch)
    parts = [network(inputs[first : first + batch]).float().softmax(dim=1) for first in firsts]
    return torch.cat(parts).double().numpy()


def _step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch ships no type for it
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def _schedule(done: float) -> float:
    return min(1.0, done / _WARM_UP + _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * done))


def _classes(crops: Crops) -> int:
    return int(crops.labels.max()) + 1


def _shares(crops: Crops, batch: int) -> Sequence[int]:
    """Divide a batch among the classes in proportion; the largest class takes what is left."""
    counts = [int((crops.labels == label).sum()) for label in range(_classes(crops))]
    if 0 in counts or len(counts) < 2:  # noqa: PLR2004  one class is nothing to tell apart
        msg = f"a classifier needs pictures of every class, not {counts}"
        raise ValueError(msg)
    shares = [max(1, round(batch * count / len(crops))) for count in counts]
    shares[int(np.argmax(counts))] += batch - sum(shares)
    return shares
