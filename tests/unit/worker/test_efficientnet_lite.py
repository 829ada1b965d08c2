"""The encoder is the published one: with ImageNet's weights it still knows ImageNet."""

import matplotlib.cbook
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from worker.efficientnet_lite import EfficientNetLiteEncoder
from worker.errors import RecipeError
from worker.network import build_network
from worker.training import pretrained
from worker.training.config import TrainConfig
from worker.training.pools import Material
from worker.training.pretrained import load_pretrained
from worker.training.train import fit

STEM = "encoder._conv_stem.weight"
LITE = {"name": "efficientnet-lite0-unet"}
MILITARY_UNIFORM = 652  # of ImageNet's 1,000 classes, in their usual order


def test_maps_have_the_sizes_and_channels_that_they_declare() -> None:
    maps = EfficientNetLiteEncoder().eval()(torch.zeros(1, 1, 96, 96))
    channels = EfficientNetLiteEncoder.num_channels_per_output()[0]
    assert [tuple(it.shape[1:]) for it in maps] == [
        (count, 48 >> step, 48 >> step) for step, count in enumerate(channels)
    ]


@torch.inference_mode()
def test_the_loaded_encoder_recognises_a_photograph() -> None:
    """Rear Admiral Hopper in uniform, in grey, through our encoder and the published classifier."""
    network = build_network(LITE)
    load_pretrained(network)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        photograph = Image.open(stream).convert("L").resize((224, 224))
    grey = torch.from_numpy(np.asarray(photograph, dtype=np.float32))[None, None]
    last = network.eval().encoder((grey - 127.0) / 128.0 / 0.5)[-1]  # type: ignore[operator]  # a Module
    stored = pretrained._read()
    head = functional.conv2d(last, stored["_conv_head.weight"])
    moments = (stored["_bn1.running_mean"], stored["_bn1.running_var"])
    head = functional.batch_norm(
        head, *moments, stored["_bn1.weight"], stored["_bn1.bias"], eps=1e-3
    )
    pooled = functional.relu6(head).mean(dim=(2, 3))
    scores = functional.linear(pooled, stored["_fc.weight"], stored["_fc.bias"])
    assert MILITARY_UNIFORM in scores[0].topk(3).indices


def test_training_starts_from_imagenet_and_later_stages_go_on() -> None:
    stage = {"steps": 1, "learning_rate": 1e-6, "shares": {"phantom": 1}}
    recipe = TrainConfig.model_validate(
        {
            "name": "lite",
            "version": "1.0.0",
            "network": LITE,
            "pretrained": "efficientnet-lite0",
            "size": 64,
            "phantoms": 2,
            "stages": [stage | {"learning_rate": 1e-2}, stage | {"fresh": False}],
        }
    )
    start = build_network(LITE)
    load_pretrained(start)
    once = fit(recipe.model_copy(update={"stages": recipe.stages[:1]}), Material((), (), ()))
    twice = fit(recipe, Material((), (), ()))
    first, second, third = (it.state_dict()[STEM] for it in (start, once.network, twice.network))
    assert 0 < (second - first).abs().max() < 0.02
    assert (third - second).abs().max() < (second - first).abs().max()


def test_only_this_network_takes_these_weights() -> None:
    with pytest.raises(RecipeError, match="efficientnet-lite0-unet"):
        load_pretrained(build_network({"name": "unet"}))


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    with pytest.raises(RecipeError, match="pip install"):
        load_pretrained(build_network(LITE))


def test_an_altered_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_SHA256", "0" * 64)
    with pytest.raises(RecipeError, match="not the published file"):
        load_pretrained(build_network(LITE))
