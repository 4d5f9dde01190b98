"""Both halves are one `Scorer`: same numbers, whatever a sample is computed beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitmar.api import load
from bitmar.core.errors import ConfigError, FormatError, ImageError, TokenizerError
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer

TEXTS = ["the dog", "the man runs over the green grass", "", "a", "grass grass dog the the the man and the man"]


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Scorer, Scorer]:
    """PyTorch's half, and numpy's engine, which rounds no more than it does (tests/runtime compares the native one)."""
    return load_scorer(folder), RuntimeScorer(load(folder / "packed", engine="numpy"))


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((9, 14)).astype(np.float32)


def close(a: np.ndarray, b: np.ndarray) -> None:
    """Sums in another order may tip one int8 rounding; a fault moves many tokens, or one far."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    if a.size:
        assert np.abs(a - b).max() < 0.1, np.abs(a - b)
        assert np.median(np.abs(a - b)) < 1e-3


def test_load_scorer_takes_the_half_that_fits(folder: Path, pair: tuple[Scorer, Scorer]) -> None:
    assert [type(scorer).__name__ for scorer in pair] == ["TorchScorer", "RuntimeScorer"]
    assert type(load_scorer(folder, "torch")).__name__ == "TorchScorer"
    with pytest.raises(ConfigError, match="did you mean 'torch'"):
        load_scorer(folder, "trch")
    with pytest.raises(FormatError, match="no checkpoint folder"):
        load_scorer(folder / "packed", "torch")


def test_a_damaged_checkpoint_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(FormatError, match="no whole checkpoint"):
        load_scorer(tmp_path)


def test_halves_agree_on_log_probabilities(pair: tuple[Scorer, Scorer]) -> None:
    images = [features(0), None, features(1), features(2), None]
    for given in (None, images):
        for a, b in zip(*(scorer.loglikelihood(TEXTS, given) for scorer in pair), strict=True):
            close(a, b)


def test_log_probabilities_are_those_of_the_next_token(folder: Path, pair: tuple[Scorer, Scorer]) -> None:
    model = load(folder / "packed", engine="numpy")
    ids = [5, 90, 17, 17]
    logits = model.logits([model.config.bos_token_id, *ids]).astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for scorer in pair:
        found = scorer.loglikelihood([ids])[0]
        close(found, wanted[np.arange(4), ids].astype(np.float32))


def test_ids_and_text_are_the_same(pair: tuple[Scorer, Scorer], tokenizer) -> None:
    for scorer in pair:
        a, b = scorer.loglikelihood([TEXTS[1], tokenizer.encode(TEXTS[1]).ids])
        close(a, b)


def test_neighbours_and_padding_do_not_matter(pair: tuple[Scorer, Scorer]) -> None:
    torch_scorer = pair[0]
    together = torch_scorer.loglikelihood(TEXTS, [features(i) if i % 2 else None for i in range(5)])
    for i, text in enumerate(TEXTS):
        alone = torch_scorer.loglikelihood([text], [features(i) if i % 2 else None])[0]
        close(alone, together[i])


def test_a_picture_matters(pair: tuple[Scorer, Scorer]) -> None:
    for scorer in pair:
        a, b, c = scorer.loglikelihood([TEXTS[1]] * 3, [features(0), features(1), None])
        assert np.abs(a - b).max() > 1e-3 and np.abs(a - c).max() > 1e-3


def test_a_text_longer_than_the_window(pair: tuple[Scorer, Scorer], monkeypatch: pytest.MonkeyPatch) -> None:
    long = list(np.random.default_rng(0).integers(4, 270, 75))
    whole = pair[0].loglikelihood([long])[0]
    monkeypatch.setattr("bitmar.evaluate.torch_scorer._PIECE", 16)
    close(pair[0].loglikelihood([long, [5]])[0], whole)
    close(pair[1].loglikelihood([long])[0], whole)


def test_progress_counts_every_text(pair: tuple[Scorer, Scorer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.evaluate.torch_scorer._BATCH_TOKENS", 12)
    for scorer in pair:
        seen: list[int] = []
        scorer.loglikelihood(TEXTS, on_progress=seen.append)
        assert seen == sorted(seen) and seen[-1] == len(TEXTS)


def test_halves_agree_on_captions(pair: tuple[Scorer, Scorer], photo: Callable[[int], Image.Image]) -> None:
    pictures = [photo(0), features(3), photo(1)]
    for beams in (1, 3):
        a, b = (scorer.caption(pictures, beams=beams, max_tokens=8) for scorer in pair)
        assert a == b and all(a)
    torch_scorer = pair[0]
    assert torch_scorer.caption(pictures[2:], beams=3, max_tokens=8) == a[2:]


def test_halves_agree_on_the_contrastive_space(
    pair: tuple[Scorer, Scorer], photo: Callable[[int], Image.Image]
) -> None:
    texts = [text for text in TEXTS if text]
    for (a, b), count in zip(
        zip(*(scorer.embed(texts, [photo(0), features(1)]) for scorer in pair), strict=True), (4, 2), strict=True
    ):
        assert a.shape == b.shape == (count, 32) and ((a * b).sum(axis=1) > 0.999).all()


def test_a_picture_is_looked_at_once(pair: tuple[Scorer, Scorer], photo: Callable[[int], Image.Image]) -> None:
    pictures = [photo(0), features(1), photo(2)]
    for scorer in pair:
        assert scorer.has_tower and scorer.vocab_size == 280
        seen = scorer.look(pictures)
        for a, b in zip(
            scorer.loglikelihood([TEXTS[1]] * 3, seen), scorer.loglikelihood([TEXTS[1]] * 3, pictures), strict=True
        ):
            close(a, b)
        assert scorer.caption(seen, max_tokens=8) == scorer.caption(pictures, max_tokens=8)
    with pytest.raises(ImageError, match="runtime half"):
        pair[0].caption(pair[1].look(pictures))


def test_halves_agree_on_what_a_write_makes_of_the_memory(pair: tuple[Scorer, Scorer]) -> None:
    first, second = (scorer.remembered("the dog runs") for scorer in pair)
    assert first.shape == second.shape == (8, 16) and np.abs(first - second).max() < 0.05
    assert np.abs(first - pair[0].remembered("the man")).max() > 1e-4


def test_training_goes_on_as_before(folder: Path) -> None:
    scorer = load_scorer(folder)
    before = scorer.loglikelihood([TEXTS[1]], [features(0)])[0]
    scorer.model.train()  # type: ignore[attr-defined]
    assert np.array_equal(scorer.loglikelihood([TEXTS[1]], [features(0)])[0], before)  # no dropout, no writing
    assert scorer.model.training  # type: ignore[attr-defined]


def test_wrong_input_is_a_clear_error(pair: tuple[Scorer, Scorer]) -> None:
    for scorer in pair:
        with pytest.raises(TokenizerError):
            scorer.loglikelihood([[5, 280]])
        with pytest.raises(ImageError, match="shape"):
            scorer.caption([np.zeros((4, 14), np.float32)])
        with pytest.raises(ImageError):
            scorer.caption([b"no photo"])


def test_runtime_scorer_needs_no_checkpoint(folder: Path) -> None:
    assert RuntimeScorer(load(folder / "packed")).name.endswith("model.bitmar")
