from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.config import ModelConfig
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.errors import ConfigError

from ..towers import random_tower

CONV = {
    "op": "conv",
    "from": [0],
    "channels": 4,
    "kernel": 3,
    "stride": 2,
    "pad": [0, 1],
    "activation": "relu",
    "scale": 0.1,
    "zero": 0,
}
DEPTHWISE = {key: value for key, value in CONV.items() if key != "channels"} | {"op": "depthwise", "from": [1]}
ADD = {"op": "add", "from": [1, 2], "activation": "none", "scale": 0.1, "zero": 3}
TOWER = {"kind": "conv", "image_size": 8, "scale": 0.01, "zero": 128, "weights": "int8"}


def tower(*layers: Any, **changes: Any) -> dict[str, Any]:
    return {**TOWER, "layers": list(layers), **changes}


@given(st.integers(0, 2**32 - 1))
def test_json_and_back(seed: int) -> None:
    config, _ = random_tower(np.random.default_rng(seed))
    assert ConvTowerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_model_carries_its_tower() -> None:
    values = {"vision_tower": tower(CONV), "vision_grid": 4, "vision_dim": 4}
    config = ModelConfig.from_dict(values)
    assert isinstance(config.vision_tower, ConvTowerConfig)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="4x4 patches of 4"):
        ModelConfig.from_dict({**values, "vision_grid": 7})


def test_small_kernels_may_stay_int8() -> None:
    config = ConvTowerConfig.from_dict(tower(CONV, weights="int4", int8_below=108))
    assert [config.stored_as(4, columns) for columns in (26, 27)] == ["int8", "int4"]
    assert ConvTowerConfig.from_dict(tower(CONV)).int8_below == 0  # as in files that do not say


def test_limits_of_the_activations() -> None:
    layers = [{**CONV, "activation": name, "zero": 5} for name in ("none", "relu", "relu6")]
    config = ConvTowerConfig.from_dict(tower(*layers))
    assert [layer.limits for layer in config.layers] == [(0, 255), (5, 255), (5, 65)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (tower(), "0 layers"),
        (tower(CONV, kind="vit"), "kind must be one of conv"),
        (tower(CONV, layers="conv"), "layers must be a list"),
        (tower(CONV, layers=[{}] * 5000), "5000 layers"),
        (tower(CONV, size=3), "unknown vision_tower key 'size'"),
        ({key: value for key, value in tower(CONV).items() if key != "zero"}, "needs the key 'zero'"),
        (tower(CONV, int8_below=-1), "int8_below"),
        (tower(CONV, weights="int3"), "weights must be one of .*did you mean"),
        (tower(CONV, image_size=10**9), "image_size"),
        (tower(CONV, image_size=True), "image_size"),
        (tower(CONV, scale=0), "scale must lie"),
        (tower(CONV, scale=float("nan")), "scale must lie"),
        (tower(CONV, zero=256), "zero"),
        (tower(7), "layer 1: must be an object"),
        (tower({**CONV, "op": "softmax"}), "layer 1: op must be one of"),
        (tower({**CONV, "op": ["conv"]}), "layer 1: op must be one of"),
        (tower({**CONV, "activation": "swish"}), r"layer 1 \(conv\): activation must be one of none, relu, relu6"),
        (tower({**CONV, "activation": None}), "activation must be one of"),
        (tower({**CONV, "activaton": "relu"}), "did you mean 'activation'"),
        (tower({**CONV, "scale": 1e300}), "layer 1.*scale"),
        (tower({**CONV, "zero": -1}), "layer 1.*zero"),
        (tower({**CONV, "from": [1]}), "layer 1.*from"),
        (tower({**CONV, "from": [-1]}), "layer 1.*from"),
        (tower({**CONV, "from": [0, 0]}), "reads 2 maps, not 1"),
        (tower({**CONV, "from": 0}), "from must be a list"),
        (tower({**CONV, "from": ["a"]}), "from must be a whole number"),
        (tower({**CONV, "pad": [1]}), "pad must be two numbers"),
        (tower({**CONV, "pad": [3, 0]}), "pad must be"),
        (tower({**CONV, "stride": 0}), "stride"),
        (tower({**CONV, "kernel": 9, "pad": [0, 0]}), "does not fit a map of 8x8x3"),
        (tower({**CONV, "channels": 0}), "channels"),
        (tower({**CONV, "channels": 9000}, {**CONV, "from": [1]}), "layer 2.*sums 81000 products"),
        (tower(CONV, DEPTHWISE, ADD), r"layer 3 \(add\): adds maps of different shapes, 4x4x4 and 2x2x4"),
        (tower(CONV, {"op": "concat", "from": [1, 0], "scale": 1, "zero": 0}), "different sides"),
        (tower(CONV, {"op": "concat", "from": [1, 1], "scale": 1, "zero": 3}), "zero points"),
    ],
)
def test_refuses_and_names_the_layer(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvTowerConfig.from_dict(values)
