"""A scorer whose answers are known, and the pipeline's folders with made data."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

Rule = Callable[[Sequence[str], Any], Sequence[float]]


class Judge:
    """Log-probabilities by rule: rule(tokens as text, picture or None) -> one for each token."""

    name, pictures_at_once, has_tower, vocab_size, rounding = "judge", 1, True, 276, 0.0

    def __init__(self, tokenizer: Tokenizer, rule: Rule) -> None:
        self.tokenizer, self.rule, self.calls = tokenizer, rule, 0

    def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
        self.calls += 1
        found = []
        for i, text in enumerate(texts):
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids if isinstance(text, str) else text
            pieces = [self.tokenizer.decode([token]) for token in ids]
            found.append(np.array(self.rule(pieces, None if images is None else images[i]), np.float32))
        if on_progress is not None:
            on_progress(len(texts))
        return found

    def look(self, pictures: Sequence[Any]) -> list[Any]:
        return list(pictures)

    def embed(self, texts: Sequence[str] = (), images: Sequence[Any] = ()) -> tuple[np.ndarray, np.ndarray]:
        """A picture lies where its colour does."""
        points = np.array([np.asarray(image, np.float32)[0, 0] for image in images]).reshape(-1, 3)
        return np.zeros((len(texts), 3), np.float32), points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.fixture
def judge(tokenizer: Tokenizer) -> Callable[[Rule], Judge]:
    """judge(rule) -> a scorer."""
    return lambda rule: Judge(tokenizer, rule)


@pytest.fixture
def fond(judge: Callable[[Rule], Judge]) -> Callable[[str], Judge]:
    """fond("good") -> a scorer to which a text is the likelier, the more often the word stands in it."""

    def make(word: str) -> Judge:
        def rule(pieces: Sequence[str], picture: Any) -> Sequence[float]:
            text = "".join(pieces)
            return [0.0] * (len(pieces) - 1) + [float(text.count(word)) - 100]

        return judge(rule)

    return make


@pytest.fixture
def write() -> Callable[[Path, Sequence[Any]], Path]:
    """write(path, lines) -> the path of a .jsonl; strings are written as they are."""

    def lines_to(path: Path, lines: Sequence[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return lines_to


@pytest.fixture
def paint() -> Callable[[Path, tuple[int, int, int]], Path]:
    """paint(path, colour) -> a photo of one colour."""

    def one(path: Path, colour: tuple[int, int, int]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), colour).save(path)
        return path

    return one
