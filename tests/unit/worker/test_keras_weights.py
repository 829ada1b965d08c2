"""Weights as Keras wrote them give the numbers that Keras gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras_ancestor as ancestor
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pydicom.dataset import Dataset

from worker.cli import main
from worker.errors import WeightsFileError
from worker.inference import Segmenter
from worker.network import build_network
from worker.preactivation_unet import PreactivationUNet
from worker.preprocess import prepare
from worker.registry import find_bundle
from worker.training.converted_bundle import trained_range
from worker.training.keras_weights import expected_layers, load_keras_weights
from worker.training.phantom import make_phantom
from worker.types import ChestImage, Orientation

# Keras 3.15 answers NumPy's copy keyword by an error of its own, which NumPy turns into a warning.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
SMALL = 64


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return ancestor.load_keras(tmp_path_factory.mktemp("keras"))


@pytest.fixture(scope="module")
def model(keras: ModuleType) -> Any:
    built = ancestor.build(keras)
    ancestor.randomise(built, seed=1)
    return built


@pytest.fixture(scope="module")
def published(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the first ancestor published it."""
    path = tmp_path_factory.mktemp("weights") / "resnet18_Unet_segmentation_model_weights.h5"
    return ancestor.write_keras2(path, ancestor.weights_of(model))


@pytest.fixture(scope="module")
def network(published: Path) -> PreactivationUNet:
    return load_keras_weights(published).eval()


@pytest.fixture(scope="module")
def converted(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `old`, and `old-half` in half precision."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, options in (("old", []), ("old-half", ["--half"])):
        result = convert(published, folder, "--name", name, *options)
        assert result.exit_code == 0, result.output
    return folder


def convert(weights: Path, out: Path, *options: str) -> Result:
    words = ["convert-keras", str(weights), "--out", str(out), "--input-size", str(SMALL), *options]
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def segmenter(converted: Path) -> Segmenter:
    return Segmenter.load(find_bundle("old", [converted]), "cpu")


def picture(size: int) -> ChestImage:
    return ChestImage(make_phantom(5, size, 30.0).pixels, Dataset(), None, Orientation(), 1.0)


def test_the_network_has_the_published_numbers_of_parameters(model: Any) -> None:
    network = PreactivationUNet()
    state = network.state_dict()
    layers = expected_layers(network)
    counts = {name: sum(state[key].numel() for key in layers[name].values()) for name in layers}
    assert sum(counts.values()) == model.count_params() == 14_340_570
    assert sum(value.numel() for value in network.parameters()) == 14_330_644
    published = {"bn_data": 9, "conv0": 9408, "bn0": 256, "stage1_unit1_sc": 4096, "bn1": 2048}
    published |= {"stage4_unit1_conv2": 2_359_296, "decoder_stage0a_conv": 1_769_472}
    published |= {"decoder_stage3a_conv": 36_864, "decoder_stage4b_bn": 64, "final_conv": 145}
    assert published.items() <= counts.items()


@pytest.mark.parametrize("shape", [(256, 256, 3), (96, 160, 3)])
def test_outputs_are_those_of_keras(
    model: Any, network: PreactivationUNet, shape: tuple[int, ...]
) -> None:
    image = np.random.default_rng(3).uniform(0.0, 255.0, shape).astype(np.float32)
    with torch.inference_mode():
        ours = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0, 0].numpy()
    theirs = ancestor.logits(model, image)
    assert theirs.std() > 0.1
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("name", ["whole_model.h5", "new.weights.h5"])
def test_files_of_other_layouts_hold_the_same(
    model: Any, network: PreactivationUNet, tmp_path: Path, name: str
) -> None:
    (model.save_weights if "weights" in name else model.save)(tmp_path / name)
    wanted = network.state_dict()
    found = load_keras_weights(tmp_path / name).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def shorten_names(file: Any) -> None:
    names = file.attrs["layer_names"]
    del file.attrs["layer_names"]
    file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:50], names[50:]


def changed(published: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    path = Path(shutil.copy(published, folder))
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(name: str, values: Any) -> Callable[[Any], object]:
    def change(file: Any) -> None:
        if name in file:
            del file[name]
        file.create_dataset(name, data=values)

    return change


def rename(holder: Any, attribute: str, *, add: str = "", drop: str = "") -> None:
    names = {*holder.attrs[attribute].astype(str), add} - {"", drop}
    holder.attrs[attribute] = np.array(sorted(names), "S")


def add_layer(file: Any) -> None:
    rename(file, "layer_names", add="head")
    file.create_group("head").attrs["weight_names"] = np.array(["head/kernel:0"], "S")
    file["head"].create_dataset("head/kernel:0", data=np.zeros((16, 2)))


def add_bias(file: Any) -> None:
    rename(file["conv0"], "weight_names", add="conv0/bias:0")
    file["conv0"].create_dataset("conv0/bias:0", data=np.zeros(64))


def forget_layer(file: Any) -> None:
    rename(file, "layer_names", drop="stage2_unit1_sc")


def test_a_list_of_names_in_parts_is_read(published: Path, tmp_path: Path) -> None:
    load_keras_weights(changed(published, tmp_path, shorten_names))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (forget_layer, r"Layer stage2_unit1_sc lacks its kernel of shape \(1, 1, 64, 128\)\."),
        (add_layer, r"Layer head has a kernel of shape \(16, 2\), which this network does not"),
        (add_bias, r"Layer conv0 has a bias of shape \(64,\), which this network does not have\."),
        (
            replace("conv0/conv0/kernel:0", np.zeros((7, 7, 1, 64))),
            r"Layer conv0 has a kernel of shape \(7, 7, 1, 64\), not \(7, 7, 3, 64\)\.",
        ),
        (
            replace("final_conv/final_conv/bias:0", np.zeros(1, np.int64)),
            r"Layer final_conv has a bias of int64, not of real numbers\.",
        ),
        (
            replace("bn1/bn1/moving_variance:0", np.full(512, -1.0)),
            r"Layer bn1 has a moving_variance of shape \(512,\) with numbers that it cannot have\.",
        ),
        (lambda file: file.pop("bn0/bn0/gamma:0"), r"Layer bn0 lacks its gamma of shape \(64,\)"),
        (lambda file: file.pop("bn0"), r"Layer bn0 lacks its gamma of shape \(64,\)"),
        (lambda file: file.attrs.pop("layer_names"), r"is HDF5 without layers of Keras\."),
    ],
)
def test_another_network_is_refused_with_a_sentence(
    published: Path, tmp_path: Path, change: Callable[[Any], object], sentence: str
) -> None:
    with pytest.raises(WeightsFileError, match=sentence):
        load_keras_weights(changed(published, tmp_path, change))


def test_what_is_no_hdf5_is_refused(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    for content, sentence in (
        (b"version https://git-lfs.github.com/spec/v1\n", "weights.h5 is a line of text"),
        (b"\x80\x04\x95" * 1000, "weights.h5 is not an HDF5 file"),
        (published.read_bytes()[:100_000], "weights.h5 is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(WeightsFileError, match=sentence):
            load_keras_weights(path)
    path.unlink()
    with pytest.raises(WeightsFileError, match="There is no file"):
        load_keras_weights(path)


def test_the_range_of_the_training_is_read_from_the_statistics() -> None:
    network = PreactivationUNet()
    norm = network.bn_data
    for mean, deviation, wanted in ((120.0, 60.0, (0.0, 255.0)), (0.5, 0.2, (0.0, 1.0))):
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(deviation**2)
        assert trained_range(network) == wanted
    norm.running_mean.fill_(-0.4)
    with pytest.raises(WeightsFileError, match=r"bn_data has means -0\.4, -0\.4, -0\.4 and var"):
        trained_range(network)


def test_a_converted_model_is_listed_and_says_where_it_comes_from(converted: Path) -> None:
    listed = CliRunner().invoke(main, ["models", "--json", "--bundles", str(converted)])
    rows = {row["name"]: row for row in map(json.loads, listed.output.splitlines())}
    assert rows.keys() >= {"old", "old-half", "unet"}
    assert rows["old"]["network"]["input_range"] == [0.0, 255.0]
    assert rows["old"]["licence"].startswith("resnet18_Unet_segmentation_model_weights.h5: ask")
    card = (converted / "old" / "docs" / "README.md").read_text(encoding="utf-8")
    assert "Lungs: the model unet 1." in card
    assert "no figure was measured" in card


def test_a_converted_model_finds_the_ancestor_s_opacity(segmenter: Segmenter, model: Any) -> None:
    tensor = prepare(picture(SMALL).pixels, Orientation(), 1.0, SMALL).tensor
    grey = (tensor - tensor.min()) / (tensor.max() - tensor.min()) * 255.0
    with torch.inference_mode():
        found = segmenter._network(tensor)[0, 2].numpy()
    wanted = ancestor.logits(model, grey[0, 0, ..., None].expand(-1, -1, 3).numpy())
    assert np.abs(found - wanted).max() < 1e-4


def test_a_converted_model_finds_the_lungs_of_the_chosen_model(segmenter: Segmenter) -> None:
    alone = Segmenter.load(find_bundle("unet"), "cpu")
    side = alone._metadata.input_size
    tensor = prepare(picture(side).pixels, Orientation(), 1.0, side).tensor
    with torch.inference_mode():
        lungs = segmenter._network._both_lungs(tensor)  # the opacity of a large square is slow
        assert torch.allclose(lungs, alone._network(tensor)[:, :2], atol=1e-5)


def test_a_converted_model_segments_a_picture(segmenter: Segmenter) -> None:
    image = picture(300)
    masks = segmenter.segment(image)
    assert masks.left.shape == masks.opacity.shape == image.pixels.shape
    assert masks.left.any()
    assert masks.right.any()


def test_lungs_see_the_size_that_they_were_trained_at() -> None:
    lungs = {"name": "unet", "channels": [4, 8], "strides": [2]}
    network = build_network({"name": "keras-resnet18-unet", "lungs": lungs, "lungs_size": 32})
    smooth = torch.linspace(-1.0, 1.0, SMALL).expand(1, 1, SMALL, SMALL)
    half = torch.nn.functional.interpolate(smooth, (32, 32), mode="bilinear", antialias=True)
    with torch.inference_mode():
        found = network.eval()(smooth)[:, :2]
        wanted = network.get_submodule("lungs")(half)[:, :2]
    grown = torch.nn.functional.interpolate(wanted[:, :2], (SMALL, SMALL), mode="bilinear")
    assert torch.equal(found, grown)


def test_half_precision_halves_the_opacity_network_only(
    converted: Path, segmenter: Segmenter
) -> None:
    full, half = (find_bundle(name, [converted]) for name in ("old", "old-half"))
    assert half.weights.stat().st_size < full.weights.stat().st_size - 28_000_000
    tensor = torch.randn(1, 1, SMALL, SMALL, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = segmenter._network(tensor)
        found = Segmenter.load(half, "cpu")._network(tensor)
    assert torch.equal(found[:, :2], wanted[:, :2])
    assert 0 < (found[:, 2] - wanted[:, 2]).abs().max() < 0.05


def test_a_picture_without_contrast_gives_numbers() -> None:
    network = build_network({"name": "keras-resnet18-unet", "lungs_size": 32}).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, SMALL, SMALL)).isfinite().all()


def test_a_range_must_ascend(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input_range must ascend"):
        build_network({"name": "keras-resnet18-unet", "input_range": (1.0, 0.0)})
    result = convert(published, tmp_path, "--input-range", "255", "0")
    assert (result.exit_code, "black, then white" in result.output) == (2, True)


def test_the_command_says_in_a_sentence_what_is_wrong(published: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("not weights\n")
    for weights, options, code, sentence in (
        (text, [], 1, "text.h5 is a line of text"),
        (published, ["--lungs", "nobody"], 1, "Model 'nobody' is not installed; installed: "),
        (published, ["--input-size", "100"], 2, "--input-size 100 is not a multiple of 32"),
    ):
        result = convert(weights, tmp_path / "out", *options)
        assert (result.exit_code, sentence in result.output) == (code, True), result.output
    assert not (tmp_path / "out").exists()
