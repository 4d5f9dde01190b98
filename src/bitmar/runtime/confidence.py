"""How far a caption can be trusted: the chance that it is about the right thing, and what is sure where it is not.

A caption's subject is the first thing that it names. The tower's concepts, which never read the caption, bear witness
for it or against it; how likely the model found its own words says a little more, and where the concepts hear a little
of everything there is nothing to be seen. Seven weights turn this into a chance; they are fitted to photos whose labels
or captions are known, and to pictures of nothing (`bitmar calibrate-captions`), by logistic regression.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from bitmar.core.container import Container
from bitmar.core.tensors import CONFIDENCE
from bitmar.core.ternary import F32
from bitmar.core.vocabulary import Vocabulary
from bitmar.runtime.concepts import HEARD, ConceptBank

DOUBTFUL = 0.5
"""Below this a caption is more likely wrong than right about its subject."""

_CLEAR = 0.6  # together so much of a general notion's concepts, and it can be said
_EDGE = 0.01  # scores are kept this far from 0 and 1 before their log-odds are taken


class Witness:
    """What a concept bank says of captions. names: of the bank's concepts."""

    def __init__(self, container: Container, bank: ConceptBank, names: tuple[str, ...]) -> None:
        self.vocabulary = Vocabulary(names)
        weights = container.tensors.get(CONFIDENCE)
        self.weights: F32 | None = None if weights is None else np.asarray(weights)
        self._classed = set(bank.class_nouns.tolist())
        self._prior = bank.prior

    @cached_property
    def _notions(self) -> list[dict[str, list[int]]]:
        """Things, places and scenery: a phrase, and the concepts that speak for it."""
        table = (files(__package__) / "general.tsv").read_text(encoding="utf-8")
        rows = table.split("\n", 1)[1]
        return [
            {
                phrase: self.vocabulary.find(members)
                for phrase, members in (row.split("\t") for row in part.splitlines())
            }
            for part in rows.split("\n\n")
        ]

    @cached_property
    def _things(self) -> npt.NDArray[np.int64]:
        """The concepts that are things, not actions, colours or places."""
        named = {concept for members in self._notions[0].values() for concept in members}
        return np.array(sorted(named | self._classed), np.int64)

    def subject(self, caption: str) -> int | None:
        """The concept of the first thing that a caption names."""
        things = set(self._things.tolist())
        return next((concept for concept in self.vocabulary.find(caption) if concept in things), None)

    def evidence(self, caption: str, likelihood: float, scores: F32) -> F32:
        """What speaks for a caption, (7,): the last is 1.

        likelihood: mean log-probability of its tokens. scores (K,): of the photo's concepts.
        """
        subject, best = self.subject(caption), int(self._things[np.argmax(scores[self._things])])
        seen = float(scores[subject]) if subject is not None else 0.0
        kin = subject is not None and self._notion(subject) == self._notion(best) is not None
        found = [log_odds(seen), log_odds(float(scores[best])), subject == best, kin, np.log(scores.sum() + _EDGE)]
        return np.array([likelihood, *found, 1], np.float32)

    def _notion(self, concept: int) -> str | None:
        return next((phrase for phrase, members in self._notions[0].items() if concept in members), None)

    def confidence(self, caption: str, likelihood: float, scores: F32) -> float | None:
        """The chance that a caption is about the right thing; None for a model that was not calibrated."""
        if self.weights is None:
            return None
        return float(1 / (1 + np.exp(-self.evidence(caption, likelihood, scores) @ self.weights)))

    def weights_of_evidence(self, text: str, scores: F32) -> list[float]:
        """For each concept that a text names: by how many nats the photo speaks for it, or against it."""
        return [log_odds(float(scores[c])) - float(self._prior[c]) for c in self.vocabulary.find(text)]

    def general(self, scores: F32) -> str | None:
        """What is sure of a photo in general: "an animal on grass", "the sky"; None where not even that is."""
        thing, place, scenery = (self._clearest(notions, scores) for notions in self._notions)
        return " ".join(filter(None, (thing, place))) if thing else scenery

    def _clearest(self, notions: dict[str, list[int]], scores: F32) -> str | None:
        heard = np.where(scores >= HEARD, scores, 0)
        sums = {phrase: float(heard[members].sum()) for phrase, members in notions.items() if members}
        phrase = max(sums, key=lambda each: sums[each], default=None)
        return phrase if phrase is not None and sums[phrase] >= _CLEAR else None


def honest(caption: str, confidence: float | None, general: str | None) -> str:
    """A caption as it is shown to people: a doubtful one says so, and what is sure in its place."""
    if confidence is None or confidence >= DOUBTFUL:
        return caption
    return f"not sure: {caption}" + (f" (surely {general})" if general else "")


def log_odds(p: float) -> float:
    """The log-odds of a chance, bounded."""
    p = min(max(p, _EDGE), 1 - _EDGE)
    return float(np.log(p / (1 - p)))
