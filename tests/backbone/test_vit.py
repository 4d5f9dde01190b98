"""Vision transformers from their state dicts: against transformers, of DINOv2-small's shape, and with faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bitmar.backbone import import_backbone
from bitmar.backbone.vit import resized
from bitmar.core.errors import BitMarError, ConfigError, FormatError
from bitmar.core.tower_file import TowerFile, open_tower
from bitmar.core.vit_config import VitTowerConfig
from bitmar.data.towers import load_tower
from bitmar.runtime.vit import VitTower

Weights = dict[str, np.ndarray]


def dinov2(width: int = 64, depth: int = 2, patch: int = 14, side: int = 4, seed: int = 0) -> Weights:
    """Random weights under the names that Meta's code gives them."""
    rng, made = np.random.default_rng(seed), Weights()

    def add(name: str, *shape: int, spread: float = 0.05) -> None:
        made[name] = rng.normal(0, spread, shape).astype(np.float32)

    add("cls_token", 1, 1, width)
    add("mask_token", 1, width)
    add("pos_embed", 1, 1 + side**2, width)
    add("patch_embed.proj.weight", width, 3, patch, patch)
    add("patch_embed.proj.bias", width)
    norms = []
    for i in range(depth):
        for name, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            add(f"blocks.{i}.{name}.weight", out * width, into * width, spread=(into * width) ** -0.5)
            add(f"blocks.{i}.{name}.bias", out * width)
        for name in ("ls1", "ls2"):
            add(f"blocks.{i}.{name}.gamma", width, spread=0.5)
        norms += [f"blocks.{i}.norm1", f"blocks.{i}.norm2"]
    for norm in (*norms, "norm"):
        made[f"{norm}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        add(f"{norm}.bias", width)
    return made


def imported(folder: Path, state: Weights, **options: Any) -> TowerFile:
    save_file(state, folder / "vit.safetensors")
    return open_tower(import_backbone(str(folder / "vit.safetensors"), folder / "t.bitmar", **options))


def test_features_are_those_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=70, patch_size=14, layerscale_value=0.7
    )
    torch.manual_seed(0)
    net = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        net.embeddings.position_embeddings.normal_(std=0.5)
        photo = np.random.default_rng(1).integers(0, 256, (56, 56, 3), dtype=np.uint8)
        mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
        pixels = torch.from_numpy(((photo.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None])
        expected = net(pixel_values=pixels).last_hidden_state[0, 1:].numpy()
    net.save_pretrained(tmp_path)
    tower = open_tower(import_backbone(str(tmp_path / "model.safetensors"), tmp_path / "t.bitmar", size=56))
    assert tower.config == VitTowerConfig(56, 14, 128, 3, 2, 512, 1, 1e-6)
    found = VitTower(tower.config, tower.tensors)(photo)
    assert found.shape == expected.shape == (16, 128)
    cosines = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosines.min() > 0.998
    np.testing.assert_array_equal(load_tower(f"bitmar:{tower.path}")(photo[None])[0], found)


def test_the_shape_of_dinov2_small(tmp_path: Path) -> None:
    tower = imported(tmp_path, dinov2(width=384, depth=12, side=37), licence="Apache-2.0")
    assert tower.config == VitTowerConfig(224, 14, 384, 12, 6, 1536, 1, 1e-6)
    assert (tower.config.grid, tower.config.out_dim, tower.card["licence"]) == (16, 384, "Apache-2.0")
    assert tower.path.stat().st_size < 22.5e6


def test_positions_are_interpolated_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    position = np.random.default_rng(0).standard_normal((49, 5))
    square = torch.from_numpy(position.reshape(1, 7, 7, 5)).permute(0, 3, 1, 2)
    for grid in (3, 7, 12):
        theirs = torch.nn.functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
        np.testing.assert_allclose(
            resized(position, grid), theirs[0].permute(1, 2, 0).reshape(-1, 5).numpy(), atol=1e-6
        )


def gone(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gone("blocks.1.attn.qkv.bias"), "'blocks.1.attn.qkv.bias' is missing"),
        (gone("blocks.0.norm1.weight"), "'blocks.0.norm1.weight' is missing"),
        (gone("norm.bias"), "'norm.bias' is missing"),
        (gone("pos_embed"), "'pos_embed' is missing"),
        (lambda w: w.update({"blocks.1.mlp.fc1.weight": w["blocks.1.mlp.fc2.weight"]}), "transposed"),
        (lambda w: w.update({"blocks.0.mlp.w12.weight": np.zeros(3, np.float32)}), "SwiGLU"),
        (lambda w: w.update(pos_embed=w["pos_embed"][:, :12]), "11 position embeddings are no square"),
        (lambda w: w["blocks.0.ls1.gamma"].fill(np.inf), "'blocks.0.ls1.gamma' holds values that are not finite"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Weights], object], message: str) -> None:
    weights = dinov2()
    change(weights)
    with pytest.raises(FormatError, match=rf"vit\.safetensors: .*{message}"):
        imported(tmp_path, weights)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of patch 14"):
        imported(tmp_path, dinov2(), size=100)
    with pytest.raises(ConfigError, match="stored as int8"):
        imported(tmp_path, dinov2(), weights="int4")
    with pytest.raises(BitMarError, match="stand alone"):
        import_backbone(f"{tmp_path / 'vit.safetensors'}+{tmp_path / 'vit.safetensors'}", tmp_path / "t.bitmar")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "swin"}, "kind"),
        ({"heads": 5}, "multiple of heads"),
        ({"depth": 10**6}, "depth"),
        ({"eps": float("nan")}, "eps"),
        ({"windows": 7}, "unknown vision_tower key 'windows'"),
    ],
)
def test_configurations_that_are_refused(change: dict[str, Any], message: str) -> None:
    values = VitTowerConfig(56, 14, 64, 2, 1, 256, 1, 1e-6).to_dict()
    assert VitTowerConfig.from_dict(values).to_dict() == values
    with pytest.raises(ConfigError, match=message):
        VitTowerConfig.from_dict({**values, **change})
