"""The whole experiment: crops, every question cross-validated, the final network, its bundle."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.inference import Segmenter
from worker.registry import ClassifierBundle, find_bundle
from worker.training.cases import load_manifest
from worker.training.crops import Crops, load_crops
from worker.training.datasets import manifest_sha256
from worker.training.evaluation.estimates import Estimate, Sampling
from worker.training.evaluation.measured import view_of
from worker.training.two_step import (
    LABELS,
    Fitted,
    TwoStepConfig,
    collection_of,
    cross_validate,
    divide,
    fit_classifier,
    folds_of,
    predict,
)
from worker.training.two_step_bundle import Provenance, record_metrics, write_classifier
from worker.training.two_step_metrics import (
    BASELINES,
    Answers,
    Areas,
    Reliability,
    areas,
    baseline,
    confusion,
    reliability,
    tells_collection,
)
from worker.types import ModelIdentity

FEWEST: Final = 20  # pictures of each class below which a collection alone answers no question


@dataclass(frozen=True)
class Question:
    """One question, its answers and all their figures.

    `baselines` holds None where the baseline knows nothing, and is empty without cross-validation.
    `within_view` and `of_three` are None for the question of all collections; the latter is what
    the network of all three classes answers to the same question.
    """

    title: str
    answers: Answers
    areas: Areas
    baselines: dict[str, Areas | None]
    confusion: NDArray[np.intp]
    reliability: Reliability
    within_view: Areas | None = None
    of_three: Areas | None = None


@dataclass(frozen=True)
class Study:
    """Everything that the report says; `test` is None when no patient was kept for it."""

    config: TwoStepConfig
    lungs: ModelIdentity
    bundle: ClassifierBundle
    everything: Question
    inside: tuple[Question, ...]
    leaks: tuple[tuple[str, Estimate], ...]
    test: Question | None
    losses: tuple[float, ...]
    parameters: int
    without_lungs: int


def run_study(config: TwoStepConfig, sampling: Sampling) -> Study:
    """Cross-validate, train on all, write the bundle, measure it on the test split.

    Raises ManifestError or ValueError when the data folder cannot answer, BundleError when the lung
    model is not installed.
    """
    training, held = divide(load_manifest(config.data))
    lungs = find_bundle(config.lung_model)
    segmenter = Segmenter.load(lungs, "cpu", config.threads)
    crops = load_crops(training, segmenter, config.size)
    test = load_crops(held, segmenter, config.size) if held else None
    fold = folds_of(crops, config.folds, config.seed)
    probabilities = cross_validate(config, crops, fold)
    everything = Answers(LABELS, crops.cases, crops.labels.numpy(), fold, probabilities)
    inside = tuple(_inside(config, crops, everything, sampling))
    fitted = fit_classifier(config, crops)
    bundle = _write(config, fitted, crops, Provenance.of(lungs, manifest_sha256(config.data)))
    study = Study(
        config=config,
        lungs=lungs.identity,
        bundle=bundle,
        everything=_question("All collections", everything, sampling),
        inside=inside,
        leaks=tuple(_leaks(everything, sampling)),
        test=_question("Test split", _answers_of(fitted, test), sampling) if test else None,
        losses=fitted.losses,
        parameters=sum(value.numel() for value in fitted.network.parameters()),
        without_lungs=len(training) + len(held) - len(crops) - len(test or ()),
    )
    record_metrics(bundle.folder, _metrics(study))
    return study


def _question(title: str, answers: Answers, sampling: Sampling) -> Question:
    folded = len(np.unique(answers.fold)) > 1
    known = {name: baseline(answers, key) for name, key in BASELINES.items() if folded}
    return Question(
        title=title,
        answers=answers,
        areas=areas(answers, sampling),
        baselines={
            name: None if guess is None else areas(guess, sampling) for name, guess in known.items()
        },
        confusion=confusion(answers),
        reliability=reliability(answers, sampling),
    )


def _inside(
    config: TwoStepConfig, crops: Crops, everything: Answers, sampling: Sampling
) -> Iterator[Question]:
    """Ask each pair of classes inside each collection that has enough of both."""
    names = np.array([collection_of(case) for case in crops.cases], dtype=np.str_)
    for name in np.unique(names):
        of_it = crops.at(np.flatnonzero(names == name).tolist())
        counts = Counter(of_it.labels.tolist())
        for pair in combinations(range(len(LABELS)), 2):
            if min(counts[label] for label in pair) < FEWEST:
                continue
            chosen = of_it.relabelled(pair)
            fold = folds_of(chosen, config.folds, config.seed)
            probabilities = cross_validate(config, chosen, fold)
            labels = (LABELS[pair[0]], LABELS[pair[1]])
            answers = Answers(labels, chosen.cases, chosen.labels.numpy(), fold, probabilities)
            question = _question(f"{name} only: {labels[0]} or {labels[1]}", answers, sampling)
            views = [view_of(case.view) for case in chosen.cases]
            restricted = everything.where(everything.collections() == name).between(*pair)
            yield replace(
                question,
                within_view=areas(answers, sampling, views),
                of_three=areas(restricted, sampling),
            )


def _leaks(everything: Answers, sampling: Sampling) -> Iterator[tuple[str, Estimate]]:
    """Ask how well each probability names its usual collection among pictures of another class."""
    collections = everything.collections()
    for label, name in enumerate(LABELS):
        home = Counter(collections[everything.classes == label].tolist()).most_common(1)[0][0]
        for other, other_name in enumerate(LABELS):
            chosen = everything.where(everything.classes == other)
            of_home = int((chosen.collections() == home).sum())
            if other == label or min(of_home, len(chosen.cases) - of_home) < FEWEST:
                continue
            sentence = f"P({name}) tells {home} from the rest among pictures of {other_name}"
            yield sentence, tells_collection(chosen, label, home, sampling)


def _answers_of(fitted: Fitted, crops: Crops) -> Answers:
    probabilities = predict(fitted.network, crops)
    labels, fold = crops.labels.numpy(), np.zeros(len(crops), dtype=np.intp)
    return Answers(LABELS, crops.cases, labels, fold, probabilities)


def _write(
    config: TwoStepConfig, fitted: Fitted, crops: Crops, provenance: Provenance
) -> ClassifierBundle:
    for value in [*fitted.network.parameters(), *fitted.network.buffers()]:
        if value.is_floating_point():
            value.data = value.data.half().float()  # what is measured is what is stored
    return write_classifier(config, fitted, crops, provenance)


def _metrics(study: Study) -> dict[str, float | int]:
    """Return the figures that stand in the metadata, under plain names."""
    found: dict[str, float | int] = {"pictures": len(study.everything.answers.cases)}
    asked = [("all", study.everything), *((it.title.split(":")[0], it) for it in study.inside)]
    if study.test:
        asked.append(("test split", study.test))
    for prefix, question in asked:
        for label, estimate in question.areas.items():
            if estimate.value is not None:
                found[f"{prefix}: ROC AUC {label}"] = round(estimate.value, 3)
    return found
