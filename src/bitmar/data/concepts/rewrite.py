"""Captions for photos that have none: sentences that people wrote about other photos, chosen by what is to be seen.

Labels teach words in their own style ("a photo of a zebra"), and what is learned in one style is not said in another.
So a labelled photo gets captions in the captions' own style: of a large collection those that name its label and,
besides it, only what a concept bank sees; where no caption names the label, one that names a thing of the same sort has
its noun replaced. Whatever else such a caption says is invented, and a model learns to invent from it: so a plain
sentence that names the label alone is always among them, and captions that claim more than is seen are not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import imagenet_nouns

_FALSE = 0.5  # what a thing that is not there costs, where one that is there gains 1
_UNKNOWN = 0.2  # what a word costs that the bank knows nothing about
_REUSED = 6  # photos that get the same caption, at most
_ENOUGH = 12  # captions that name a label; below, other nouns are replaced too
_SORTS = {  # by ImageNet's order of classes: a noun of the same sort can stand in its place
    "animal": (range(0, 398), ("dog", "cat", "horse", "bird", "cow", "sheep")),
    "food": (range(924, 970), ("pizza", "cake", "fruit", "food", "sandwich")),
}
_PLAIN = ("there {is_} {a} in the picture", "{a}", "a close up of {a}", "a picture of {a}")
_ELABORATE = 3  # captions of a labelled photo that may say more than its label
_THINGS = frozenset({"building", "painting", "ceiling", "ring", "wing", "string"})
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
        unknown = [len(vocabulary.unknown(caption)) for caption in self.captions]
        self._unknown = np.array(unknown, np.float32) * _UNKNOWN
        self._uses, self._turn = np.zeros(len(found), np.int16), 0
        self._by_concept: dict[int, list[int]] = defaultdict(list)
        for place, (_, concepts) in enumerate(found):
            for concept in concepts:
                self._by_concept[concept].append(place)

    def choose(self, scores: npt.NDArray[np.float32], labels: Sequence[int], count: int = 5) -> list[str]:
        """Captions for a photo, best first. scores (K,): of a concept bank. labels: concepts known to be there."""
        gain = scores - _FALSE * (1 - scores)  # of naming each, on average: above 0 for what is likelier than a third
        gain[list(labels)] = 1.0
        if not labels:
            return self._best(np.arange(len(self.captions)), gain, count)
        main = labels[0]
        naming, plain = np.array(self._by_concept[main], np.int64), plain_captions(self.vocabulary.names[main])
        if not plain:
            return self._best(naming, gain, count)
        if len(naming) >= _ENOUGH:
            found = self._best(naming, gain, _ELABORATE, least=1.0)
        else:
            found = [*self._best(naming, gain, 1, least=1.0), *self._replaced(main, gain, _ELABORATE - 1)]
        self._turn += 1
        turned = [plain[(self._turn + i) % len(plain)] for i in range(len(plain))]
        return [*found, *turned][:count]

    def _best(
        self, places: npt.NDArray[np.int64], gain: npt.NDArray[np.float32], count: int, least: float = -np.inf
    ) -> list[str]:
        """Of the captions at `places` the best, those that gain `least`; one that is used up comes last."""
        value = self._names[places] @ gain - self._unknown[places]
        value = np.where(self._uses[places] < _REUSED, value, value - len(self.vocabulary))
        places, value = places[value >= least], value[value >= least]
        if not len(places):
            return []
        top = np.argpartition(-value, min(count, len(value) - 1))[:count]
        chosen = places[top[np.argsort(-value[top])]]
        self._uses[chosen] += 1
        return [self.captions[place] for place in chosen]

    def _replaced(self, main: int, gain: npt.NDArray[np.float32], count: int) -> list[str]:
        """Captions of things of the same sort, with the noun replaced."""
        noun, nouns = self.vocabulary.names[main], imagenet_nouns()
        for classes, others in _SORTS.values():
            if noun not in {nouns.get(i) for i in classes}:
                continue
            found: list[str] = []
            for other in others:
                if (concept := self.vocabulary.index.get(other)) is None:
                    continue
                as_if = gain.copy()
                as_if[concept] = 1.0
                naming = np.array(self._by_concept[concept], np.int64)
                for caption in self._best(naming, as_if, count, least=1.0):
                    changed = replace_noun(caption, other, noun)
                    if changed != caption:
                        found.append(changed)
            return found[:: max(1, len(found) // count)][:count]
        return []


def plain_captions(noun: str) -> list[str]:
    """Sentences that say of a photo nothing but what it shows; none for what is done and not a thing ("surfing")."""
    if noun.endswith("ing") and noun not in set(imagenet_nouns().values()) | _THINGS:
        return []
    is_ = "are" if _plural(noun) else "is"
    return [text.format(a=with_article(noun), is_=is_).capitalize() for text in _PLAIN]


def replace_noun(caption: str, noun: str, by: str) -> str:
    """The caption with "a dog" made "an elephant", wherever the noun stands in the singular."""
    out = re.sub(rf"\b([Aa])n? {noun}\b", lambda m: _article(by, m[1]) + by, caption)
    return re.sub(rf"\b{noun}\b", by, out)


def with_article(noun: str) -> str:
    """ "a cat", "an owl", "sunglasses", "milk"."""
    return noun if _plural(noun) or noun in _UNCOUNTED else _article(noun, "a") + noun


def _plural(noun: str) -> bool:
    return noun.endswith("s") and not noun.endswith("ss")


def _article(noun: str, a: str) -> str:
    return f"{a}n " if noun[0] in "aeiou" else f"{a} "
