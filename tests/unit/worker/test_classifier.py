"""The experimental classifier looks at lungs only, and is never taken for a segmentation model."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import analysed_image, chest_image, lung_masks, object_context
from click.testing import CliRunner
from pydicom.dataset import Dataset
from safetensors.torch import save_file

from worker.classifier import Classifier, build_classifier, lung_crop
from worker.codes import EXPERIMENT
from worker.errors import BundleError
from worker.registry import (
    METADATA,
    file_sha256,
    find_bundle,
    find_classifier,
    installed_bundles,
    installed_classifiers,
    read_bundle,
    read_classifier,
)
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.training.commands import models
from worker.types import Classification, LungMasks, ModelIdentity, Orientation

TINY = {"name": "densenet", "init_features": 4, "growth_rate": 2, "block_config": [1, 1]}


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder with one classifier whose weights are random."""
    folder = tmp_path / "guess"
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    torch.manual_seed(0)
    network = build_classifier(TINY, 2)
    weights = {name: value.half() for name, value in network.state_dict().items()}
    save_file(weights, folder / "models" / "model.safetensors")
    sha256 = file_sha256(folder / "models" / "model.safetensors")
    metadata = {
        "name": "guess", "version": "0.1.0", "kind": "classifier", "input_size": 32,
        "weights": {"file": "models/model.safetensors", "sha256": sha256}, "network": TINY,
        "labels": ["ill", "well"], "lung_model": "unet", "licence": "CC BY-NC-SA 4.0",
        "data_manifest_sha256": "", "training": [], "metrics": {},
    }  # fmt: skip
    (folder / METADATA).write_text(json.dumps(metadata), encoding="utf-8")
    return tmp_path


def change(folder: Path, **values: object) -> None:
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    (folder / METADATA).write_text(json.dumps(metadata | values), encoding="utf-8")


def test_probabilities_have_a_label_each_and_add_up(bundles: Path) -> None:
    classifier = Classifier.load(find_classifier("guess", [bundles]), "cpu")
    said = classifier.classify(chest_image(), lung_masks())
    assert said.labels == ("ill", "well")
    assert sum(said.probabilities) == pytest.approx(1.0)
    assert said.model == classifier.identity
    assert classifier.lung_model == "unet"


def test_what_lies_outside_the_lungs_does_not_count(bundles: Path) -> None:
    classifier = Classifier.load(find_classifier("guess", [bundles]), "cpu")
    image, masks = chest_image(), lung_masks()
    lungs = masks.left | masks.right
    inked = replace(image, pixels=np.where(lungs, image.pixels, 65535).astype(np.uint16))
    noise = np.random.default_rng(0).integers(0, 65535, lungs.shape)
    darker = replace(image, pixels=np.where(lungs, noise, image.pixels).astype(np.uint16))
    plain, outside, inside = (
        lung_crop(each.pixels, lungs, each.orientation, 1.0, 32).tensor
        for each in (image, inked, darker)
    )
    interior = lung_crop(lungs.astype(np.uint16), lungs, image.orientation, 1.0, 32)
    away_from_edges = (interior.inside > 0) & (
        -torch.nn.functional.max_pool2d(-interior.inside, 3, stride=1, padding=1) > 0
    )
    change_outside = (plain - outside)[away_from_edges].abs().mean()
    change_inside = (plain - inside)[away_from_edges].abs().mean()
    assert change_outside < 0.1 * change_inside
    assert classifier.classify(darker, masks) != classifier.classify(image, masks)


def test_a_turned_image_gives_the_same_crop() -> None:
    image, masks = chest_image(), lung_masks()
    lungs = masks.left | masks.right
    turned = Orientation(transpose=True, flip_rows=True)
    upright = lung_crop(image.pixels, lungs, Orientation(), 1.0, 64)
    stored = lung_crop(
        np.ascontiguousarray(turned.to_source(image.pixels)),
        np.ascontiguousarray(turned.to_source(lungs)),
        turned,
        1.0,
        64,
    )
    assert torch.allclose(upright.windowed, stored.windowed, atol=0.02)
    assert torch.equal(upright.inside, stored.inside)


def test_pixels_that_are_not_square_are_made_so() -> None:
    lungs = np.zeros((40, 100), np.bool_)
    lungs[10:30, 20:80] = True
    pixels = np.arange(4000, dtype=np.uint16).reshape(40, 100)
    crop = lung_crop(pixels, lungs, Orientation(), 3.0, 64)
    rows, columns = (int(crop.inside[0, 0].amax(dim=axis).sum()) for axis in (1, 0))
    assert rows == pytest.approx(columns, abs=4)


def test_no_lungs_is_said(bundles: Path) -> None:
    nothing = np.zeros_like(lung_masks().left)
    classifier = Classifier.load(find_classifier("guess", [bundles]), "cpu")
    with pytest.raises(ValueError, match="no lungs"):
        classifier.classify(chest_image(), LungMasks(nothing, nothing, nothing))


def test_the_statement_says_what_it_is_first() -> None:
    said = Classification(
        ModelIdentity("guess", "1", "0" * 64), ("COVID-19", "other pneumonia"), (0.412, 0.588)
    )
    assert said.text == "experimental, not validated: COVID-19 0.41, other pneumonia 0.59"


def test_the_report_states_it_as_an_experiment_and_only_when_it_is_on() -> None:
    said = Classification(ModelIdentity("guess", "1", "0" * 64), ("ill", "well"), (0.4, 0.6))
    texts: list[list[str]] = []
    for classification in (said, None):
        analysed = analysed_image(classification=classification)
        seg = build_segmentation(analysed, object_context())
        report = build_report([ReportImage.of(analysed, seg)], object_context(), 1)
        texts.append([item.TextValue for item in walk(report) if concept(item) == EXPERIMENT.value])
    assert texts[0] == [
        "experimental, not validated: ill 0.40, well 0.60 (model guess 1+sha256.0000000000000000)"
    ]
    assert texts[1] == []


def concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def walk(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def test_a_row_keeps_it() -> None:
    said = Classification(ModelIdentity("guess", "1", "0" * 64), ("ill", "well"), (0.4, 0.6))
    assert Classification.of_row(json.loads(json.dumps(said.as_row()))) == said


def test_a_classifier_is_no_segmentation_model(bundles: Path) -> None:
    with pytest.raises(BundleError, match=r"guess is a classifier.*cannot be the segmentation"):
        find_bundle("guess", [bundles])
    with pytest.raises(BundleError, match=r"guess is a classifier.*cannot be the segmentation"):
        read_bundle(bundles / "guess")


def test_a_segmentation_model_is_no_classifier(bundles: Path) -> None:
    with pytest.raises(BundleError, match="unet is a segmentation model and cannot be the exp"):
        find_classifier("unet", [bundles])
    with pytest.raises(BundleError, match="unet holds a segmentation model, no classifier"):
        read_classifier(find_bundle("unet").folder)


def test_a_classifier_that_is_not_installed_says_what_is(bundles: Path) -> None:
    with pytest.raises(BundleError, match=r"'nonesuch' is not installed; installed: .*guess"):
        find_classifier("nonesuch", [bundles])


def test_each_kind_is_listed_as_its_own(bundles: Path) -> None:
    assert "guess" not in {bundle.metadata.name for bundle in installed_bundles([bundles])}
    names = {bundle.metadata.name for bundle in installed_classifiers([bundles])}
    assert "guess" in names
    assert "unet" not in names


def test_models_lists_both_kinds(bundles: Path) -> None:
    listed = CliRunner().invoke(models, ["--json", "--bundles", str(bundles)])
    kinds = {row["name"]: row["kind"] for row in map(json.loads, listed.output.splitlines())}
    assert (kinds["guess"], kinds["unet"]) == ("classifier", "segmenter")
    for form in ("--csv", None):
        said = CliRunner().invoke(models, [*([form] if form else []), "--bundles", str(bundles)])
        assert said.exit_code == 0
        assert "classifier" in next(it for it in said.output.splitlines() if "guess" in it)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "oracle"}, "kind"),
        ({"labels": ["ill"]}, "labels"),
        ({"lung_model": None}, "lung_model"),
        ({"weights": {"file": "../../secret", "sha256": "0" * 64}}, "outside itself"),
    ],
)
def test_unusable_metadata_is_named(
    bundles: Path, values: dict[str, object], sentence: str
) -> None:
    change(bundles / "guess", **values)
    with pytest.raises(BundleError, match=sentence):
        installed_classifiers([bundles])


def test_changed_weights_are_refused(bundles: Path) -> None:
    weights = bundles / "guess" / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="does not match the SHA-256"):
        find_classifier("guess", [bundles])


@pytest.mark.parametrize(
    "network", [{"name": "densenet"}, {"name": "oracle"}, {**TINY, "colour": 1}]
)
def test_weights_of_another_network_are_refused(bundles: Path, network: dict[str, object]) -> None:
    change(bundles / "guess", network=network)
    with pytest.raises(BundleError, match="do not fit its network"):
        Classifier.load(find_classifier("guess", [bundles]), "cpu")
