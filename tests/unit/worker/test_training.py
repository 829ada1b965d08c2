"""Training learns, repeats, goes on where it was cut, and looks only at what was judged."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from worker.errors import RecipeError
from worker.inference import Segmenter
from worker.network import build_network
from worker.registry import find_bundle
from worker.training.augment import Draws
from worker.training.cases import Case, held_out, load_manifest
from worker.training.commands import train as train_command
from worker.training.config import RECIPES, Pool, Stage, TrainConfig, read_recipe
from worker.training.cross_validation import folds_of
from worker.training.datasets import (
    DATA_VARIABLE,
    DEFAULT_DATA,
    Samples,
    data_folder,
    load_cases,
    load_phantoms,
)
from worker.training.evaluate import Overlap, measure, percent, phantom_figures, segment_with
from worker.training.fit import Loop, rate
from worker.training.losses import segmentation_loss
from worker.training.pools import Material, load_pools
from worker.training.produce import plot_losses
from worker.training.train import fit

SMALL = {"name": "unet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1}
NOTHING = Material((), (), ())
TINY = """name = "tiny"
version = "0.1"
size = 64
phantoms = 3
folds = 2
threads = 1
network = { name = "basic-unet", features = [4, 4, 8, 8, 8, 4] }
"""
TINY_STAGES = """[[stages]]
steps = 12
[stages.shares]
opacity = 2
lungs = 2
[[stages]]
steps = 3
fresh = false
[stages.shares]
opacity = 1
phantom = 1
"""
DATA = Path(os.environ.get(DATA_VARIABLE, DEFAULT_DATA))
HAS_DATA = (DATA / "cxr" / "cases.csv").is_file()
needs_data = pytest.mark.skipif(not HAS_DATA, reason=f"no data folder: set {DATA_VARIABLE}")


@pytest.fixture(scope="module")
def phantoms() -> Samples:
    return load_phantoms(range(12), 64)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return load_manifest(data_folder(DATA))


def stage(steps: int = 40) -> Stage:
    return Stage(shares={Pool.PHANTOM: 4}, steps=steps, learning_rate=3e-3)


def recipe(*stages: Stage) -> TrainConfig:
    return TrainConfig(
        name="tiny", version="1", network=SMALL, size=64, phantoms=6, stages=stages, threads=1
    )


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in network.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_loss_falls() -> None:
    losses = fit(recipe(stage()), NOTHING).losses[0]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_same_seed_trains_the_same_weights_and_another_seed_others() -> None:
    config = recipe(stage(4))
    first, second = (weights(fit(config, NOTHING).network) for _ in range(2))
    other = weights(fit(config.model_copy(update={"seed": 1}), NOTHING).network)
    assert same(first, second)
    assert not same(first, other)


def test_a_stage_goes_on_from_the_one_before_unless_fresh() -> None:
    first, second = stage(10), stage(1)
    on = fit(recipe(first, second.model_copy(update={"fresh": False})), NOTHING)
    anew = fit(recipe(first, second), NOTHING)
    assert on.losses[1][0] < anew.losses[1][0]


def test_a_cut_run_ends_as_an_uninterrupted_one(
    phantoms: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.training.fit._SAVE_EVERY", 3)
    pools = {"phantom": phantoms}
    dropping = {**SMALL, "dropout": 0.3}  # its random numbers must go on, too

    def loop() -> Loop:
        torch.manual_seed(5)
        return Loop(build(dropping), stage(8), 7)

    whole = loop()
    whole.run(pools)
    with pytest.raises(KeyboardInterrupt):
        loop().run(pools, checkpoint=tmp_path / "cut.pt", on_step=interrupt_at(5))
    again = loop()
    again.run(pools, checkpoint=tmp_path / "cut.pt")
    assert again.losses == whole.losses
    assert same(weights(again.averaged), weights(whole.averaged))


def build(network: dict[str, object]) -> torch.nn.Module:
    return build_network(network)


def interrupt_at(last: int) -> object:
    def on_step(step: int, _loss: float) -> None:
        if step == last:
            raise KeyboardInterrupt

    return on_step


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    config = recipe(stage(3))
    first = fit(config, NOTHING, work=tmp_path)
    (tmp_path / "stage0.checkpoint.pt").unlink(missing_ok=True)
    again = fit(config, NOTHING, work=tmp_path)
    assert again.losses == first.losses
    assert same(weights(again.network), weights(first.network))
    assert again.seconds < first.seconds


def test_a_loss_that_is_no_number_stops_the_run(phantoms: Samples) -> None:
    loop = Loop(build(SMALL), stage(200).model_copy(update={"learning_rate": 1e30}), 0)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        loop.run({"phantom": phantoms})


def test_the_rate_rises_and_falls() -> None:
    rates = [rate(done / 100) for done in range(101)]
    assert rates[0] < rates[1] < rates[2]
    assert max(rates) > 0.99
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[100] == pytest.approx(0.0)


def test_a_stage_without_its_pictures_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing of what the stage names: opacity"):
        fit(recipe(Stage(shares={Pool.OPACITY: 2}, steps=1)), NOTHING)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name = ", "no readable TOML"),
        ('name = "Big Name"\nversion = "1"\nsize = 7\n[network]\n', "name:.*size:"),
        ('name = "a"\nversion = "1"\n[network]\n', "stages, or members"),
        (
            'name = "a"\nversion = "1"\n[network]\n[[stages]]\nsteps = 1\n[stages.shares]\nx = 1\n',
            "stages.0.shares.x",
        ),
        (
            (
                'name = "a"\nversion = "1"\n[network]\n[[stages]]\nsteps = 1\n'
                "[stages.shares]\ngrafted = 1\n"
            ),
            "cannot use grafted",
        ),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=wrong):
        read_recipe(str(path))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe nope: .*unet"):
        read_recipe("nope")


def test_every_shipped_recipe_can_be_read_and_is_named_like_its_file() -> None:
    files = sorted(RECIPES.glob("*.toml"))
    assert files
    for file in files:
        assert read_recipe(file.stem).name == file.stem


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
    draws = Draws({"phantom": phantoms}, {"phantom": 4}, 6, seed=0)
    columns = torch.arange(64.0)
    for image, targets, supervised in (draws[item] for item in range(24)):
        left, right = ((t.sum(0) * columns).sum() / t.sum() for t in targets[:2])
        assert left > right
        assert ((supervised == 0) | (supervised == 1)).all()
        assert image.isfinite().all()


def test_a_draw_depends_on_seed_and_place_alone(phantoms: Samples) -> None:
    first, second, other = (
        Draws({"phantom": phantoms}, {"phantom": 2}, 3, seed=seed) for seed in (1, 1, 2)
    )
    _ = first[0], first[1]  # asked for in another order
    for item in (5, 2):
        assert all(torch.equal(a, b) for a, b in zip(first[item], second[item], strict=True))
    assert not torch.equal(first[5][0], other[5][0])


def test_missed_opacity_of_a_reading_costs_what_the_stage_says(phantoms: Samples) -> None:
    plain, costly = (
        Draws({"phantom": phantoms}, {"phantom": 2}, 4, seed=3, missed={"phantom": cost})
        for cost in (1.0, 2.0)
    )
    pairs = [(plain[item], costly[item]) for item in range(8)]
    (_, targets, once), (_, _, twice) = next(p for p in pairs if p[0][1][2].sum() > 20)
    assert torch.allclose(twice[2], once[2] * (1 + targets[2]))
    assert torch.equal(once[:2], twice[:2])


def test_losses_are_drawn(tmp_path: Path) -> None:
    plot_losses(tmp_path / "docs" / "training.png", [[1.0] * 30, [0.5] * 50])
    assert (tmp_path / "docs" / "training.png").read_bytes().startswith(b"\x89PNG")


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
def test_nothing_that_must_not_train_is_in_the_material(cases: list[Case]) -> None:
    material = Material.of(cases)
    used = {case.name for case in material.cases}
    assert not used & {case.name for case in cases if case.split == "test" or held_out(case)}
    assert not any("ND" in case.licence for case in material.cases)
    assert len(material.opacity) == 58
    assert len(material.lungs) > 250
    assert {case.source for case in material.normal} >= {"nih", "normals"}


@needs_data
def test_folds_keep_patients_apart(cases: list[Case]) -> None:
    material = Material.of(cases)
    folds = folds_of(material, 5)
    assert sorted(c.name for fold in folds for c in fold) == sorted(c.name for c in material.cases)
    for held in folds:
        left = {case.person for case in material.without(held).cases}
        assert not left & {case.person for case in held}
        assert sum(case.has_opacity for case in held) >= 10


@needs_data
def test_every_source_has_lungs_with_opacity_and_without(cases: list[Case]) -> None:
    whole = Material.of(cases)
    few = Material(whole.opacity[:4], whole.lungs[:4], whole.normal[:6])
    pools = (Pool.OPACITY, Pool.LUNGS, Pool.NORMAL, Pool.GRAFTED, Pool.CLEARED)
    first = Stage(shares={Pool.OPACITY: 2, Pool.LUNGS: 2}, steps=25)
    later = Stage(shares=dict.fromkeys(pools, 1), steps=1, taught=True)
    config = recipe(first, later).model_copy(update={"grafted": 6, "cleared": 6})
    trained = fit(recipe(first), few)
    loaded = load_pools(few, config, later, trained.teacher)
    assert set(loaded) == set(pools)
    grafted, cleared = loaded["grafted"], loaded["cleared"]
    assert (grafted.targets[:, 2].flatten(1).max(dim=1).values > 0).all()
    assert cleared.targets[:, 2].float().mean() < loaded["opacity"].targets[:, 2].float().mean()
    taught, read = loaded["lungs"], load_pools(few, config, first)["lungs"]
    assert taught.supervised[:, 2].float().mean() > read.supervised[:, 2].float().mean()


@needs_data
def test_lung_only_cases_judge_opacity_outside_the_lungs_only(cases: list[Case]) -> None:
    case = next(c for c in cases if c.has_lung and not c.has_opacity and not c.normal)
    samples = load_cases([case], 64)
    lungs = samples.targets[0, :2].amax(dim=0) > 0
    assert lungs.any()
    assert not samples.supervised[0, 2][lungs].any()
    assert samples.supervised[0, 2].any()
    assert samples.supervised[0, 0][lungs].all()


@needs_data
def test_the_shipped_model_finds_the_lungs_of_a_real_radiograph(cases: list[Case]) -> None:
    segment = segment_with(Segmenter.load(find_bundle("unet"), "cpu"))
    case = next(c for c in cases if c.split == "test" and c.has_opacity)
    left, right, _ = case.masks()
    masks = segment(case.pixels())
    assert Overlap.of(masks.left | masks.right, left | right).dice > 0.85
    assert percent(masks) > 0


@needs_data
@pytest.mark.parametrize("sizes", [[], [64, 96]])
def test_train_and_cross_validate_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    monkeypatch.setattr("worker.training.produce.measure", partial(measure, phantom_seeds=(1, 2)))
    path = tmp_path / "tiny.toml"
    stages = TINY_STAGES.replace("stages", "members.stages")
    members = "".join(f"[[members]]\nsize = {size}\n{stages}" for size in sizes)
    path.write_text(TINY + (members or TINY_STAGES), "utf-8")
    small = small_data(tmp_path / "data")
    arguments = ["--config", str(path), "--data", str(small), "--out", str(tmp_path / "out")]
    folds = CliRunner().invoke(train_command, [*arguments, "--cross-validate"])
    run = CliRunner().invoke(train_command, [*arguments, "--device", "cpu"])
    assert (folds.exit_code, run.exit_code) == (0, 0), folds.output + run.output
    bundle = find_bundle("tiny", [tmp_path / "out"])
    assert [it["size"] for it in bundle.metadata.network.get("members", [])] == sizes
    validation = json.loads((bundle.folder / "cross_validation.json").read_text("utf-8"))
    assert bundle.metadata.threshold.opacity == validation["chosen_threshold"]
    assert {curve["fold"] for curve in validation["curves"]} == {0, 1}
    assert {v.dtype for v in load_file(bundle.weights).values()} <= {torch.float16, torch.int64}
    card = (bundle.folder / "docs" / "README.md").read_text("utf-8")
    assert "dicom-worker train --config" in card
    assert (bundle.folder / "training.csv").read_text("utf-8").startswith("stage,step,mean_loss")


def small_data(folder: Path) -> Path:
    """Write a manifest of a few real cases, in place."""
    whole = load_manifest(data_folder(DATA))
    opaque = [c for c in whole if c.split == "train" and c.has_opacity and c.may_train]
    lungs = [c for c in whole if c.split == "train" and c.has_lung and not c.has_opacity]
    test = [c for c in whole if c.split == "test" and c.has_opacity]
    chosen = [*opaque[:6], *[c for c in lungs if c.may_train][:6], *test[:1]]
    folder.mkdir()
    rows = ["case,image,labels,format,split,patient,has_lung,has_opacity"]
    for case in chosen:
        image, labels = (folder / f"{case.name}{p.suffix}" for p in (case.image, case.labels) if p)
        image.symlink_to(case.image.resolve())
        labels.symlink_to(case.labels.resolve())  # type: ignore[union-attr]  # chosen with labels
        flags = ["yes" if flag else "no" for flag in (case.has_lung, case.has_opacity)]
        row = [case.name, image.name, labels.name, "bitmask", case.split, case.patient, *flags]
        rows.append(",".join(row))
    (folder / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no manifest\.csv and no cxr/cases\.csv"):
        data_folder(tmp_path)


def test_train_names_a_missing_data_folder(tmp_path: Path) -> None:
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(train_command, options)
    assert run.exit_code == 2
    assert "no manifest.csv" in run.output
