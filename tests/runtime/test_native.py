"""The native engine against numpy's, and every kernel path against the reference and against each other."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError
from bitmar.core.ternary import pack2, quantize_activations
from bitmar.runtime.layers import log_softmax
from bitmar.runtime.memory import Write
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.sampling import choose, largest, penalize

native = pytest.importorskip("bitmar._native", reason="the native engine was not built: no C++ compiler was found")

PATHS = [name for name, reason in native.paths() if not reason]
MODELS: list[dict[str, Any]] = [
    {},
    {"memory_integration": "concat", "query_pooling": "learned"},
    {"memory_integration": "add", "write_rule": "literal"},
    {"memory_integration": "off"},
    {"quantization": "none", "activation": "gelu"},
    {"tower": "two stages"},
]
# Activations are rounded to int8, a staircase: what attention's own integers round differently moves whole steps, and
# in a network this narrow a step is large.
TOLERANCE = 0.3
TYPICAL = 0.05


def ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, 276, count)


@pytest.fixture(params=MODELS, ids=str)
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> Any:
    return make_pair(**request.param)


def both(pair: Any, kernels: str = "") -> tuple[BitMar, BitMar]:
    return pair.bitmar, pair.native(kernels)


# The integer part, bit for bit.


@given(
    st.sampled_from(PATHS),
    st.integers(1, 150),
    st.integers(1, 90),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_sums_equal_plain_integer_products(kernels: str, rows: int, columns: int, tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (rows, columns), dtype=np.int8)
    codes = rng.integers(-127, 128, (tokens, columns), dtype=np.int8)
    expected = codes.astype(np.int32) @ weights.T.astype(np.int32)
    np.testing.assert_array_equal(native.ternary_sums(kernels, pack2(weights), columns, codes), expected)


@pytest.mark.parametrize("kernels", PATHS)
@pytest.mark.parametrize("weight, activation", [(1, 127), (1, -127), (-1, 127), (-1, -127)])
def test_the_largest_sums_do_not_overflow(kernels: str, weight: int, activation: int) -> None:
    columns = 20_000
    packed = pack2(np.full((70, columns), weight, np.int8))
    sums = native.ternary_sums(kernels, packed, columns, np.full((2, columns), activation, np.int8))
    np.testing.assert_array_equal(sums, np.full((2, 70), weight * activation * columns))


@given(st.sampled_from(PATHS), st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=70))
def test_activations_are_rounded_as_the_reference_does(kernels: str, values: list[float]) -> None:
    x = np.array(values, np.float32)
    codes, scale = native.quantize(kernels, x)
    expected, expected_scale = quantize_activations(x)
    np.testing.assert_array_equal(codes, expected)
    assert np.float32(scale) == expected_scale[0]


# The network.


def test_logits_are_numpys_up_to_rounding(pair: Any) -> None:
    numpy_model, fast = both(pair)
    tokens, features = ids(60), pair.image()["vision_features"][0]
    for image in (None, features):
        pictures = [None if image is None else m.encode_image(features=image) for m in (numpy_model, fast)]
        expected, found = numpy_model.logits(tokens, pictures[0]), fast.logits(tokens, pictures[1])
        difference = np.abs(found - expected)
        assert difference.max() < TOLERANCE and np.median(difference) < TYPICAL < 0.1 * np.abs(expected).max()
        np.testing.assert_allclose(fast.score_ids(tokens, pictures[1]), _log_probabilities(found, tokens), atol=1e-4)


def _log_probabilities(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    shifted = logits[:-1].astype(np.float64) - logits[:-1].max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))[np.arange(len(tokens) - 1), tokens[1:]]


def test_every_path_gives_the_same_bits(pair: Any) -> None:
    tokens, features = ids(30), pair.image()["vision_features"][0]
    logits = []
    for kernels in PATHS:
        model = pair.native(kernels)
        logits.append(model.logits(tokens, model.encode_image(features=features)))
    for kernels, other in zip(PATHS[1:], logits[1:], strict=True):
        np.testing.assert_array_equal(other, logits[0], err_msg=kernels)


def test_pieces_and_single_tokens_give_the_bits_of_the_whole(pair: Any) -> None:
    """Invariant 3, past the sinks and the window (2 + 7) and across the memory's segments (5)."""
    model = pair.native()
    tokens, engine = ids(40), model.engine
    whole = model.logits(tokens)
    for size in (1, 3, 16):
        state = engine.start()
        pieces = [state.forward(tokens[None, i : i + size])[0] for i in range(0, 40, size)]
        np.testing.assert_array_equal(engine.head(np.concatenate(pieces)), whole)


def test_a_later_token_changes_no_earlier_bit(pair: Any) -> None:
    """Invariant 1."""
    model, tokens = pair.native(), ids(30)
    changed = np.concatenate([tokens[:20], ids(10, seed=1)])
    np.testing.assert_array_equal(model.logits(changed)[:20], model.logits(tokens)[:20])


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_is_numpys(pair: Any, penalty: float) -> None:
    """Where the two part, the oracle must have found the two tokens as good as equal."""
    numpy_model, fast = both(pair)
    for seed in range(4):
        features = pair.image(seed)["vision_features"][0]
        images = [m.encode_image(features=features) for m in (numpy_model, fast)]
        texts = [
            m.generate("the", image, max_tokens=8, repetition_penalty=penalty).tokens
            for m, image in zip((numpy_model, fast), images, strict=True)
        ]
        same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), None)
        if same is None:
            assert texts[0] == texts[1]
            continue
        prompt = [1, *numpy_model.tokenizer.encode("the", add_special_tokens=False).ids, *texts[0][:same]]
        logits = penalize(numpy_model.logits(prompt, images[0])[-1:], [prompt], penalty)[0]
        assert logits[texts[0][same]] - logits[texts[1][same]] < TOLERANCE


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_candidates_are_the_largest_logits(make_pair: Callable[..., Any], penalty: float) -> None:
    engine = make_pair().native().engine
    state, prompt = engine.start(), ids(9)
    state.read(prompt)
    state.select(np.array([0, 0]))
    logits = engine.head(state.forward(np.array([[30], [40]]))[:, -1])
    written = [[*prompt.tolist(), token] for token in (30, 40)]
    expected = penalize(log_softmax(logits), written, penalty)
    tokens, scores = state.candidates(12, penalty)
    np.testing.assert_array_equal(tokens, largest(expected, 12))
    np.testing.assert_allclose(scores, np.take_along_axis(expected, tokens, axis=-1), atol=1e-5)


def test_beams_do_not_disturb_each_other(make_pair: Callable[..., Any]) -> None:
    """Sequences that branch off must score as if each had been written alone."""
    model = make_pair().native()
    engine, prompt = model.engine, ids(12)
    state = engine.start()
    state.read(prompt)
    state.branch(np.array([0, 0, 0]), np.array([5, 6, 7]))
    state.select(np.array([2, 0, 2, 1]))
    logits = engine.head(state.forward(np.array([[8], [9], [10], [11]]))[:, -1])
    for row, tail in enumerate(([7, 8], [5, 9], [7, 10], [6, 11])):
        alone = model.logits(np.concatenate([prompt, tail]))[-1:]
        np.testing.assert_array_equal(logits[row : row + 1], alone)


@pytest.mark.parametrize("cut", [{}, {"top_k": 9}, {"top_p": 0.5}, {"top_k": 30, "top_p": 0.8}], ids=str)
def test_chance_is_spent_as_numpy_spends_it(make_pair: Callable[..., Any], cut: dict[str, Any]) -> None:
    """The same logits and the same u give the same token."""
    engine = make_pair().native().engine
    options = GenerationOptions(temperature=1.3, repetition_penalty=1.2, **cut)
    state, prompt = engine.start(), ids(9)
    logits = penalize(state.logits(prompt)[-1:], [prompt.tolist()], options.repetition_penalty)[0]
    draws = np.random.default_rng(0).random(200)
    assert [state.next(None, options, u) for u in draws] == [choose(logits, options, u) for u in draws]
    assert len({state.next(None, options, u) for u in draws}) > 3


@pytest.mark.parametrize("write", list(Write))
def test_memory_is_written_as_numpy_writes_it(pair: Any, write: Write) -> None:
    numpy_model, fast = both(pair)
    if pair.bitmar.config.memory_integration == "off":
        pytest.skip("this model has no memory")
    tokens = ids(23)
    after = []
    for model in (numpy_model, fast):
        state = model.engine.start()
        state.forward(tokens[None], write)
        if model is numpy_model:
            after.append((state.memory.slots[0], state.memory.usage[0]))
        else:
            after.append(state.memory().arrays())
    np.testing.assert_allclose(after[1][0], after[0][0], atol=0.02)
    np.testing.assert_allclose(after[1][1], after[0][1], atol=0.02)
    remembered = [model.remember("the dog runs over the grass") for model in (numpy_model, fast)]
    assert np.abs(remembered[0].slots - pair.bitmar.engine.memory.slots).max() > 0.001
    np.testing.assert_allclose(remembered[1].slots, remembered[0].slots, atol=0.02)


def test_queries_are_numpys(make_pair: Callable[..., Any]) -> None:
    engines = [model.engine for model in both(make_pair())]
    queries = [engine.start().query(ids(23)) for engine in engines]
    np.testing.assert_allclose(queries[1], queries[0], atol=0.1)
    assert np.abs(queries[0] - engines[0].start().query(ids(23, seed=1))).max() > 0.2


def test_a_memory_from_one_engine_is_read_by_the_other(make_pair: Callable[..., Any]) -> None:
    numpy_model, fast = both(make_pair())
    memory = numpy_model.remember("the green dog runs")
    tokens = ids(12)
    found = fast.logits(tokens, memory=memory)
    assert np.abs(found - fast.logits(tokens)).max() > 1e-3
    assert np.median(np.abs(found - numpy_model.logits(tokens, memory=memory))) < TYPICAL


def test_the_tower_is_numpys(make_pair: Callable[..., Any]) -> None:
    numpy_model, fast = both(make_pair(tower="two stages"))
    photo = np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    expected, found = numpy_model.engine.tower(photo), fast.engine.tower(photo)
    assert np.median(np.abs(found - expected)) < 0.02 * np.abs(expected).max()
    for kernels in PATHS:
        np.testing.assert_array_equal(make_pair(tower="two stages").native(kernels).engine.tower(photo), found)


def test_int8_keys_cost_little(make_pair: Callable[..., Any]) -> None:
    model, tokens = make_pair().native(), ids(60)
    wide = model.logits(tokens)
    model.engine.kv_int16 = False
    assert 0 < np.median(np.abs(model.logits(tokens) - wide)) < 0.1


# Choosing an engine.


def test_a_configuration_beyond_the_kernels_falls_back_to_numpy(make_pair: Callable[..., Any]) -> None:
    pair = make_pair(tower="one stage, gelu", vision_grid=6)  # heads of an odd width
    assert pair.native().engine.name == "numpy"
    with pytest.raises(ConfigError, match="odd width"):
        pair.native(PATHS[0])


def test_the_environment_chooses(make_pair: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair()
    monkeypatch.setenv("BITMAR_KERNEL", "portable")
    assert pair.native().engine.name == "portable"
    monkeypatch.setenv("BITMAR_KERNEL", "numpy")
    assert pair.native().engine.name == "numpy"
    monkeypatch.setenv("BITMAR_KERNEL", "portabel")
    with pytest.raises(ConfigError, match="did you mean 'portable'"):
        pair.native()


# What a caller can do wrong, and threads.


def test_wrong_arguments_are_refused(make_pair: Callable[..., Any]) -> None:
    model = make_pair().native()
    state = model.engine.start()
    with pytest.raises(ValueError, match="vocabulary"):
        state.forward(np.array([[280]]))
    with pytest.raises(ValueError, match="prompt"):
        state.next(None, GenerationOptions(), 0.0)
    with pytest.raises(ValueError, match="nothing has been read"):
        state.last_query()
    with pytest.raises(ValueError, match="features"):
        model.engine.model.encode(np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match="no tower"):
        model.engine.model.see(np.zeros((3, 3, 3), np.uint8))
    state.forward(np.array([[5]]))
    with pytest.raises(ValueError, match="batch"):
        state.forward(np.array([[5], [6]]))
    with pytest.raises(ValueError, match="no such sequence"):
        state.select(np.array([1]))


def test_two_threads_do_not_disturb_each_other(make_pair: Callable[..., Any]) -> None:
    model = make_pair().native()
    expected = [model.logits(ids(50, seed)) for seed in range(2)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(30):
            if not np.array_equal(model.logits(ids(50, seed)), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _logits_in_a_child(path: Any, tokens: np.ndarray, queue: Any) -> None:
    queue.put(load(path).logits(tokens))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_child_computes_the_same(make_pair: Callable[..., Any]) -> None:
    """Also where the parent has used the engine before."""
    path, tokens = make_pair().bitmar.path, ids(20)
    expected = load(path).logits(tokens)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_logits_in_a_child, args=(path, tokens, queue))
    child.start()
    found = queue.get(timeout=60)
    child.join(timeout=60)
    np.testing.assert_array_equal(found, expected)


def test_a_fresh_process_computes_the_same(make_pair: Callable[..., Any]) -> None:
    path, tokens = make_pair().bitmar.path, ids(20)
    code = (
        f"import bitmar, sys; sys.stdout.buffer.write(bitmar.load({str(path)!r}).logits({tokens.tolist()}).tobytes())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout
    assert found == load(path).logits(tokens).tobytes()
