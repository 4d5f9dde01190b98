"""Captions for photos that have none: sentences that people wrote about other photos, chosen by what is to be seen.

Labels teach words in their own style ("a photo of a zebra"), and what is learned in one style is not said in another.
So a labelled photo gets captions in the captions' own style: of a large collection those that name its label and,
besides it, what a concept bank sees; where no caption names the label, one that names a thing of the same sort has its
noun replaced.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import imagenet_nouns

_COST = 0.15  # what a concept must score at least to speak for a caption that names it
_REUSED = 6  # photos that get the same caption, at most
_ENOUGH = 12  # captions that name a label; below, other nouns are replaced too
_SORTS = {  # by ImageNet's order of classes: a noun of the same sort can stand in its place
    "animal": (range(0, 398), ("dog", "cat", "horse", "bird", "cow", "sheep")),
    "food": (range(924, 970), ("pizza", "cake", "fruit", "food", "sandwich")),
}
_PLAIN = ("a close up of {a}", "{a} on a table", "there is {a} in the picture", "{a} in front of a wall")
_UNCOUNTED = frozenset(
    {
        "milk",
        "juice",
        "yogurt",
        "food",
        "fruit",
        "vegetables",
        "rain",
        "fog",
        "snow",
        "grass",
        "water",
        "hay",
        "corn",
        "bread",
        "paper",
        "sky",
        "hockey",
    }
)


class CaptionPool:
    """Captions of other photos, and which concepts each names. None is given to many photos: they would all be called
    by it."""

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary, longest: int = 16) -> None:
        from scipy.sparse import csr_matrix

        short = [c for c in dict.fromkeys(captions) if 4 <= len(c.split()) <= longest]
        found = [(caption, vocabulary.find(caption)) for caption in short]
        found = [(caption, concepts) for caption, concepts in found if concepts]
        self.captions, self.vocabulary = [caption for caption, _ in found], vocabulary
        ends = np.cumsum([0, *(len(concepts) for _, concepts in found)])
        flat = np.array([c for _, concepts in found for c in concepts], np.int64)
        shape = (len(found), len(vocabulary))
        self._names = csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape)
        self._uses = np.zeros(len(found), np.int16)
        self._by_concept: dict[int, list[int]] = defaultdict(list)
        for place, (_, concepts) in enumerate(found):
            for concept in concepts:
                self._by_concept[concept].append(place)

    def choose(self, scores: npt.NDArray[np.float32], labels: Sequence[int], count: int = 5) -> list[str]:
        """Captions for a photo, best first. scores (K,): of a concept bank. labels: concepts known to be there."""
        gain = scores - _COST
        gain[list(labels)] = 1.0
        if not labels:
            return self._best(np.arange(len(self.captions)), gain, count)
        main = labels[0]
        naming = np.array(self._by_concept[main], np.int64)
        if len(naming) >= _ENOUGH:
            return self._best(naming, gain, count)
        return [*self._best(naming, gain, 2), *self._replaced(main, gain, count - 2)]

    def _best(self, places: npt.NDArray[np.int64], gain: npt.NDArray[np.float32], count: int) -> list[str]:
        if not len(places):
            return []
        value = self._names[places] @ gain
        value = np.where(
            self._uses[places] < _REUSED, value, value - len(self.vocabulary)
        )  # only where all are used up
        top = np.argpartition(-value, min(count, len(value) - 1))[:count]
        chosen = places[top[np.argsort(-value[top])]]
        self._uses[chosen] += 1
        return [self.captions[place] for place in chosen]

    def _replaced(self, main: int, gain: npt.NDArray[np.float32], count: int) -> list[str]:
        noun = self.vocabulary.names[main]
        nouns = imagenet_nouns()
        for classes, others in _SORTS.values():
            if noun in {nouns.get(i) for i in classes}:
                found: list[str] = []
                for other in others:
                    concept = self.vocabulary.index.get(other)
                    if concept is None:
                        continue
                    for caption in self._best(np.array(self._by_concept[concept], np.int64), gain, count):
                        changed = replace_noun(caption, other, noun)
                        if changed != caption:
                            found.append(changed)
                if found:
                    return found[:: max(1, len(found) // count)][:count]
        return [text.format(a=with_article(noun)).capitalize() for text in _PLAIN][:count]


def replace_noun(caption: str, noun: str, by: str) -> str:
    """The caption with "a dog" made "an elephant", wherever the noun stands in the singular."""
    out = re.sub(rf"\b([Aa])n? {noun}\b", lambda m: _article(by, m[1]) + by, caption)
    return re.sub(rf"\b{noun}\b", by, out)


def with_article(noun: str) -> str:
    """ "a cat", "an owl", "sunglasses", "milk"."""
    plural = noun.endswith("s") and not noun.endswith("ss")
    return noun if plural or noun in _UNCOUNTED else _article(noun, "a") + noun


def _article(noun: str, a: str) -> str:
    return f"{a}n " if noun[0] in "aeiou" else f"{a} "
