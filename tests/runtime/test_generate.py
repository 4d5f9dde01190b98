"""Greedy, sampled and beam-searched text against transformers' own generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError
from bitmar.runtime.generate import beam_search
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.sampling import choose, largest, penalize


@pytest.fixture(params=[{}, {"memory_integration": "concat"}, {"tower": "two stages"}], ids=str)
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> Any:
    return make_pair(**request.param)


def torch_tokens(pair: Any, prompt: list[int], seed: int, **options: Any) -> list[int]:
    """What transformers writes behind the prompt, without the end token and the padding behind it."""
    import torch

    image = torch.from_numpy(pair.image(seed)["vision_features"])
    out = pair.torch_model.generate(
        torch.tensor([prompt]), vision_features=image, do_sample=False, use_cache=True, **options
    )[0, len(prompt) :].tolist()
    eos = pair.bitmar.config.eos_token_id
    return out[: out.index(eos)] if eos in out else out


def our_tokens(pair: Any, text: str, seed: int, **options: Any) -> list[int]:
    image = pair.bitmar.encode_image(features=pair.image(seed)["vision_features"][0])
    return list(pair.bitmar.generate(text, image, **options).tokens)


def prompt_ids(pair: Any, text: str) -> list[int]:
    return [
        pair.bitmar.config.bos_token_id,
        *pair.bitmar.tokenizer.encode(text, add_special_tokens=False).ids,
    ]


@pytest.mark.parametrize("text", ["", "the man runs over"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_text_equals_transformers(pair: Any, text: str, penalty: float) -> None:
    theirs = torch_tokens(pair, prompt_ids(pair, text), 0, max_new_tokens=20, repetition_penalty=penalty)
    assert our_tokens(pair, text, 0, max_tokens=20, repetition_penalty=penalty) == theirs


@pytest.mark.parametrize("beams, length_penalty", [(2, 1.0), (3, 0.0), (4, 1.0), (4, 2.5)])
def test_beams_equal_transformers(pair: Any, beams: int, length_penalty: float) -> None:
    for seed in range(3):
        theirs = torch_tokens(
            pair,
            prompt_ids(pair, "the"),
            seed,
            max_new_tokens=12,
            num_beams=beams,
            length_penalty=length_penalty,
        )
        ours = our_tokens(pair, "the", seed, max_tokens=12, beams=beams, length_penalty=length_penalty)
        assert ours == theirs


def test_beams_that_end_equal_transformers(make_pair: Callable[..., Any]) -> None:
    """With each of the likely first tokens as the end token, hypotheses finish early, late, and out of rank."""
    pair = make_pair()
    ours, theirs = pair.bitmar, pair.torch_model.generation_config
    config, original, ends = ours.config, theirs.eos_token_id, 0
    try:
        for token in np.argsort(-ours.logits([1, 100])[-1])[:12].tolist():
            theirs.eos_token_id = token
            ours.config = type(config).from_dict({**config.to_dict(), "eos_token_id": token})
            for beams, penalty in ((2, 0.5), (3, 1.0)):
                options = {"num_beams": beams, "length_penalty": penalty}
                expected = torch_tokens(pair, prompt_ids(pair, "d"), 1, max_new_tokens=5, **options)
                found = our_tokens(pair, "d", 1, max_tokens=5, beams=beams, length_penalty=penalty)
                assert found == expected
                ends += len(found) < 5
    finally:
        ours.config, theirs.eos_token_id = config, original
    assert ends > 0


class Chain:
    """A state whose next token depends on the last one alone: row i of the table holds the chances after token i."""

    def __init__(self, table: list[list[float]]) -> None:
        self.logits = np.log(np.array(table, np.float32))
        self.last = np.array([0])

    def candidates(self, count: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        ids = largest(self.logits[self.last], count)
        return ids, np.take_along_axis(self.logits[self.last], ids, axis=-1)

    def branch(self, sources: np.ndarray, tokens: np.ndarray) -> None:
        self.last = tokens


def test_a_search_stops_when_no_beam_can_win_at_its_present_length() -> None:
    """Seven tokens would score better under this length penalty, but the rule looks at the present length only."""
    chain = Chain([[1e-9, 0.5001, 0.4999], [0.9, 0.1, 1e-9], [0.8, 1e-9, 0.2]])
    options = GenerationOptions(beams=2, length_penalty=2.0, max_tokens=12)
    best = beam_search(chain, 0, 2, options)[0]  # type: ignore[arg-type]
    assert best.tokens == (1, 0) and best.ended
    assert best.score == pytest.approx(np.log(0.5001 * 0.9) / 4, rel=1e-4)


@pytest.mark.parametrize("top_k, top_p, temperature", [(0, 1.0, 0.7), (5, 1.0, 1.0), (0, 0.6, 1.5), (20, 0.8, 2.0)])
def test_sampling_draws_from_the_distribution_of_transformers(top_k: int, top_p: float, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = np.random.default_rng(0).normal(size=40).astype(np.float32) * 2
    warped = process.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None])
    if top_k:
        warped = process.TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = process.TopPLogitsWarper(top_p)(None, warped)
    expected = warped.softmax(-1)[0].numpy()
    options, rng = (
        GenerationOptions(top_k=top_k, top_p=top_p, temperature=temperature),
        np.random.default_rng(1),
    )
    draws = np.bincount([choose(logits, options, rng.random()) for _ in range(4000)], minlength=40) / 4000
    assert not draws[expected == 0].any()
    np.testing.assert_allclose(draws, expected, atol=0.04)


def test_sampling_repeats_with_its_seed(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    same = [model.generate("the", temperature=1.5, seed=7, max_tokens=15).tokens for _ in range(2)]
    others = {model.generate("the", temperature=1.5, seed=seed, max_tokens=15).tokens for seed in range(4)}
    assert same[0] == same[1] and len(others) > 1


def test_penalty_pushes_both_signs_down() -> None:
    scores = np.array([[2.0, -2.0, 1.0]], np.float32)
    np.testing.assert_allclose(penalize(scores, [[0, 1, 1]], 2.0), [[1.0, -4.0, 1.0]])


def test_numbers_of_numpy_are_numbers() -> None:
    options = GenerationOptions(top_k=np.int32(7), temperature=np.float32(0.5), top_p=np.float64(0.5), seed=np.uint8(1))
    assert options == GenerationOptions(top_k=7, temperature=0.5, top_p=0.5, seed=1)
    assert (type(options.top_k), type(options.temperature)) == (int, float)


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-3, 1.0, 1e300])
@pytest.mark.parametrize("top_k", [0, 1, 5, 2**40, 2**70])
@pytest.mark.parametrize("top_p", [1.0, 0.5, 1e-320])
def test_extreme_options_still_choose(
    make_pair: Callable[..., Any], temperature: float, top_k: int, top_p: float
) -> None:
    """In both engines: the greedy tokens where only the likeliest is left, some token of the vocabulary elsewhere."""
    pair = make_pair()
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 3, "max_tokens": 6}
    for model in (pair.bitmar, pair.native()):
        tokens = model.generate("the", **options).tokens
        assert all(0 <= token < model.config.vocab_size for token in tokens)
        if temperature < 1e-30 or top_k == 1 or top_p < 1e-300:
            assert tokens == model.generate("the", max_tokens=6).tokens


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens must be a whole number"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": 10**400}, "temperature must be a finite number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": np.True_}, "temperature must be a number"),
        ({"top_p": "0.9"}, "top_p must be a number"),
        ({"top_p": None}, "top_p must be a number"),
        ({"top_k": np.float32(3)}, "top_k must be a whole number"),
        ({"top_k": -(10**5000)}, "top_k"),
        ({"length_penalty": 1000.0}, "length_penalty from -10 to 10"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty from 0.001"),
        ({"repetition_penalty": 1e300}, "repetition_penalty from 0.001"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -3}, "seed"),
        ({"beams": 0}, "beams"),
        ({"beams": True}, "beams must be a whole number"),
        ({"beams": 3, "temperature": 1.0}, "does not sample"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions.of(**options)
