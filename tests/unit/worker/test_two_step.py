"""The experimental classifier learns, repeats, keeps patients apart, and is honest about it."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from worker.classifier import Classifier, LungCrop, lung_crop
from worker.inference import Segmenter
from worker.registry import METADATA, find_bundle, find_classifier, installed_classifiers
from worker.training.cases import Case, load_manifest, write_manifest
from worker.training.crops import Crops, draw, load_crops
from worker.training.evaluation.estimates import Sampling, auc
from worker.training.phantom import make_phantom
from worker.training.two_step import (
    COVID,
    LABELS,
    NONE,
    OTHER,
    TwoStepConfig,
    divide,
    fit_classifier,
    folds_of,
    label_of,
    predict,
)
from worker.training.two_step_bundle import render_classifier_card
from worker.training.two_step_command import train_two_step
from worker.training.two_step_metrics import BASELINES, Answers, areas, baseline, confusion
from worker.training.two_step_report import write_study
from worker.training.two_step_study import run_study
from worker.types import Orientation

TINY = {"name": "densenet", "init_features": 8, "growth_rate": 8, "block_config": [2, 2]}
SIZE = 32


def config(**options: object) -> TwoStepConfig:
    few = TwoStepConfig(
        data=Path(), out=Path(), size=SIZE, epochs=1, fewest_steps=40, batch=8, network=TINY,
        threads=1, learning_rate=1e-2,
    )  # fmt: skip
    return replace(few, **options)  # type: ignore[arg-type]  # names of its own fields


def case(name: str, finding: str, **known: object) -> Case:
    return replace(Case(name, Path(f"{name}.png"), finding=finding), **known)  # type: ignore[arg-type]  # as above


def phantom_crop(seed: int, percent: float) -> LungCrop:
    phantom = make_phantom(seed, 64, percent)
    return lung_crop(phantom.pixels, phantom.left | phantom.right, Orientation(), 1.0, SIZE)


@pytest.fixture(scope="module")
def phantoms() -> Crops:
    """Opaque lungs and clear ones: two classes that can be seen."""
    crops = [phantom_crop(seed, 55.0 if seed % 2 else 0.0) for seed in range(40)]
    return Crops(
        cases=tuple(case(f"p{seed}", "") for seed in range(40)),
        images=torch.cat([(crop.windowed * 255).round().byte() for crop in crops]),
        inside=torch.cat([crop.inside.byte() for crop in crops]),
        labels=torch.tensor([seed % 2 for seed in range(40)]),
    )


def area(crops: Crops, network: torch.nn.Module) -> float:
    found = predict(network, crops)[:, 1]
    return auc(found, crops.labels.numpy() == 1)(np.arange(len(crops)))


def test_the_loss_falls_and_unseen_phantoms_are_told_apart(phantoms: Crops) -> None:
    fitted = fit_classifier(config(), phantoms.at(range(28)))
    assert len(fitted.losses) == 40
    assert np.mean(fitted.losses[-5:]) < 0.8 * np.mean(fitted.losses[:5])
    assert area(phantoms.at(range(28, 40)), fitted.network) > 0.8


def test_the_labels_decide(phantoms: Crops) -> None:
    """The figure of the test above is earned: swapped labels turn it round."""
    training = phantoms.at(range(28))
    network = fit_classifier(config(), replace(training, labels=1 - training.labels)).network
    assert area(phantoms.at(range(28, 40)), network) < 0.2


def test_the_same_seed_trains_the_same_weights(phantoms: Crops) -> None:
    first, second, other = (
        fit_classifier(config(fewest_steps=4, seed=seed), phantoms.at(range(8))).network
        for seed in (0, 0, 1)
    )
    pairs = [*zip(first.parameters(), second.parameters(), strict=True)]
    assert all(torch.equal(*pair) for pair in pairs)
    strangers = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in strangers)


def test_every_batch_has_every_class_and_stays_inside_the_lungs(phantoms: Crops) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = draw(phantoms, (2, 6), generator)
    assert Counter(labels.tolist()) == {0: 2, 1: 6}
    assert (images == 0).float().mean() > 0.2
    assert images.abs().amax(dim=(1, 2, 3)).min() > 0.5


def test_one_class_is_refused(phantoms: Crops) -> None:
    with pytest.raises(ValueError, match="pictures of every class"):
        fit_classifier(config(), phantoms.relabelled([0]))


def test_findings_have_classes() -> None:
    known = {
        "COVID-19": COVID, "COVID-19, ARDS": COVID, "SARS": OTHER, "Pneumonia": OTHER,
        "E.Coli": OTHER, "No Finding": NONE, "ARDS": None, "todo": None, "Unknown": None, "": None,
    }  # fmt: skip
    assert {text: label_of(case("a", text)) for text in known} == known


def test_patients_of_the_test_split_and_no_derivatives_never_train() -> None:
    cases = [
        case("a", "COVID-19", patient="1", split="test"),
        case("b", "COVID-19", patient="1", split="unlabelled"),
        case("c", "COVID-19", patient="2", split="train"),
        case("d", "Pneumonia", patient="3", licence="CC BY-NC-ND 4.0"),
        case("e", "todo", patient="4"),
    ]
    training, test = divide(cases)
    assert [(it.name, label) for it, label in training] == [("c", COVID)]
    assert {it.name for it, _ in test} == {"a", "b"}


def test_folds_keep_patients_together_and_hold_every_class() -> None:
    cases = [case(f"c{number}", "", patient=str(number // 2), source="nih") for number in range(40)]
    labels = [0 if number < 10 else 1 if number % 3 else 2 for number in range(40)]
    nothing = torch.zeros(40, 1, 1, 1, dtype=torch.uint8)
    crops = Crops(tuple(cases), nothing, nothing, torch.tensor(labels))
    fold = folds_of(crops, 5, seed=0)
    for patient in {it.patient for it in cases}:
        places = [place for it, place in zip(cases, fold, strict=True) if it.patient == patient]
        assert len(set(places)) == 1
    for place in range(5):
        assert {labels[number] for number in np.flatnonzero(fold == place)} == {0, 1, 2}
    with pytest.raises(ValueError, match="5 patients cannot be divided into 6 folds"):
        folds_of(crops, 6, seed=0)


def answers(classes: list[int], sources: list[str], found: list[float]) -> Answers:
    cases = tuple(
        case(f"a{number}", "", source=source, patient=str(number))
        for number, source in enumerate(sources)
    )
    probability = np.array(found)
    return Answers(
        ("ill", "well"), cases, np.array(classes), np.arange(len(classes)) % 2,
        np.stack([probability, 1 - probability], axis=1),
    )  # fmt: skip


def test_a_baseline_finds_the_shortcut_and_knows_when_there_is_none() -> None:
    classes, sources = [0, 0, 1, 1] * 5, ["gb", "v7", "nih", "nih"] * 5
    blind = answers(classes, sources, [0.5] * 20)
    sampling = Sampling(replicates=50)
    assert areas(blind, sampling)["ill"].value == pytest.approx(0.5)
    guess = baseline(blind, BASELINES["collection"])
    assert guess is not None
    assert areas(guess, sampling)["ill"].value == pytest.approx(1.0)
    assert confusion(guess).tolist() == [[10, 0], [0, 10]]
    assert baseline(blind, BASELINES["view"]) is None


def test_odds_between_two_classes_forget_the_third() -> None:
    cases = tuple(case(f"a{number}", "") for number in range(3))
    three = np.array([[0.2, 0.2, 0.6], [0.1, 0.3, 0.6], [0.0, 0.0, 1.0]])
    asked = Answers(LABELS, cases, np.array([0, 1, 2]), np.zeros(3, dtype=np.intp), three)
    pair = asked.between(0, 1)
    assert pair.probabilities.ravel() == pytest.approx([0.5, 0.5, 0.25, 0.75])
    assert (pair.names, pair.classes.tolist()) == (LABELS[:2], [0, 1])


@pytest.fixture(scope="module")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in two collections: well only in one, as in the real ones."""
    folder = tmp_path_factory.mktemp("phantoms")
    cases = []
    for number in range(66):
        finding = ("COVID-19", "Pneumonia", "No Finding")[number % 3]
        phantom = make_phantom(number, 64, {"COVID-19": 50.0, "Pneumonia": 20.0}.get(finding, 0.0))
        path = folder / f"c{number}.png"
        Image.fromarray((phantom.pixels >> 8).astype(np.uint8)).save(path)
        normal = finding == "No Finding"
        split = "test" if normal and number > 58 else "train" if normal else "unlabelled"
        cases.append(
            Case(
                f"c{number}", path, patient=str(number), finding=finding, normal=normal,
                source="nih" if normal else "v7", split=split, view="AP" if number % 2 else "PA",
            )
        )  # fmt: skip
    write_manifest(cases, folder / "manifest.csv")
    return folder


def test_a_study_writes_a_bundle_that_serves_and_a_report(
    phantom_folder: Path, tmp_path: Path
) -> None:
    chosen = config(
        data=phantom_folder, out=tmp_path / "out", name="guess", folds=2, fewest_steps=6, batch=8
    )
    study = run_study(chosen, Sampling(replicates=20))
    assert [it.title for it in study.inside] == ["ieee8023 only: COVID-19 or other pneumonia"]
    assert study.everything.baselines["collection"]["no finding"].value == 1.0  # type: ignore[index]  # it is there
    assert study.test is not None
    assert set(study.test.answers.classes.tolist()) == {NONE}
    report = tmp_path / "docs" / "guess.md"
    write_study(study, report)
    text = report.read_text(encoding="utf-8")
    assert "Knowing the collection alone" in text
    assert str(tmp_path) not in text
    assert str(phantom_folder) not in text
    for plot in report.parent.glob("*.png"):
        assert f"({plot.name})" in text
        assert plot.stat().st_size < 60_000
    bundle = find_classifier("guess", [tmp_path / "out"])
    metadata = json.loads((bundle.folder / METADATA).read_text(encoding="utf-8"))
    card = (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
    assert card == render_classifier_card(metadata)
    assert Classifier.load(bundle, "cpu").identity == bundle.identity


def test_shipped_classifiers_are_whole_and_their_cards_agree_with_their_metadata() -> None:
    bundles = installed_classifiers()
    assert "two-step" in {bundle.metadata.name for bundle in bundles}
    for bundle in bundles:
        Classifier.load(bundle, "cpu")
        metadata = json.loads((bundle.folder / METADATA).read_text(encoding="utf-8"))
        card = (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
        assert card == render_classifier_card(metadata)
        assert metadata["licence"] == "CC BY-NC-SA 4.0"
        assert bundle.weights.stat().st_size < 5_000_000


def test_real_radiographs_are_told_apart_where_they_trained(data_root: Path) -> None:
    training, _ = divide(load_manifest(data_root))
    few = [
        it for label in (COVID, NONE) for it in [one for one in training if one[1] == label][:16]
    ]
    segmenter = Segmenter.load(find_bundle("unet"), "cpu", 1)
    crops = load_crops(few, segmenter, SIZE).relabelled([COVID, NONE])
    assert len(crops) >= 30
    fitted = fit_classifier(config(fewest_steps=60), crops)
    assert np.mean(fitted.losses[-5:]) < np.mean(fitted.losses[:5])
    assert area(crops, fitted.network) > 0.8


def test_the_command_names_what_is_missing(phantom_folder: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    said = CliRunner().invoke(train_two_step, ["--data", str(tmp_path), *out])
    assert said.exit_code == 2
    assert "no manifest.csv and no cxr/cases.csv" in said.output
    options = ["--data", str(phantom_folder), *out, "--lung-model", "nonesuch"]
    said = CliRunner().invoke(train_two_step, options)
    assert said.exit_code == 2
    assert "'nonesuch' is not installed" in said.output
