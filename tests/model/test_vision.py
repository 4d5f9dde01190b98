"""The vision tower and the projector behind it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitmar.model.bitlinear import quantize_weight
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.vision import BitConv, BitViT, BitViTConfig, PatchMerging, VisionProjector, pool_patches

TOWER = {
    "image_size": 64,
    "stem_channels": [4, 6],
    "stem_blocks": 1,
    "bottlenecks": [5, 7, 6],
    "widths": [8, 12],
    "depths": [1, 2],
    "head_dim": 4,
    "out_dim": 12,
}


def make_tower(**changes: object) -> BitViT:
    """A tower in evaluation mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    tower = BitViT(BitViTConfig.from_dict({**TOWER, **changes}))
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(tower.position)
    return tower.eval()


@pytest.mark.parametrize(("side", "pool"), [(4, 2), (5, 2), (7, 2), (7, 3), (3, 4)])
def test_pooling_averages_what_a_window_covers(side: int, pool: int) -> None:
    features = torch.randn(2, side * side, 3)
    grid = features.view(2, side, side, 3)
    windows = range(0, side, pool)
    expected = torch.stack([grid[:, r : r + pool, c : c + pool].mean((1, 2)) for r in windows for c in windows], 1)
    torch.testing.assert_close(pool_patches(features, pool), expected)


def test_no_pooling() -> None:
    features = torch.randn(2, 9, 3)
    assert pool_patches(features, 1) is features


def test_projector_shapes_and_dropout() -> None:
    config = BitMarConfig(
        hidden_size=16, vision_dim=10, vision_grid=7, vision_pool=2, vision_hidden=12, vision_dropout=0.5
    )
    projector, features = VisionProjector(config), torch.randn(3, 49, 10)
    projector.eval()
    assert projector(features).shape == (3, 16, 16)  # ceil(7 / 2)^2 vision tokens
    assert torch.equal(projector(features), projector(features))
    projector.train()
    assert not torch.equal(projector(features), projector(features))


def test_tower_shapes() -> None:
    tower, pixels = make_tower(), torch.randn(2, 3, 64, 64)
    assert tower(pixels).shape == (2, tower.config.grid**2, 12) == (2, 4, 12)


def test_a_stage_may_read_the_teacher() -> None:
    tower, pixels = make_tower(), torch.randn(2, 3, 64, 64)
    given = (torch.randn(2, 64, 5), torch.randn(2, 16, 7), torch.randn(2, 4, 6))
    linear, maps = tower(pixels, given, torch.tensor([True, False]))
    features = tower.activate(linear)
    assert [m.shape for m in maps] == [g.shape for g in given]
    torch.testing.assert_close(features[1], tower(pixels)[1])
    assert not torch.allclose(features[0], tower(pixels)[0], atol=1e-3)
    # Everything that the photo gave is replaced by the last given map.
    others, _ = tower(torch.randn(2, 3, 64, 64), given, torch.tensor([True, True]))
    torch.testing.assert_close(others[0], linear[0])


def test_a_photo_does_not_see_its_batch() -> None:
    """Nor through the scale of its activations: a neighbour a thousand times brighter changes nothing."""
    tower, pixels = make_tower(), torch.randn(3, 3, 64, 64)
    pixels[2] *= 1000
    with torch.no_grad():
        together = tower(pixels)
        for i in range(3):
            torch.testing.assert_close(tower(pixels[i : i + 1])[0], together[i], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(tower(pixels.flip(0)).flip(0), together, rtol=1e-3, atol=1e-3)


def test_evaluation_leaves_no_trace() -> None:
    tower, pixels = make_tower(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = tower(pixels)
        tower(torch.randn(2, 3, 64, 64))
        assert torch.equal(tower(pixels), before)


def test_patches_keep_their_place() -> None:
    """What changes inside the n-th cell of a 4x4 grid moves token n most."""
    tower = make_tower(stem_channels=[16, 32], bottlenecks=[32, 32], widths=[64], depths=[0], out_activation="none")
    base = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for n in (0, 3, 9, 15):
            touched, (row, column) = base.clone(), divmod(n, 4)
            cell = (..., slice(16 * row + 4, 16 * row + 12), slice(16 * column + 4, 16 * column + 12))
            touched[cell] = 10 * torch.randn_like(touched[cell])
            moved = (tower(touched) - tower(base)).norm(dim=-1)[0]
            assert moved.argmax() == n and moved[n] > 0


def test_embedding_of_raw_patches_is_a_strided_convolution() -> None:
    tower, pixels = make_tower(), torch.randn(2, 3, 64, 64)
    kernel = tower.embed.weight.view(4, 4, 4, 3).permute(0, 3, 1, 2)  # stored (row, column, channel)
    expected = F.relu(tower.embed_norm(F.conv2d(pixels, kernel, stride=4)))
    torch.testing.assert_close(tower.embed_patches(pixels), expected)


def test_merging_takes_neighbours_together() -> None:
    layer, x = PatchMerging(3, 5), torch.randn(2, 16, 3)
    grid = x.view(2, 4, 4, 3)
    quads = [
        torch.cat([grid[:, r, c], grid[:, r, c + 1], grid[:, r + 1, c], grid[:, r + 1, c + 1]], -1)
        for r in (0, 2)
        for c in (0, 2)
    ]
    torch.testing.assert_close(layer(x), layer.proj(torch.stack(quads, 1)))


def straight_through_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    codes, gamma = quantize_weight(weight)
    scale = x.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    x = x + ((x / scale).round() * scale - x).detach()
    return F.conv2d(x, weight + (codes * gamma - weight).detach(), stride=stride, padding=1)


@pytest.mark.parametrize("stride", [1, 2])
def test_ternary_convolution_and_its_gradient(stride: int) -> None:
    layer, x = BitConv(3, 5, 3, stride), torch.randn(2, 3, 8, 8) * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    found, expected = layer(a), straight_through_conv(b, weight, stride)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-3)
    assert 0 < layer.zero_fraction() < 1


def test_config_survives_json() -> None:
    config = BitViTConfig.from_dict(TOWER)
    assert BitViTConfig.from_dict(config.to_dict()) == config
    assert all(not isinstance(value, tuple) for value in config.to_dict().values())
