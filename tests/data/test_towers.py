from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, DataError, DependencyError
from bitmar.data.towers import load_tower

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dinov3:small", "did you mean 'dinov2'"),
        ("litert:", "names no source"),
        ("mobilenet.tflite", "unknown vision tower"),
    ],
)
def test_a_wrong_spec_says_what_to_give(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tower(spec)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "bitmar.data.towers.dinov2", raising=False)
    with pytest.raises(DependencyError, match="needs transformers: pip install"):
        load_tower("dinov2:small")


# --- our own, packed -------------------------------------------------------------------------------------


def test_the_tower_of_a_packed_model(tmp_path: Path) -> None:
    from bitmar.api import load

    path = Path(__file__).resolve().parents[2] / "src" / "bitmar" / "assets" / "bitmar-default.bitmar"
    tower, model = load_tower(f"bitmar:{path}"), load(path)
    photos = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = tower(photos)
    assert found.shape == (2, tower.grid**2, tower.dim) == (2, 49, 2560)
    assert model.engine.tower is not None
    for photo, features in zip(photos, found, strict=True):
        np.testing.assert_array_equal(features, model.engine.tower(photo))
    assert tower.fingerprint == model.container.checksum[:16]


def test_a_packed_model_without_a_tower() -> None:
    path = Path(__file__).resolve().parents[2] / "models" / "bitmar-text.bitmar"
    with pytest.raises(ConfigError, match="has no vision tower"):
        load_tower(f"bitmar:{path}")


# --- DINOv2 ----------------------------------------------------------------------------------------------


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.2]


def dinov2_folder(folder: Path, registers: int) -> Path:
    transformers = pytest.importorskip("transformers")
    numbers: dict[str, Any] = dict(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, mlp_ratio=2
    )
    torch.manual_seed(0)
    if registers:
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **numbers)
        transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    else:
        transformers.Dinov2Model(transformers.Dinov2Config(**numbers)).save_pretrained(folder)
    card = {"crop_size": {"height": 56, "width": 56}, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_gives_patch_tokens_only(tmp_path: Path, registers: int) -> None:
    from transformers import AutoModel

    folder = dinov2_folder(tmp_path, registers)
    tower = load_tower(f"dinov2:{folder}")
    assert (tower.size, tower.grid, tower.dim, tower.scale) == (56, 4, 24, None)
    assert tower.mean == tuple(MEAN)
    photos = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), dtype=np.uint8)
    pixels = (photos / 255.0 - MEAN) / STD
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()).last_hidden_state
    np.testing.assert_allclose(tower(photos), tokens[:, -16:].numpy(), rtol=1e-3, atol=1e-4)


def test_dinov2_fingerprint_follows_weights_and_preprocessing(tmp_path: Path) -> None:
    folder = dinov2_folder(tmp_path, 0)
    first = load_tower(f"dinov2:{folder}").fingerprint
    assert load_tower(f"dinov2:{folder}").fingerprint == first
    (folder / "preprocessor_config.json").write_text(json.dumps({"crop_size": 56}))
    assert load_tower(f"dinov2:{folder}").fingerprint != first


def test_an_absent_dinov2_says_what_to_give(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="a local folder"):
        load_tower(f"dinov2:{tmp_path}")


# --- BitViT ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model.vision_tower."])
def test_bitvit_from_a_tower_or_from_a_captioner(tmp_path: Path, prefix: str) -> None:
    from safetensors.torch import save_file

    from bitmar.model.vision import BitViT, BitViTConfig

    config = BitViTConfig(
        image_size=32,
        stem_channels=(8, 8),
        widths=(16, 16),
        depths=(1, 1),
        head_dim=8,
        mlp_ratio=2,
        out_dim=12,
    )
    torch.manual_seed(0)
    model = BitViT(config).eval()
    save_file({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    card = {"vision_tower": config.to_dict()} if prefix else config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=r"no preprocessor_config\.json"):
        load_tower(f"bitvit:{tmp_path}")
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    tower = load_tower(f"bitvit:{tmp_path}")
    assert (tower.size, tower.grid, tower.dim) == (32, 1, 12)
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255 - 0.5)
    np.testing.assert_allclose(tower(photos), expected.numpy(), rtol=1e-4, atol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps(card | {"vision_tower": {"withs": [16]}}))
    with pytest.raises(ConfigError, match="did you mean 'widths'"):
        load_tower(f"bitvit:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(card))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_tower(f"bitvit:{tmp_path}")


def test_a_packed_file_is_no_training_tower() -> None:
    with pytest.raises(ConfigError, match="checkpoint folder"):
        load_tower("bitvit:model.bitmar")
