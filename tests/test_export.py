"""Exporting a checkpoint that numpy alone has written, whole and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bitmar.api import load
from bitmar.core.config import ModelConfig
from bitmar.core.container import open_container
from bitmar.core.conv_config import ConvLayer, ConvTowerConfig
from bitmar.core.conv_weights import kernel_shapes, layer_name
from bitmar.core.errors import FormatError
from bitmar.core.image import load_photo, to_square
from bitmar.core.tensors import expected_tensors, linear_shapes
from bitmar.core.ternary import unpack2
from bitmar.core.tower_file import open_tower, write_tower
from bitmar.export import export_checkpoint
from bitmar.runtime.conv import ConvTower

WEIGHTS = "model.safetensors"
TOWER: dict[str, Any] = {
    "image_size": 64,
    "stem_channels": [5, 6],
    "widths": [6, 10],
    "depths": [1, 1],
    "head_dim": 2,
    "mlp_ratio": 2,
    "out_dim": 10,
}
CONFIG: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 12,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_heads": 2,
    "intermediate_size": 18,
    "vision_dim": 10,
    "vision_grid": 2,
    "vision_hidden": 7,
    "memory_slots": 4,
    "memory_dim": 6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vision_tower": TOWER,
}


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """make_checkpoint(name=value, ...) -> a folder as training leaves it, with these changes to CONFIG."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        values = {**CONFIG, **changes}
        save_file(_weights(ModelConfig.from_dict(values)), folder / WEIGHTS)
        # What transformers adds to config.json of its own is of no interest.
        extra = {"model_type": "bitmar", "architectures": ["BitMarForCausalLM"], "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps({**values, **extra}))
        preprocessing = {
            "size": 64,
            "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2] * 3,
            "resize": "squash",
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        characters = ["<pad>", "<bos>", "<eos>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(characters)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make


def _weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random tensors under the names and shapes of the torch model."""
    rng, weights = np.random.default_rng(0), {"logit_scale": np.array(2.6, np.float32)}
    shapes = {name: spec.shape for name, spec in expected_tensors(config).items() if not name.endswith(".scale")}
    for name, shape in {**shapes, **linear_shapes(config)}.items():
        if name.endswith("conv.weight"):
            shape = (shape[0], shape[1] // 9, 3, 3)
        weights[name] = rng.standard_normal(shape).astype(np.float32).reshape(shape)
    for norm in [name.removesuffix(".bias") for name in shapes if name.endswith(".bias")]:  # only batch norms
        size = len(weights[f"{norm}.bias"])
        weights[f"{norm}.running_mean"] = rng.standard_normal(size).astype(np.float32)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 2, size).astype(np.float32)
        weights[f"{norm}.num_batches_tracked"] = np.array(9)
    return weights


def small_tower(path: Path, *, channels: int = 10, stands_for: tuple[str, ...] = ()) -> Path:
    """A tower of 2x2 patches in a file."""
    layers = (
        ConvLayer("conv", (0,), 0.05, 128, "none", channels=6, kernel=3, stride=2, pad=(0, 1)),
        ConvLayer("conv", (1,), 0.05, 0, "relu", channels=channels, kernel=3, stride=2, pad=(0, 1)),
    )
    config, rng = ConvTowerConfig(8, 1 / 128, 128, "int8", layers), np.random.default_rng(2)
    tensors: dict[str, np.ndarray] = {}
    for i, rows, columns in kernel_shapes(config):
        tensors[f"{layer_name(i)}.weight"] = rng.integers(-127, 128, (rows, columns), dtype=np.int8)
        tensors[f"{layer_name(i)}.scale"] = np.full(rows, 0.01, np.float32)
        tensors[f"{layer_name(i)}.bias"] = rng.normal(0, 1, rows).astype(np.float32)
    vision = {"size": 8, "resize": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    write_tower(path, config, tensors, vision=vision, card={"licence": "MIT", "stands_for": list(stands_for)})
    return path


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Load the weights of a checkpoint, change them, save them."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    return folder


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_matrices_become_their_absmean_codes(checkpoint: Path, tmp_path: Path) -> None:
    container = open_container(export_checkpoint(checkpoint, tmp_path / "m.bitmar"))
    weights = load_file(checkpoint / WEIGHTS)
    for name in ("lm_head", "model.encoder.layers.0.attn.qkv_proj", "model.vision_tower.stem.0.conv"):
        weight = weights[f"{name}.weight"].reshape(len(weights[f"{name}.weight"]), -1)
        gamma = np.abs(weight).mean()
        assert container.tensors[f"{name}.scale"] == pytest.approx([gamma], rel=1e-5)
        codes = unpack2(container.tensors[f"{name}.weight"], weight.shape[1])
        np.testing.assert_array_equal(codes, np.clip(np.rint(weight / gamma), -1, 1))


def test_the_embedding_keeps_seven_bits(checkpoint: Path, tmp_path: Path) -> None:
    tensors = open_container(export_checkpoint(checkpoint, tmp_path / "m.bitmar")).tensors
    table = load_file(checkpoint / WEIGHTS)["model.embed_tokens.weight"]
    stored = tensors["model.embed_tokens.weight"] * tensors["model.embed_tokens.scale"]
    assert np.abs(stored - table).max() <= np.abs(table).max() / 127 / 2 * 1.001


def test_batch_norms_become_a_factor_and_an_offset(checkpoint: Path, tmp_path: Path) -> None:
    tensors = open_container(export_checkpoint(checkpoint, tmp_path / "m.bitmar")).tensors
    weights = load_file(checkpoint / WEIGHTS)
    for norm in ("model.vision_tower.embed_norm", "model.vision_tower.stem.2.second.norm"):
        x = np.random.default_rng(0).standard_normal(len(weights[f"{norm}.bias"]))
        scaled = (x - weights[f"{norm}.running_mean"]) / np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
        expected = scaled * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]
        np.testing.assert_allclose(x * tensors[f"{norm}.weight"] + tensors[f"{norm}.bias"], expected, rtol=1e-4)


def test_a_photo_becomes_text_without_torch(checkpoint: Path, tmp_path: Path) -> None:
    """Export, load and caption in a process that cannot import torch or transformers."""
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # so that an import of either fails
import numpy as np, bitmar
from bitmar.core.tower_file import open_tower, write_tower
from bitmar.export import export_checkpoint
from bitmar.api import load
from bitmar.runtime.conv import ConvTower
model = bitmar.load(export_checkpoint({str(checkpoint)!r}, {str(tmp_path / "m.bitmar")!r}))
print(len(model.generate("", np.zeros((20, 30, 3), np.uint8), max_tokens=5).tokens))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= 5


def test_an_unquantised_model_keeps_its_matrices(make_checkpoint: Any, tmp_path: Path) -> None:
    folder = make_checkpoint(quantization="none")
    tensors = open_container(export_checkpoint(folder, tmp_path / "m.bitmar")).tensors
    np.testing.assert_array_equal(tensors["lm_head.weight"], load_file(folder / WEIGHTS)["lm_head.weight"])


def test_metadata_comes_from_the_folder(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "card.json").write_text(json.dumps({"licence": "research"}))
    container = open_container(export_checkpoint(checkpoint, tmp_path / "m.bitmar"))
    assert container.card == {"licence": "research"}
    assert container.vision["size"] == 64 and container.vision["mean"] == [0.5, 0.4, 0.3]
    assert container.vision["tower"] == "bitvit" and container.vision["resize"] == "squash"
    assert container.tokenizer_json == (checkpoint / "tokenizer.json").read_text()
    given = open_container(export_checkpoint(checkpoint, tmp_path / "n.bitmar", card={"name": "mine"}))
    assert given.card == {"name": "mine"}


def test_half_precision_checkpoints_are_read(checkpoint: Path, tmp_path: Path) -> None:
    rewrite(checkpoint, lambda w: w.update({k: v.astype(np.float16) for k, v in w.items()}))
    assert export_checkpoint(checkpoint, tmp_path / "m.bitmar").is_file()


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "preprocessor_config.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "binary"])
def test_an_incomplete_checkpoint_is_named(checkpoint: Path, tmp_path: Path, name: str, damage: str) -> None:
    path = checkpoint / name
    if damage == "gone":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "binary": b"\xff\xfe\x00" * 9}[damage])
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        export_checkpoint(checkpoint, tmp_path / "m.bitmar")
    assert not (tmp_path / "m.bitmar").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("lm_head.weight"), "'lm_head.weight' is missing"),
        (lambda w: w.pop("model.vision_tower.stem.0.norm.running_mean"), "running_mean' is missing"),
        (lambda w: w.update(extra=np.zeros(2, np.float32)), "does not know, such as 'extra'"),
        (
            lambda w: w.update({"lm_head.weight": np.zeros((3, 4), np.float32)}),
            r"'lm_head.weight' is \(3, 4\)",
        ),
        (lambda w: w["model.memory.slots"].fill(np.nan), "not finite: the training diverged"),
        (lambda w: w.update({"model.memory.slots": np.zeros((2, 2), np.float32)}), "model.memory.slots"),
        (lambda w: w.update({"model.fusion.norm.weight": np.zeros(12, np.int32)}), "save the master weights"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        export_checkpoint(rewrite(checkpoint, change), tmp_path / "m.bitmar")
    assert not (tmp_path / "m.bitmar").exists()


def test_the_config_of_something_else_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    rewrite_json(checkpoint / "config.json", model_type="gpt2")
    with pytest.raises(FormatError, match="'gpt2'"):
        export_checkpoint(checkpoint, tmp_path / "m.bitmar")
    rewrite_json(checkpoint / "config.json", model_type="bitmar", hidden_size=-1)
    with pytest.raises(FormatError, match="hidden_size"):
        export_checkpoint(checkpoint, tmp_path / "m.bitmar")


@pytest.mark.parametrize("stands_for", [(), ("1234",)])
def test_a_tower_is_packed_into_a_model_of_its_features(
    make_checkpoint: Callable[..., Path], tmp_path: Path, stands_for: tuple[str, ...]
) -> None:
    tower = open_tower(small_tower(tmp_path / "tower.bitmar", stands_for=stands_for))
    folder = make_checkpoint(vision_tower=None)
    preprocessing = json.loads((folder / "preprocessor_config.json").read_text())
    preprocessing |= {"feature_hash": stands_for[0] if stands_for else tower.fingerprint, "teacher": "a teacher"}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    model = load(export_checkpoint(folder, tmp_path / "m.bitmar", tower=tower.path))
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert model.caption(photo) == load(model.path, engine="numpy").caption(photo)
    features = ConvTower(tower.config, tower.tensors)(to_square(load_photo(photo), 8))
    image = model.encode_image(photo)
    np.testing.assert_array_equal(image.tokens, model.encode_image(features=features).tokens)
    np.testing.assert_array_equal(image.pooled, features.mean(axis=0))
    assert model.vision["tower"] == "conv" and model.card["vision_tower"]["licence"] == "MIT"


def test_another_tower_is_refused(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_checkpoint(vision_tower=None)
    wide, right = small_tower(tmp_path / "wide.bitmar", channels=11), small_tower(tmp_path / "right.bitmar")
    with pytest.raises(FormatError, match=r"wide.bitmar gives 2x2 patches of 11, .* 2x2 of 10"):
        export_checkpoint(folder, tmp_path / "m.bitmar", tower=wide)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "feature_hash": "abcd", "teacher": "dinov2:small"}))
    with pytest.raises(FormatError, match=r"features of dinov2:small \(abcd\)"):
        export_checkpoint(folder, tmp_path / "m.bitmar", tower=right)
    with pytest.raises(FormatError, match="a whole model"):
        export_checkpoint(folder, tmp_path / "m.bitmar", tower=export_checkpoint(folder, tmp_path / "plain.bitmar"))
    assert not (tmp_path / "m.bitmar").exists()


def test_a_model_with_a_tower_takes_no_other(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="tower of its own"):
        export_checkpoint(checkpoint, tmp_path / "m.bitmar", tower=small_tower(tmp_path / "tower.bitmar"))
