"""The adversarial segmenter learns, repeats, and is judged by pixels that a test counts again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from worker.errors import RecipeError
from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.training.adversarial import (
    AdversarialConfig,
    Fitted,
    fit_adversarial,
    ground_glass,
    pools_of,
    read_config,
)
from worker.training.adversarial_command import train_adversarial
from worker.training.adversarial_report import PLAIN, WHOLE, Counts, gained, rates, write_trial
from worker.training.adversarial_trial import Plan, run_trial
from worker.training.cases import Case, write_manifest
from worker.training.config import Pool
from worker.training.datasets import Samples, load_phantoms
from worker.training.evaluation.estimates import Sampling
from worker.training.formats import LabelFormat
from worker.training.phantom import make_phantom
from worker.training.pools import Material

SMALL = {"name": "unet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}


def config(**options: object) -> AdversarialConfig:
    few: dict[str, object] = {
        "network": SMALL, "size": 64, "steps": 40, "phantoms": 8, "shares": {"phantom": 4},
        "learning_rate": 5e-3, "name": "tiny",
    }  # fmt: skip
    return read_config(None, **few | options)


@pytest.fixture(scope="module")
def pools() -> dict[str, Samples]:
    return {"phantom": load_phantoms(range(10), 64)}


def state(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().ravel() for value in network.parameters()])


@pytest.fixture(scope="module")
def fitted(pools: dict[str, Samples]) -> Fitted:
    return fit_adversarial(config(steps=70), pools)


def test_generator_and_discriminator_learn(fitted: Fitted) -> None:
    assert len(fitted.losses) == 70
    segmentation = [one.segmentation for one in fitted.losses]
    assert np.mean(segmentation[-5:]) < 0.75 * np.mean(segmentation[:5])
    told = [one.discriminator for one in fitted.losses]
    assert np.mean(told[-5:]) < np.mean(told[:5])  # type: ignore[arg-type]  # an adversary plays


def test_unseen_phantoms_are_segmented_better_than_by_chance(fitted: Fitted) -> None:
    unseen = load_phantoms([101, 103], 64)
    images = unseen.images.float() / 255.0
    standard = (images - images.mean(dim=(2, 3), keepdim=True)) / images.std()
    with torch.inference_mode():
        lungs = fitted.network(standard).sigmoid()[:, :2].amax(dim=1) > 0.5
    true = unseen.targets[:, :2].amax(dim=1) > 127
    dice = 2 * (lungs & true).sum() / (lungs.sum() + true.sum())
    everything = 2 * true.sum() / (true.numel() + true.sum())
    assert dice > everything + 0.1


def test_the_same_seed_trains_the_same_weights(pools: dict[str, Samples]) -> None:
    first, second, other = (
        state(fit_adversarial(config(steps=3, seed=seed), pools).network) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_adversary_changes_the_generator_and_can_be_left_out(
    pools: dict[str, Samples],
) -> None:
    against, alone = (fit_adversarial(config(steps=4, weight=w), pools) for w in (5.0, 0.0))
    assert not torch.equal(state(against.network), state(alone.network))
    assert all(one.adversarial is None and one.discriminator is None for one in alone.losses)
    assert all(one.adversarial is not None for one in against.losses)


def test_only_readings_are_judged_where_there_are_any(pools: dict[str, Samples]) -> None:
    """Other phantoms in the batch change the segmentation's loss, not what the adversary sees."""
    chosen = config(steps=1, shares={"opacity": 2, "phantom": 2})
    others = load_phantoms(range(50, 54), 64)
    read = {"opacity": pools["phantom"]}
    first, second = (
        fit_adversarial(chosen, {**read, "phantom": phantoms}).losses[0]
        for phantoms in (pools["phantom"], others)
    )
    assert first.segmentation != pytest.approx(second.segmentation, rel=1e-3)
    assert first.adversarial == pytest.approx(second.adversarial, rel=1e-3)
    assert first.discriminator == pytest.approx(second.discriminator, rel=1e-3)


def write_readings(folder: Path) -> list[Case]:
    """Phantoms as read radiographs: half of the opacity is ground glass, half consolidation."""
    cases = []
    for number in range(8):
        phantom = make_phantom(number, 96, 30.0 if number % 4 else 0.0)
        rows = np.arange(96)[:, None] < 48
        bits = phantom.left * 1 + phantom.right * 2
        bits = bits + (phantom.opacity & rows) * 4 + (phantom.opacity & ~rows) * 8
        image, labels = (folder / f"{kind}{number}.png" for kind in "ab")
        Image.fromarray((phantom.pixels >> 8).astype(np.uint8)).save(image)
        Image.fromarray(bits.astype(np.uint8)).save(labels)
        normal = number % 4 == 0
        cases.append(
            Case(
                f"r{number}", image, labels, LabelFormat.BITMASK, source="gb", patient=str(number),
                split="test" if number > 5 or number == 4 else "train", has_lung=True,
                has_opacity=not normal, normal=normal,
            )
        )  # fmt: skip
    write_manifest(cases, folder / "manifest.csv")
    return cases


def test_ground_glass_can_be_the_target(tmp_path: Path) -> None:
    cases = write_readings(tmp_path)
    material = Material.of(cases)
    both, glass = (
        pools_of(config(target=target, shares={"opacity": 2}), material)[Pool.OPACITY].targets
        for target in ("opacity", "ground_glass")
    )
    assert torch.equal(both[:, :2], glass[:, :2])
    assert 0 < glass[:, 2].sum() < both[:, 2].sum()
    drawn = ground_glass(cases[1])
    assert drawn.any()
    assert not drawn[48:].any()


def test_labels_that_do_not_tell_ground_glass_are_named() -> None:
    case = Case("c1", Path("a.png"), Path("a.json"), LabelFormat.LABELME, has_opacity=True)
    with pytest.raises(ValueError, match="case c1: its labels do not tell ground glass"):
        ground_glass(case)


def test_pixels_are_counted() -> None:
    measured = np.array([[1, 1, 0, 0]], dtype=bool)
    truth = np.array([[1, 0, 1, 0]], dtype=bool)
    lungs = np.array([[1, 1, 1, 0]], dtype=bool)
    counts = Counts.of("p", measured, truth, lungs)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 1, 1, 1)
    assert (counts.lung_fp, counts.lung_tn, counts.dice) == (1, 0, 0.5)
    figures = {name: it.value for name, it in rates([counts], Sampling(0)).items()}
    assert figures == {
        "dsc": 0.5, "dsc_mean": 0.5, "recall": 0.5, "precision": 0.5, "tn_rate": 0.5,
        "tn_rate_lungs": 0.0,
    }  # fmt: skip
    part = Counts.of("p", measured, truth, lungs, np.array([[1, 0, 0, 0]], dtype=bool))
    assert (part.tp, part.fp, part.fn, part.tn) == (1, 0, 0, 0)
    assert gained([part], [counts], Sampling(0)).value == pytest.approx(0.5)


def test_a_trial_writes_a_bundle_that_serves_and_a_report(tmp_path: Path) -> None:
    write_readings(tmp_path)
    chosen = config(steps=4, phantoms=2, shares={"opacity": 2, "normal": 1, "phantom": 1})
    trial = run_trial(Plan(chosen, tmp_path, tmp_path / "out", "dicom-worker train-adversarial"))
    assert {(row.model, row.part) for row in trial.judged} == {
        ("tiny", "training"), ("tiny", "test"), (PLAIN, "training"), (PLAIN, "test"),
    }  # fmt: skip
    assert [len(row.counts[WHOLE]) for row in trial.judged] == [4, 2, 4, 2]
    report = tmp_path / "docs" / "tiny.md"
    write_trial(trial, report, Sampling(20))
    text = report.read_text(encoding="utf-8")
    assert "the adversary adds" in text
    assert "ground glass only" in text
    assert str(tmp_path) not in text
    assert (report.parent / "tiny-losses.png").stat().st_size < 60_000
    log = (tmp_path / "out" / "tiny" / "training.csv").read_text(encoding="utf-8").splitlines()
    assert log[0] == "step,segmentation,adversarial,discriminator"
    assert all(float(cell) > 0 for cell in log[1].split(",")[1:])
    bundle = find_bundle("tiny", [tmp_path / "out"])
    assert bundle.metadata.metrics["opacity_images"] == 2
    Segmenter.load(bundle, "cpu").warm_up()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("steps = 0", "steps: Input should be greater than or equal to 1"),
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ("size = 100", "size: Input should be a multiple of 32"),
        ("[shares]\ngrafted = 1", "shares"),
        ("steps =", "is no readable TOML file"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "adversarial.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=sentence):
        read_config(path)


def test_options_outweigh_the_file(tmp_path: Path) -> None:
    path = tmp_path / "adversarial.toml"
    path.write_text("steps = 7\nseed = 3\n[shares]\nopacity = 2", encoding="utf-8")
    read = read_config(path, steps=9, size=None)
    assert (read.steps, read.seed, read.size, read.shares) == (9, 3, 160, {Pool.OPACITY: 2})


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(train_adversarial, options)
    assert said.exit_code == 2
    assert "no manifest.csv and no cxr/cases.csv" in said.output
    write_readings(tmp_path)
    said = CliRunner().invoke(train_adversarial, [*options, "--compare", "nonesuch"])
    assert said.exit_code == 2
    assert "'nonesuch' is not installed" in said.output
