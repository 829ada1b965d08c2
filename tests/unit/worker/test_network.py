"""Networks are built by name and give three maps of the size they are given."""

import pytest
import torch

from worker.network import LABELS, NETWORKS, build_network, predict


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_three_logits_per_pixel(name: str) -> None:
    network = build_network({"name": name}).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 1, 64, 64))
    assert logits.shape == (1, len(LABELS), 64, 64)


def test_the_default_network_is_small() -> None:
    network = build_network({"name": "efficientnet-lite0-unet"})
    assert sum(value.numel() for value in network.parameters()) <= 4_000_000


def test_options_reach_the_network() -> None:
    wide = build_network({"name": "unet", "channels": [8, 16, 32], "strides": [2, 2]})
    assert sum(value.numel() for value in wide.parameters()) < 100_000


def test_an_ensemble_averages_probabilities() -> None:
    ensemble = build_network({"name": "ensemble", "members": 3, "network": {"name": "unet"}}).eval()
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        each = [member(image).sigmoid() for member in ensemble.members]
        assert not torch.allclose(each[0], each[1], atol=1e-3)
        assert torch.allclose(ensemble(image).sigmoid(), sum(each) / 3, atol=1e-5)


def test_a_mirrored_prediction_is_the_same_for_the_mirror_image() -> None:
    network = build_network({"name": "basic-unet"}).eval()
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain, turned = (predict(network, it, mirrored=True) for it in (image, image.flip(-1)))
        once = predict(network, image)
    assert torch.allclose(plain, turned.flip(-1)[[1, 0, 2]], atol=1e-6)
    assert torch.equal(once, network(image).sigmoid()[0])
    assert not torch.allclose(plain, once, atol=1e-3)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown network 'nonesuch'; known: unet"):
        build_network({"name": "nonesuch"})
    for name in ("unet", "ensemble"):
        with pytest.raises(TypeError):
            build_network({"name": name, "chanels": [8, 16]})
