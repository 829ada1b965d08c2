"""Training learns, repeats, and looks only at what was judged."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.training.augment import augment, pick
from worker.training.datasets import (
    DATA_VARIABLE,
    DEFAULT_DATA,
    Samples,
    data_folder,
    labelled_cases,
    load_cases,
    load_phantoms,
    normal_cases,
)
from worker.training.evaluate import Overlap, percent, phantom_figures, segment_with
from worker.training.losses import segmentation_loss
from worker.training.train import TrainConfig, fit_network, train

SMALL = {"name": "unet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}
DATA = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
needs_data = pytest.mark.skipif(
    not (DATA / "cxr" / "cases.csv").is_file(), reason=f"no data folder: set {DATA_VARIABLE}"
)


@pytest.fixture(scope="module")
def phantoms() -> Samples:
    return load_phantoms(range(12), 64)


def config(out: Path, steps: int = 40) -> TrainConfig:
    return TrainConfig(
        data=None, out=out, name="tiny", steps=steps, size=64, phantoms=6, network=SMALL,
        learning_rate=3e-3, shares=(("phantom", 4),),
    )  # fmt: skip


def test_the_loss_falls(phantoms: Samples, tmp_path: Path) -> None:
    trained = fit_network(config(tmp_path), {"phantom": phantoms}, tmp_path / "log.csv")
    assert trained.steps == 40
    assert np.mean(trained.losses[-5:]) < 0.75 * np.mean(trained.losses[:5])
    assert (tmp_path / "log.csv").read_text(encoding="utf-8").startswith("step,mean_loss")


def test_the_same_seed_trains_the_same_weights(phantoms: Samples, tmp_path: Path) -> None:
    runs = [fit_network(config(tmp_path, 4), {"phantom": phantoms}).network for _ in range(2)]
    pairs = zip(runs[0].parameters(), runs[1].parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_the_clock_ends_a_run(phantoms: Samples, tmp_path: Path) -> None:
    short = TrainConfig(data=None, out=tmp_path, minutes=0.005, size=64, network=SMALL)
    assert 0 < fit_network(short, {"phantom": phantoms}).steps < short.steps


def test_training_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training cases"):
        fit_network(config(tmp_path), {})


def test_train_writes_a_bundle_that_serves(tmp_path: Path) -> None:
    bundle = train(config(tmp_path, 3))
    segmenter = Segmenter.load(find_bundle("tiny", [tmp_path]), "cpu")
    segmenter.warm_up()
    assert segmenter.identity == bundle.identity
    masks = segment_with(segmenter)(np.zeros((90, 70), np.uint16))
    assert masks.left.shape == (90, 70)


def test_pixels_that_nobody_judged_have_no_gradient() -> None:
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    supervised = torch.zeros(2, 3, 8, 8)
    supervised[0, 2] = 1.0
    loss = segmentation_loss(logits, torch.ones(2, 3, 8, 8), supervised)
    loss.backward()  # torch leaves it untyped
    assert logits.grad is not None
    assert float(logits.grad[0, 2].abs().sum()) > 0
    assert float(logits.grad[1].abs().sum()) == 0
    assert float(logits.grad[0, :2].abs().sum()) == 0


def test_a_right_answer_costs_nothing() -> None:
    targets = (torch.rand(2, 3, 16, 16) > 0.5).float()
    everywhere = torch.ones_like(targets)
    assert float(segmentation_loss(targets * 40 - 20, targets, everywhere)) < 1e-3
    assert float(segmentation_loss(20 - targets * 40, targets, everywhere)) > 5


def test_mirrored_lungs_change_their_names(phantoms: Samples) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        batch = augment(pick(phantoms, 4, generator), generator)
        columns = torch.arange(64.0)
        for targets in batch.targets:
            left, right = ((t.sum(0) * columns).sum() / t.sum() for t in targets[:2])
            assert left > right
        assert ((batch.supervised == 0) | (batch.supervised == 1)).all()


def test_overlaps_pool_over_images() -> None:
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    pooled = Overlap.of(full, full) + Overlap.of(empty, full)
    assert (pooled.precision, pooled.recall) == (1.0, 0.5)
    assert pooled.dice == pytest.approx(2 / 3)
    assert Overlap.of(empty, empty).dice == 1.0


def test_the_shipped_model_measures_unseen_phantoms() -> None:
    segmenter = Segmenter.load(find_bundle("unet"), "cpu")
    figures = phantom_figures(segment_with(segmenter), range(700_000, 700_010))
    assert figures["phantom_percent_mae"] <= 10.0
    assert figures["phantom_clear_percent_max"] <= 25.0  # a known weakness, see the card


@needs_data
def test_the_split_keeps_patients_apart_and_leaves_no_derivatives_out() -> None:
    folder = data_folder(DATA)
    training, test = (labelled_cases(folder, split) for split in ("train", "test"))
    assert not {case.name for case in training} & {case.name for case in test}
    assert not any("ND" in case.licence for case in training)
    assert sum(case.has_opacity for case in test) == 16
    seen, held_out = normal_cases(folder)
    assert (len(seen), len(held_out)) == (8, 2)


@needs_data
def test_lung_only_cases_judge_opacity_outside_the_lungs_only() -> None:
    case = next(c for c in labelled_cases(data_folder(DATA), "train") if not c.has_opacity)
    samples = load_cases([case], 64)
    lungs = samples.targets[0, :2].amax(dim=0) > 0
    assert lungs.any()
    assert not samples.supervised[0, 2][lungs].any()
    assert samples.supervised[0, 2].any()
    assert samples.supervised[0, 0][lungs].all()


@needs_data
def test_the_shipped_model_finds_the_lungs_of_a_real_radiograph() -> None:
    segment = segment_with(Segmenter.load(find_bundle("unet"), "cpu"))
    case = next(c for c in labelled_cases(data_folder(DATA), "test") if c.has_opacity)
    left, right, _ = case.masks()
    masks = segment(case.pixels())
    assert Overlap.of(masks.left | masks.right, left | right).dice > 0.85
    assert percent(masks) > 0


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no cxr/cases\.csv"):
        data_folder(tmp_path)
