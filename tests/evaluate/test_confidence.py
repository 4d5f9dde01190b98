from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError
from bitmar.core.vocabulary import Vocabulary
from bitmar.evaluate.confidence import Lessons

VOCABULARY = Vocabulary(["dog", "cat", "grass"])


def model(**witness: Any) -> Any:
    """One that says what the image says, and whose evidence is how sure that is."""
    witness = {"vocabulary": VOCABULARY, "subject": lambda text: VOCABULARY.find(text)[0], **witness}
    return SimpleNamespace(
        path="fake",
        witness=SimpleNamespace(evidence=lambda text, likelihood, scores: np.array([scores, 1], np.float32), **witness),
        generate=lambda text, image, max_tokens: SimpleNamespace(text=image.text, tokens=[1]),
        likelihood=lambda tokens, image: -1.0,
    )


def image(text: str, sure: float) -> Any:
    return SimpleNamespace(text=text, concepts=sure)


def test_what_was_right_raises_the_confidence_of_its_like() -> None:
    lessons, fake = Lessons(), model()
    for i in range(40):
        lessons.of_label(fake, image("A dog.", 2.0), "dog")
        lessons.of_label(fake, image("A cat.", -2.0), "dog" if i % 4 else "cat")
        lessons.of_captions(fake, image("A cat on grass.", 2.0), ("A cat sleeps.",))
        lessons.of_captions(fake, image("A dog on grass.", -2.0), ("Green grass.",))
        lessons.of_nothing(fake, image("A cat.", -2.0))
        lessons.of_label(fake, image("A dog.", 0.0), "a label that names nothing")
    assert len(lessons.right) == 200 and sum(lessons.right) == 40 + 10 + 40
    weights = lessons.weights()
    sure, unsure = (1 / (1 + np.exp(-weights @ np.array([x, 1]))) for x in (2.0, -2.0))
    assert sure > 0.9 and abs(unsure - 10 / 120) < 0.05


def test_a_model_without_concepts_has_no_witness() -> None:
    fake = model()
    fake.witness = None
    with pytest.raises(ConfigError, match="no concept bank"):
        Lessons().of_nothing(fake, image("A dog.", 0.0))
