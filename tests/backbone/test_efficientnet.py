"""EfficientNet-Lite from its state dict: against PyTorch, and with layers that are missing, turned or foreign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bitmar.backbone import import_backbone
from bitmar.backbone.efficientnet import read_efficientnet
from bitmar.backbone.ranges import calibrate, float_maps
from bitmar.backbone.state_dict import read_state_dict
from bitmar.core.errors import ConfigError, DataError, FormatError
from bitmar.core.tower_file import open_tower
from bitmar.runtime.conv import ConvTower

Weights = dict[str, np.ndarray]
WIDTHS = (5, 6, 7, 8, 9, 10, 11)  # of the stages


def photo(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def network(seed: int = 0) -> Weights:
    """A network of the architecture, of few channels and one or two blocks a stage, with lively statistics."""
    rng, made, width = np.random.default_rng(seed), Weights(), 4

    def add(conv: str, norm: str, *shape: int) -> None:
        fan = int(np.prod(shape[1:]))
        made[f"{conv}.weight"] = rng.normal(0, 2 * fan**-0.5, shape).astype(np.float32)
        made[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        made[f"{norm}.bias"] = rng.normal(0.5, 0.5, shape[0]).astype(np.float32)
        made[f"{norm}.running_mean"] = rng.normal(0, 0.3, shape[0]).astype(np.float32)
        made[f"{norm}.running_var"] = rng.uniform(0.5, 2, shape[0]).astype(np.float32)
        made[f"{norm}.num_batches_tracked"] = np.array(9)

    add("_conv_stem", "_bn0", width, 3, 3, 3)
    blocks = [out for stage, out in enumerate(WIDTHS) for _ in range(2 if stage in (1, 5) else 1)]
    for i, out in enumerate(blocks):
        name, wide, kernel = f"_blocks.{i}", width if i == 0 else 3 * width, 5 if i in (3, 6) else 3
        if i:
            add(f"{name}._expand_conv", f"{name}._bn0", wide, width, 1, 1)
        add(f"{name}._depthwise_conv", f"{name}._bn1", wide, 1, kernel, kernel)
        add(f"{name}._project_conv", f"{name}._bn2", out, wide, 1, 1)
        width = out
    add("_conv_head", "_bn1", 20, width, 1, 1)
    return made | {"_fc.weight": np.zeros((5, 20), np.float32), "_fc.bias": np.zeros(5, np.float32)}


def saved(folder: Path, weights: Weights) -> Path:
    path = folder / "net.safetensors"
    save_file(weights, path)
    return path


def test_the_quantised_network_follows_the_floats(tmp_path: Path) -> None:
    path = saved(tmp_path, network())
    tower = open_tower(
        import_backbone(
            str(path), tmp_path / "t.bitmar", size=64, photos=lambda side: [photo(side, seed) for seed in range(4)]
        )
    )
    assert (tower.config.grid, tower.config.out_dim, tower.vision["size"]) == (2, 20, 64)
    backbone = read_efficientnet(path, read_state_dict(path), 64)
    *_, expected = float_maps(backbone, photo(64, 9))
    found = ConvTower(tower.config, tower.tensors)(photo(64, 9))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    assert sum(layer.op == "add" for layer in tower.config.layers) == 2


def test_the_floats_are_those_of_the_package() -> None:
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="the original network is a package of its own")
    from bitmar.backbone.efficientnet import _build
    from bitmar.backbone.state_dict import StateDict

    torch.manual_seed(0)
    net = package.EfficientNet.from_name("efficientnet-lite2").eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
        image = photo(96)
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        theirs = net.extract_features((pixels - 0.498) / 0.498)[0].permute(1, 2, 0).numpy()
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    backbone = _build(StateDict(state), 96)
    *_, ours = float_maps(backbone, image)
    inner = (slice(1, -1), slice(1, -1))  # zero of a byte is 127 / 255, not 0.498: at the frame that shows
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.02 * theirs.max())


def without(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: np.ascontiguousarray(change(weights[name]))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.clear() or w.update(conv=np.zeros(3, np.float32)),
            "neither EfficientNet-Lite .'_conv_stem.weight'.",
        ),
        (without("_blocks.4._depthwise_conv.weight"), "'_blocks.4._depthwise_conv.weight' is missing"),
        (without("_blocks.4._bn1.running_var"), "'_blocks.4._bn1.running_var' is missing"),
        (without("_conv_head.weight"), "'_conv_head.weight' is missing"),
        (changed("_blocks.3._project_conv.weight", lambda w: w.transpose(1, 0, 2, 3)), "_blocks.3"),
        (
            changed("_blocks.3._expand_conv.weight", lambda w: w.transpose(1, 0, 2, 3)),
            "'_blocks.3._expand_conv.weight'",
        ),
        (changed("_blocks.3._bn1.bias", lambda w: w[1:]), "'_blocks.3._bn1.bias' has the shape"),
        (
            changed("_blocks.2._bn0.bias", lambda w: w * np.nan),
            "'_blocks.2._bn0.bias' holds values that are not finite",
        ),
        (changed("_blocks.2._bn0.running_var", lambda w: -w), "'_blocks.2._bn0' has a negative variance"),
        (lambda w: w.update({"_conv_stem.bias": np.zeros(4, np.float32)}), "'_conv_stem' has a bias beside"),
        (lambda w: w.update({"_blocks.1._se_reduce.weight": np.zeros(4, np.float32)}), "squeeze-and-excitation"),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith("_blocks.5.")], "blocks are missing"),
        (lambda w: [w.pop(n) for n in list(w) if n.startswith(("_blocks.7.", "_blocks.8."))], "make 6 stages"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[Weights], object], message: str) -> None:
    weights = network()
    change(weights)
    path = saved(tmp_path, weights)
    with pytest.raises(FormatError, match=rf"net\.safetensors: .*{message}"):
        import_backbone(str(path), tmp_path / "t.bitmar", photos=lambda side: [photo(side)])


def test_floats_need_photos(tmp_path: Path) -> None:
    path = saved(tmp_path, network())
    with pytest.raises(ConfigError, match="--calibrate"):
        import_backbone(str(path), tmp_path / "t.bitmar")
    with pytest.raises(DataError, match="no photo"):
        calibrate(read_efficientnet(path, read_state_dict(path), 64), [])
    with pytest.raises(DataError, match="no such file"):
        import_backbone(str(tmp_path / "none.safetensors"), tmp_path / "t.bitmar")
    with pytest.raises(FormatError, match="not a state dict"):
        (tmp_path / "net.onnx").write_bytes(b"onnx")
        import_backbone(str(tmp_path / "net.onnx"), tmp_path / "t.bitmar")
    with pytest.raises(ConfigError, match="give a number"):
        import_backbone("efficientnet-lite:9", tmp_path / "t.bitmar")


def test_a_channel_that_is_all_but_off_keeps_its_bias(tmp_path: Path) -> None:
    weights = network()
    weights["_blocks.1._bn0.weight"][2] = 1e-20
    tower = open_tower(
        import_backbone(
            str(saved(tmp_path, weights)), tmp_path / "t.bitmar", size=64, photos=lambda side: [photo(side)]
        )
    )
    _, _, _, _, wide, *_ = ConvTower(tower.config, tower.tensors).maps(photo(64))
    scale, zero = tower.config.map_scale(4)
    bias = weights["_blocks.1._bn0.bias"][2].clip(0, 6)
    np.testing.assert_allclose(scale * (wide[..., 2].astype(float) - zero), bias, atol=scale)
