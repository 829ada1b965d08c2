"""Networks are built by name and give three maps of the size they are given."""

import pytest
import torch

from worker.network import LABELS, NETWORKS, Ensemble, build_network, predict


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
    members = [{"network": {"name": "unet"}, "size": 64}] * 3
    ensemble = build_network({"name": "ensemble", "members": members}).eval()
    image = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        each = [member(image).sigmoid() for member in ensemble.members]
        assert not torch.allclose(each[0], each[1], atol=1e-3)
        assert torch.allclose(ensemble(image).sigmoid(), sum(each) / 3, atol=1e-5)


class _Sees(torch.nn.Module):
    """Gives back what it sees, three times, as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sides.append(images.shape[-1])
        return images.expand(-1, 3, -1, -1)


def test_each_member_sees_the_picture_at_its_own_size() -> None:
    members = [_Sees(), _Sees()]
    rows = torch.linspace(-3.0, 3.0, 224)
    image = rows[:, None].expand(1, 1, 224, 224)
    found = Ensemble(members, [160, 224])(image)
    assert [member.sides for member in members] == [[160], [224]]
    assert found.shape == (1, 3, 224, 224)
    inner = slice(4, -4)  # the outermost half pixel of the smaller square is repeated
    assert torch.allclose(found[0, 0, inner], image[0, 0, inner], atol=0.01)


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
    with pytest.raises(TypeError):
        build_network({"name": "unet", "chanels": [8, 16]})
