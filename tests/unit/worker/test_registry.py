"""A bundle is what its metadata says, or it is refused with a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from worker.errors import BundleError
from worker.inference import Segmenter
from worker.network import build_network
from worker.registry import METADATA, find_bundle, installed_bundles, read_bundle
from worker.training.bundle import Recipe, write_bundle, write_metrics
from worker.training.card import render_card

SMALL = {"name": "unet", "channels": [4, 8], "strides": [2], "num_res_units": 0}


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    recipe = Recipe("tiny", "0.1.0", SMALL, 64, "0" * 64, [], {"CC BY": 1})
    write_bundle(tmp_path / "tiny", build_network(SMALL), recipe)
    return tmp_path


def change(folder: Path, **values: object) -> None:
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    (folder / METADATA).write_text(json.dumps(metadata | values), encoding="utf-8")


def test_a_written_bundle_is_found_and_loads(bundles: Path) -> None:
    bundle = find_bundle("tiny", [bundles])
    assert bundle.identity.name == "tiny"
    assert bundle.identity.sha256 == bundle.metadata.weights.sha256
    assert bundle.weights.stat().st_mode & 0o044
    assert Segmenter.load(bundle, "cpu").identity == bundle.identity
    names = [b.metadata.name for b in installed_bundles([bundles])]
    assert names == sorted(names)
    assert {"tiny", "unet"} <= set(names)


def test_the_folder_searched_first_wins(bundles: Path) -> None:
    recipe = Recipe("unet", "9.9.9", SMALL, 64, "0" * 64, [], {})
    write_bundle(bundles / "unet", build_network(SMALL), recipe)
    assert find_bundle("unet", [bundles]).identity.version == "9.9.9"
    assert find_bundle("unet").identity.version != "9.9.9"


def test_changed_weights_are_refused(bundles: Path) -> None:
    weights = bundles / "tiny" / "models" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError, match="does not match the SHA-256"):
        find_bundle("tiny", [bundles])


def test_missing_weights_are_refused(bundles: Path) -> None:
    (bundles / "tiny" / "models" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="has no weights file"):
        find_bundle("tiny", [bundles])


def test_weights_of_another_network_are_refused(bundles: Path) -> None:
    change(bundles / "tiny", network={"name": "unet"})
    with pytest.raises(BundleError, match="do not fit its network"):
        Segmenter.load(find_bundle("tiny", [bundles]), "cpu")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"input_size": 100}, "input_size"),
        ({"threshold": {"lung": 0.5, "opacity": 1.5}}, r"threshold\.opacity"),
        ({"weights": {"file": "models/model.safetensors", "sha256": "abc"}}, r"weights\.sha256"),
        ({"weights": {"file": "../../secret", "sha256": "0" * 64}}, "outside itself"),
        ({"name": "other"}, "names another model"),
    ],
)
def test_unusable_metadata_is_named(
    bundles: Path, values: dict[str, object], sentence: str
) -> None:
    change(bundles / "tiny", **values)
    with pytest.raises(BundleError, match=sentence):
        read_bundle(bundles / "tiny")


def test_metadata_that_is_no_json_is_refused(bundles: Path) -> None:
    (bundles / "tiny" / METADATA).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="metadata of model folder tiny is unusable"):
        installed_bundles([bundles])


@pytest.mark.parametrize("name", ["nonesuch", "../tiny", "", "tiny/../tiny"])
def test_a_model_that_is_not_installed_says_what_is(bundles: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"is not installed; installed: .*tiny, .*unet"):
        find_bundle(name, [bundles])


def test_figures_reach_metadata_and_card(bundles: Path) -> None:
    bundle = write_metrics(bundles / "tiny", {"opacity_dice_pooled": 0.12345, "phantoms": 4})
    assert bundle.metadata.metrics == {"opacity_dice_pooled": 0.1235, "phantoms": 4}
    card = (bundles / "tiny" / "docs" / "README.md").read_text(encoding="utf-8")
    assert "| Opacity Dice, pixels pooled | 0.123 |" in card
    assert "Not a medical device" in card


def test_a_bundle_gives_its_card_or_none(bundles: Path) -> None:
    bundle = read_bundle(bundles / "tiny")
    assert bundle.card == (bundles / "tiny" / "docs" / "README.md").read_text(encoding="utf-8")
    (bundles / "tiny" / "docs" / "README.md").write_bytes(b"\xff\xfe no text")
    assert bundle.card is None
    (bundles / "tiny" / "docs" / "README.md").unlink()
    assert bundle.card is None


def test_the_card_says_where_the_encoder_started(bundles: Path) -> None:
    assert "ImageNet" not in (bundles / "tiny" / "docs" / "README.md").read_text(encoding="utf-8")
    change(bundles / "tiny", recipe={"pretrained": "efficientnet-lite0"})
    assert "| ImageNet-1k" in render_card(json.loads((bundles / "tiny" / METADATA).read_text()))


def test_shipped_bundles_are_whole_and_their_cards_agree_with_their_metadata() -> None:
    bundles = installed_bundles()
    assert "unet" in {bundle.metadata.name for bundle in bundles}
    for bundle in bundles:
        bundle.verify()
        metadata = json.loads((bundle.folder / METADATA).read_text(encoding="utf-8"))
        card = (bundle.folder / "docs" / "README.md").read_text(encoding="utf-8")
        assert card == render_card(metadata)
        assert metadata["licence"] == "CC BY-NC-SA 4.0"


def test_monai_builds_the_same_network_from_the_inference_configuration() -> None:
    folder = find_bundle("unet").folder
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(parser.get_parsed_content("weights"))


def test_listing_models_loads_no_deep_learning() -> None:
    program = (
        "import sys, worker.registry as r; from worker.training.commands import models;"
        "assert r.installed_bundles(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
