"""Calibrating the confidence of captions: the model captions labelled photos, and learns which captions were right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitmar.core.errors import ConfigError
from bitmar.evaluate.tasks.naming import Namer, about_the_right_thing, fit_confidence

if TYPE_CHECKING:
    from bitmar.api import BitMar
    from bitmar.core.ternary import F32
    from bitmar.runtime.cache import ImageTokens
    from bitmar.runtime.confidence import Witness

_WORDS = 32  # tokens of a caption, at most


class Lessons:
    """Captions of images that a model was not trained on: what spoke for them, and whether they were right."""

    def __init__(self) -> None:
        self.namer = Namer()
        self.right: list[bool] = []
        self._evidence: list[F32] = []

    def of_label(self, model: BitMar, image: ImageTokens, label: str) -> None:
        """An image that is known to show what `label` says; one of which that is no noun teaches nothing."""
        if self.namer.knows(label):
            self.right.append(self.namer(self._caption(model, image), label))

    def of_captions(self, model: BitMar, image: ImageTokens, captions: Sequence[str]) -> None:
        """An image of which people said `captions`."""
        text, witness = self._caption(model, image), witness_of(model)
        self.right.append(about_the_right_thing(text, captions, witness.vocabulary, witness.subject(text)))

    def of_nothing(self, model: BitMar, image: ImageTokens) -> None:
        """An image of nothing: whatever is said of it is wrong."""
        self._caption(model, image)
        self.right.append(False)

    def weights(self) -> F32:
        """The weights that `Witness` gives its evidence."""
        weights: F32 = fit_confidence(np.stack(self._evidence), np.array(self.right))
        return weights

    def _caption(self, model: BitMar, image: ImageTokens) -> str:
        written = model.generate("", image, max_tokens=_WORDS)
        assert image.concepts is not None
        likelihood = model.likelihood(written.tokens, image)
        self._evidence.append(witness_of(model).evidence(written.text, likelihood, image.concepts))
        return written.text


def witness_of(model: BitMar) -> Witness:
    """The evidence for a model's captions; ConfigError for a model without concepts."""
    if model.witness is None:
        raise ConfigError(f"{model.path} has no concept bank, which the confidence of captions rests on")
    return model.witness
