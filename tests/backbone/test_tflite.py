"""Integer .tflite classifiers: against the interpreter that they were made for, and whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="a .tflite file needs ai-edge-litert")

from bitmar.backbone import import_backbone
from bitmar.backbone.tflite import read_tflite
from bitmar.core.errors import ConfigError, DataError, FormatError
from bitmar.core.tower_file import open_tower
from bitmar.data.towers import load_tower
from bitmar.runtime.conv import ConvTower

from .tflite_models import Builder, classifier


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net, last = classifier()
    return net.write(tmp_path_factory.mktemp("tflite") / "small.tflite", net.pool(last))


def test_features_are_the_interpreters(path: Path, tmp_path: Path) -> None:
    tower = open_tower(import_backbone(str(path), tmp_path / "out" / "t.bitmar", licence="MIT"))
    photos = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    theirs = load_tower(f"litert:{path}")
    expected = theirs(photos)
    found = np.stack([ConvTower(tower.config, tower.tensors)(photo) for photo in photos])
    steps = np.abs(expected - found) / theirs.scale
    # The interpreter adds in fixed point, which rounds ties otherwise; one more layer makes a few steps of that.
    assert steps.mean() < 0.6 and (steps < 0.5).mean() > 0.6 and len(np.unique(found)) > 20
    assert (_cosines(expected, found) > 0.999).all()
    assert (tower.config.grid, tower.config.out_dim) == (theirs.grid, theirs.dim) == (2, 24)
    assert theirs.fingerprint in tower.card["stands_for"] and tower.card["licence"] == "MIT"
    packed = load_tower(f"bitmar:{tower.path}")
    np.testing.assert_array_equal(packed(photos), found)
    assert packed.scale == pytest.approx(theirs.scale) and packed.fingerprint == tower.fingerprint


def test_weights_that_fit_int8_are_kept_exactly(path: Path) -> None:
    from bitmar.backbone.integers import quantize
    from bitmar.core.conv_weights import layer_name

    backbone = read_tflite(path)
    config, tensors = quantize(backbone)
    for i, layer in enumerate(backbone.layers, 1):
        if layer.weight is not None:
            weight = layer.weight.reshape(len(layer.weight), -1)
            scale = tensors[f"{layer_name(i)}.scale"][:, None].astype(np.float64)
            np.testing.assert_allclose(tensors[f"{layer_name(i)}.weight"] * scale, weight, rtol=1e-6)
    assert [layer.op for layer in config.layers] == ["conv", "depthwise", "add", "conv"]


def activation(name: str) -> Callable[[Builder], None]:
    def change(net: Builder) -> None:
        net.graph.operators[0].builtinOptions.fusedActivationFunction = {"tanh": 4, "sign": 5}[name]

    return change


def tensor(name: str, **values: Any) -> Callable[[Builder], None]:
    def change(net: Builder) -> None:
        found = next(each for each in net.graph.tensors if each.name == name)
        for key, value in values.items():
            setattr(found.quantization if key in ("scale", "zeroPoint") else found, key, value)

    return change


def option(name: str, value: int) -> Callable[[Builder], None]:
    return lambda net: setattr(net.graph.operators[0].builtinOptions, name, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (activation("tanh"), "'stem/weight' has an activation .number 4. that the kernels lack"),
        (option("strideW", 1), "'stem/weight' has uneven strides"),
        (option("dilationHFactor", 2), "'stem/weight' has .* a dilation"),
        (tensor("stem/weight", type=0), "'stem/weight'.*not integers"),
        (tensor("stem/weight", shape=[3, 3, 3, 16]), "'stem/weight' has .*weights .* for a map of 3 channels"),
        (tensor("stem/weight", shape=[16, 3, 3, 4]), "'stem/weight'.*cut off"),
        (tensor("stem/weight", scale=[0.1] * 5), "'stem/weight' has 5 scales for 16"),
        (tensor("stem/weight", scale=[float("nan")]), "'stem/weight' holds values that are not finite"),
        (tensor("middle", scale=[0.1, 0.2]), "'middle' is not quantised to 8 bits with one scale"),
        (tensor("middle", scale=[0.0]), "layer 2.*scale must lie"),
        (tensor("middle", zeroPoint=[300]), "layer 2.*zero must be"),
        (tensor("middle", type=1), "'middle' is not quantised"),
        (tensor("photo", shape=[1, 8, 8, 1]), "not one square RGB photo"),
        (lambda net: net.graph.operators[0].inputs.pop(), "'stem/weight' has no bias"),
        (lambda net: net.graph.operators.pop(0), "reads 'stem', which is no map before it"),
        (lambda net: net.graph.operators.pop(), "no average pooling"),
        (lambda net: net.model.subgraphs.clear(), "no graph"),
    ],
)
def test_what_the_engine_lacks_is_named(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    net, last = classifier()
    with pytest.raises(FormatError, match=rf"bad\.tflite: .*{message}"):
        import_backbone(str(net.write(tmp_path / "bad.tflite", net.pool(last), change)), tmp_path / "t.bitmar")
    assert not (tmp_path / "t.bitmar").exists()


def test_an_operation_before_the_pooling_that_the_engine_lacks(tmp_path: Path) -> None:
    net, last = classifier()
    bad = net.write(tmp_path / "bad.tflite", net.pool(net.logistic("squashed", last)))
    with pytest.raises(FormatError, match="'squashed' is a LOGISTIC"):
        read_tflite(bad)


def test_files_that_are_none(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        read_tflite(tmp_path / "none.tflite")
    content = path.read_bytes()
    for what, cut in {"empty": b"", "photo": b"\xff\xd8" * 99, "cut": content[:200], "tail": content[:-300]}.items():
        (tmp_path / f"{what}.tflite").write_bytes(cut)
        with pytest.raises(FormatError, match=rf"{what}\.tflite"):
            read_tflite(tmp_path / f"{what}.tflite")


def test_options_that_do_not_fit(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights 'int7' \(did you mean 'int\d'"):
        import_backbone(str(path), tmp_path / "t.bitmar", weights="int7")
    with pytest.raises(ConfigError, match="takes photos of 8 pixels, not 16"):
        import_backbone(str(path), tmp_path / "t.bitmar", size=16)
    with pytest.raises(ConfigError, match="names 3 backbones"):
        import_backbone(f"{path}+{path}+{path}", tmp_path / "t.bitmar")


def test_a_pair_gives_both_features(path: Path, tmp_path: Path) -> None:
    one = open_tower(import_backbone(str(path), tmp_path / "one.bitmar"))
    two = open_tower(import_backbone(f"{path}+{path}", tmp_path / "two.bitmar"))
    photo = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    features = ConvTower(one.config, one.tensors)(photo)
    both = ConvTower(two.config, two.tensors)(photo)
    np.testing.assert_array_equal(both, np.concatenate([features, features], axis=1))


def test_the_real_backbone(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "vision_teacher" / "mobilenet_edgetpu_224_1.0_uint8.tflite"
    tower = open_tower(import_backbone(str(source), tmp_path / "t.bitmar"))
    assert (tower.config.image_size, tower.config.grid, tower.config.out_dim) == (224, 7, 1280)
    theirs, ours = load_tower(f"litert:{source}"), load_tower(f"bitmar:{tower.path}")
    photos = _photos(shared_data, 4)
    expected, found = theirs(photos).mean(axis=1), ours(photos).mean(axis=1)
    assert _cosines(expected, found).mean() > 0.995
    assert tower.path.stat().st_size < 3.1e6


def _photos(shared_data: Path, count: int) -> np.ndarray:
    from itertools import islice

    from bitmar.core.image import load_photo, to_square
    from bitmar.data.sources import iter_webdataset

    samples = islice(iter_webdataset(str(shared_data / "captions" / "coco-val-00000.tar")), count)
    return np.stack([to_square(load_photo(sample.image), 224) for sample in samples])


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosines: np.ndarray = (a * b).sum(axis=-1) / lengths
    return cosines
