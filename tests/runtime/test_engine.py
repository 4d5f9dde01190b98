"""The numpy engine against the torch model (invariant 5), and against itself in pieces (invariant 3)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bitmar.runtime.layers import Linear

# Both halves compute in float32 and their integers are equal, but the last bits of norms and softmaxes are
# not. Where such a bit moves an activation over a rounding edge, an int8 code differs by 1 and the logits
# behind it, which span about 15 here, move in the second decimal. So nearly all agree to the last digits.
USUAL, LARGEST = 1e-4, 0.25

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "literal": {"write_rule": "literal"},
    "add": {"memory_integration": "add"},
    "concat": {"memory_integration": "concat", "write_rule": "literal"},
    "off": {"memory_integration": "off"},
    "learned pooling": {"query_pooling": "learned", "memory_dim": 36},
    "gelu": {"activation": "gelu", "vision_pool": 1},
    "unquantised": {"quantization": "none"},
    "wide window": {"attention_window": 100, "attention_sinks": 0},
    "bitvit": {"tower": "two stages"},
    "bitvit of one stage": {"tower": "one stage, gelu", "vision_grid": 6},
}


@pytest.fixture(params=list(VARIANTS), ids=list(VARIANTS))
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> Any:
    return make_pair(**VARIANTS[request.param])


def ids(length: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 276, length)


def torch_logits(pair: Any, tokens: np.ndarray, **inputs: Any) -> np.ndarray:
    import torch

    tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in inputs.items()}
    with torch.no_grad():
        return pair.torch_model(torch.from_numpy(tokens)[None], **tensors).logits[0].numpy()


def assert_agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    error = np.abs(ours - theirs)
    assert np.median(error) < USUAL and error.max() < LARGEST, f"{np.median(error)}, at most {error.max()}"
    assert np.median(error) < USUAL and error.max() < LARGEST, f"{np.median(error)}, at most {error.max()}"


@pytest.mark.parametrize("length", [1, 8, 40])
def test_logits_equal_torch(pair: Any, length: int) -> None:
    image, tokens = pair.image(), ids(length)
    ours = pair.bitmar.logits(tokens, pair.bitmar.encode_image(features=image["vision_features"][0]))
    assert_agree(ours, torch_logits(pair, tokens, **image))


def test_logits_without_an_image_equal_torch(pair: Any) -> None:
    assert_agree(pair.bitmar.logits(ids(20)), torch_logits(pair, ids(20)))


def test_tokens_one_by_one_equal_all_at_once(pair: Any) -> None:
    """40 tokens through a window of 7: every key but the sinks is evicted several times over."""
    engine = pair.bitmar.engine
    image = pair.bitmar.encode_image(features=pair.image()["vision_features"][0])
    tokens, state = ids(40), engine.start(image)
    streamed = np.concatenate([engine.head(state.forward(tokens[None, i : i + 1])[0]) for i in range(40)])
    assert_agree(streamed, pair.bitmar.logits(tokens, image))
    config = pair.bitmar.config
    assert len(state.positions) == min(40, config.attention_sinks + config.attention_window)


def test_pieces_of_any_length_equal_all_at_once(pair: Any) -> None:
    engine, tokens = pair.bitmar.engine, ids(41)
    state = engine.start()
    cuts = [0, 3, 4, 17, 18, 29, 41]
    parts = [tokens[None, a:b] for a, b in pairwise(cuts)]
    pieces = np.concatenate([engine.head(state.forward(part)[0]) for part in parts])
    assert_agree(pieces, pair.bitmar.logits(tokens))


def test_a_later_token_changes_no_earlier_logit(pair: Any) -> None:
    tokens = ids(30)
    changed = tokens.copy()
    changed[17:] = ids(13, seed=9)
    np.testing.assert_array_equal(pair.bitmar.logits(tokens)[:17], pair.bitmar.logits(changed)[:17])


def test_sequences_of_a_batch_do_not_touch_each_other(pair: Any) -> None:
    engine, rows = pair.bitmar.engine, np.stack([ids(12, seed) for seed in range(3)])
    together = engine.head(engine.start().forward(rows))
    for row, logits in zip(rows, together, strict=True):
        assert_agree(logits, pair.bitmar.logits(row))


def test_a_call_leaves_nothing_behind(pair: Any) -> None:
    before = pair.bitmar.logits(ids(9))
    pair.bitmar.generate("the dog", max_tokens=5)
    np.testing.assert_array_equal(pair.bitmar.logits(ids(9)), before)


def test_integers_of_a_linear_layer_are_exact() -> None:
    rng = np.random.default_rng(0)
    codes, x = rng.integers(-1, 2, (30, 4096)), rng.integers(-127, 128, (5, 4096))
    product = Linear(codes.astype(np.float32), np.float32(1)).product(x.astype(np.float32))
    np.testing.assert_array_equal(product.astype(np.int64), x @ codes.T)


def test_ternary_codes_and_activations_equal_torch(make_pair: Callable[..., Any]) -> None:
    """The integer part bit for bit: weight codes from the file, activation codes, and the sums of their
    products.
    """
    import torch

    from bitmar.core.ternary import quantize_activations
    from bitmar.model.bitlinear import BitLinear, quantize_activation, quantize_weight

    pair = make_pair()
    layer = pair.torch_model.model.decoder.layers[0].mlp.up_proj
    assert isinstance(layer, BitLinear)
    ours = pair.bitmar.engine.decoder.blocks[0].up_proj
    codes, gamma = quantize_weight(layer.weight)
    np.testing.assert_array_equal(ours.weight, codes.numpy())
    assert ours.scale == pytest.approx(gamma.item(), rel=1e-6)
    x = np.random.default_rng(0).standard_normal((50, layer.in_features)).astype(np.float32)
    q, _ = quantize_activations(x)
    torch_q, _ = quantize_activation(torch.from_numpy(x))
    np.testing.assert_array_equal(q, torch_q.numpy())
    np.testing.assert_array_equal(ours.product(q.astype(np.float32)), torch_q.numpy() @ codes.numpy().T)
