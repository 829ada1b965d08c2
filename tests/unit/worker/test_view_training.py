"""Training of the view network: what is drawn, who trains, and the same weights twice."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from worker.training.views import train
from worker.training.views.chests import Dice, draw_chests
from worker.training.views.pictures import (
    SQUARE,
    Squares,
    frontal_pictures,
    load_squares,
    training_pictures,
)
from worker.training.views.strangers import STRANGERS, draw_strangers
from worker.training.views.train import ViewRecipe, train_views
from worker.view import METADATA_NAME, SIDE, View, ViewReader, thumbnails


@pytest.fixture(scope="module")
def chests() -> Squares:
    y, x = np.mgrid[0:160, 0:128] / 128.0
    grey = 20_000 + 30_000 * ((x - 0.5) ** 2 + (y - 0.6) ** 2 < 0.2)
    grey = np.where((abs(x - 0.3) < 0.12) & (abs(y - 0.5) < 0.3), 5_000, grey)
    return load_squares([grey.astype(np.uint16)] * 6)


@pytest.mark.parametrize("view", [it for it in View if it is not View.OTHER])
def test_chests_are_drawn_the_same_again(chests: Squares, view: View) -> None:
    first, again = (draw_chests(chests, view, Dice.seeded(3)) for _ in range(2))
    assert torch.equal(first.windowed, again.windowed)
    assert first.windowed.shape == (6, 1, SIDE, SIDE)
    assert torch.isfinite(first.windowed).all()
    assert not (first.windowed * (1 - first.inside)).any()


def test_drawing_leaves_the_pictures_as_they_were(chests: Squares) -> None:
    before = chests.windowed.clone()
    draw_chests(chests, View.ROTATED, Dice.seeded(0))
    draw_strangers(chests, Dice.seeded(0))
    assert torch.equal(chests.windowed, before)


@pytest.mark.parametrize("kind", STRANGERS, ids=lambda it: it.__name__)
def test_every_kind_of_stranger_fills_a_square(kind: object, chests: Squares) -> None:
    assert callable(kind)
    for seed in range(5):
        square = kind(chests.windowed[0, 0], np.random.default_rng(seed))
        assert square.shape == (SIDE, SIDE)
        assert torch.isfinite(square).all()


def test_the_padding_says_nothing(chests: Squares) -> None:
    small = thumbnails(chests.windowed, chests.inside)
    covered = torch.nn.functional.adaptive_avg_pool2d(chests.inside, SIDE) > 0.5
    assert not small[~covered].any()
    assert chests.windowed.shape[-1] == SQUARE
    assert float(small[0][covered[0]].mean()) == pytest.approx(0.0, abs=1e-4)


def test_no_patient_is_on_both_sides_and_licences_are_kept(data_root: Path) -> None:
    pictures = frontal_pictures(data_root)
    assert len(pictures) > 1000
    parts: dict[tuple[str, str], set[str]] = {}
    for it in pictures:
        if it.table == "nih" or (it.table == "cases" and "ND" not in it.row["license"]):
            parts.setdefault((it.table, it.row["patientid"]), set()).add(it.part)
    assert Counter(len(some) for some in parts.values()).keys() == {1}
    assert all("ND" not in it.row.get("license", "") for it in training_pictures(data_root))


def test_the_same_recipe_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chests: Squares
) -> None:
    monkeypatch.setattr(train, "_load", lambda *_: train._Pools(chests, chests, chests))
    monkeypatch.setattr(train, "training_pictures", lambda _: [])
    recipe = ViewRecipe(steps=2, seed=1)
    written = [train_views(tmp_path, tmp_path / name, recipe) for name in ("one", "two")]
    identities = {ViewReader.load(folder).identity for folder in written}
    assert len(identities) == 1
    assert (tmp_path / "one" / METADATA_NAME).read_text() == (
        tmp_path / "two" / METADATA_NAME
    ).read_text()
