"""The concept bank on a device: the words that a photo's features speak for, as vision tokens (`model/concepts.py`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container
from bitmar.core.tensors import CONCEPTS, scale_name
from bitmar.core.ternary import F32, I8, quantize_activations
from bitmar.runtime.cache import NO_EVIDENCE, Evidence
from bitmar.runtime.layers import Weights

I32 = npt.NDArray[np.int32]
HEARD = 0.15  # a concept that scores less is no evidence
_SUREST = 0.99  # log-odds go no farther; both stand again in model/concepts.py and native/concepts.cpp


class ConceptBank:
    """K concepts found in the mean patch feature. Keys are int8, and so is the feature: the sums are exact integers."""

    def __init__(self, container: Container) -> None:
        config, tensors, weights = container.config, container.tensors, Weights(container)

        def part(name: str) -> str:
            return f"{CONCEPTS}.{name}"

        self.config: ModelConfig = config
        self.keys, self.class_keys = tensors[part("keys")], tensors[part("class_keys")]
        self.scale, self.class_scale = (tensors[scale_name(part(name))][:, 0] for name in ("keys", "class_keys"))
        self.bias, self.class_bias = weights.array(part("bias")), weights.array(part("class_bias"))
        concepts = tensors[part("class_concepts")]
        self._classes = np.flatnonzero(concepts >= 0)
        self._concept_of_class = concepts[self._classes]
        self.words = tensors[part("words")]
        self._values, self._value_scale = tensors[part("values")], tensors[scale_name(part("values"))]
        self._strength, self._offset = weights.array(part("strength")), weights.array(part("offset"))
        self.prior = weights.array(part("prior"))

    @property
    def class_nouns(self) -> I32:
        """The concepts that classes of the backbone stand for."""
        return np.unique(self._concept_of_class)

    def scores(self, pooled: F32) -> F32:
        """Mean patch feature (D_v,) -> the score of every concept, in [0, 1], float32 (K,)."""
        codes, scale = quantize_activations(pooled)
        own = exact_dot(self.keys, codes) * (self.scale * scale) + self.bias
        scores = np.zeros(self.config.concepts)
        scores[: len(own)] = 1 / (1 + np.exp(-own))
        if len(self.class_bias):
            read = np.ascontiguousarray(codes[-self.class_keys.shape[1] :])
            logits = exact_dot(self.class_keys, read) * (self.class_scale * scale) + self.class_bias
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            of_class = np.bincount(self._concept_of_class, shares[self._classes], minlength=len(scores))
            scores = np.maximum(scores, of_class)
        return scores.astype(np.float32)

    def tokens(self, scores: F32) -> F32:
        """Scores (K,) -> the vision tokens of the best concepts, best first, float32 (k, d)."""
        best = np.argsort(-scores, kind="stable")[: self.config.concept_tokens]
        values: F32 = self._values[best] * self._value_scale[best]
        tokens: F32 = values + scores[best, None] * self._strength + self._offset
        return tokens

    def evidence(self, scores: F32) -> Evidence:
        """The tokens that the best concepts speak for, each once, and by how much: the weight of the evidence.

        That is the log-odds of a concept here less its log-odds in any photo (Good, 1950): Bayes' rule for a word that
        the model knows how to place, from the tower that has seen it.
        """
        if not self.config.concept_evidence:
            return NO_EVIDENCE
        best = np.argsort(-scores, kind="stable")[: self.config.concept_tokens]
        best = best[scores[best] >= HEARD]
        heard = np.clip(scores[best], None, _SUREST).astype(np.float64)
        bonus = self.config.concept_evidence * np.maximum(np.log(heard / (1 - heard)) - self.prior[best], 0)
        found: dict[tuple[int, int], float] = {}  # the best concept of equal beginnings counts
        for concept, nats in zip(best, bonus, strict=True):
            word = self.words[concept]
            for place, (token, before) in enumerate(zip(word, (-1, *word[:-1]), strict=True)):
                if token >= 0 and nats > 0:
                    found.setdefault((int(token), int(before) if place else -1), float(nats))
        ids, after = (np.array([key[part] for key in found], np.int64) for part in (0, 1))
        return ids, np.array(list(found.values()), np.float32), after


def exact_dot(rows: I8, codes: I8) -> I32:
    """Integer products (n,) of rows (n, D) and codes (D,)."""
    result: I32 = rows.astype(np.int32) @ codes.astype(np.int32)
    return result
