"""The view network on drawn chests, and its file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.errors import BundleError
from worker.preprocess import prepare
from worker.training.phantom import make_phantom
from worker.types import Orientation
from worker.view import METADATA_NAME, WEIGHTS, WEIGHTS_NAME, Look, View, ViewReader, view_reader

SEEDS = range(910, 914)


def look(pixels: NDArray[np.uint16]) -> Look:
    return view_reader().look(prepare(np.ascontiguousarray(pixels), Orientation(), 1.0, 256))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_upright_chest_is_frontal(seed: int) -> None:
    seen = look(make_phantom(seed, 400).pixels)
    assert seen.upright > 0.9
    assert sum(seen.probabilities.values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_chest_is_rotated(seed: int, quarters: int) -> None:
    seen = look(np.rot90(make_phantom(seed, 400).pixels, quarters))
    assert seen.upright < 0.5
    assert seen.likeliest_fault is View.ROTATED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_negative_is_inverted(seed: int) -> None:
    seen = look(np.uint16(65535) - make_phantom(seed, 400).pixels)
    assert seen.upright < 0.5
    assert seen.likeliest_fault is View.INVERTED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_lateral_is_lateral(seed: int) -> None:
    seen = look(make_phantom(seed, 400, None, "LL").pixels)
    assert seen.upright < 0.5
    assert seen.likeliest_fault is View.LATERAL


def test_noise_is_no_chest() -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (300, 300)).astype(np.uint16)
    assert look(noise).upright < 0.5
    assert look(np.zeros((300, 300), np.uint16)).upright < 0.5


def test_other_weights_than_recorded_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "view"
    shutil.copytree(WEIGHTS, folder)
    ViewReader.load(folder)
    metadata = json.loads((folder / METADATA_NAME).read_text())
    (folder / METADATA_NAME).write_text(json.dumps(metadata | {"sha256": "0" * 64}))
    with pytest.raises(BundleError):
        ViewReader.load(folder)
    (folder / WEIGHTS_NAME).write_bytes(b"no weights")
    with pytest.raises(BundleError):
        ViewReader.load(folder)
    (folder / METADATA_NAME).unlink()
    with pytest.raises(BundleError):
        ViewReader.load(folder)
