"""What a drawn caption is worth: CIDEr against the references, and what it names that they name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bitmar.core.errors import DependencyError, pip_install
from bitmar.core.vocabulary import Vocabulary

_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*|'[a-z]+")
_END = " </s>"
_FALSE = 0.5  # what naming something that no reference names costs: it pays to name what is likelier true than not


class CiderReward:
    """CIDEr of single captions, with the document frequencies of all references.

    An end token counts as the last word, so that breaking off in the middle of a sentence does not pay.

    references: captions by image. The words are those of the Penn Treebank tokenizer in all but rare cases; the scores
    that are reported use that tokenizer itself (evaluate/coco_metrics.py).
    """

    def __init__(self, references: Mapping[int, Sequence[str]]) -> None:
        try:
            from pycocoevalcap.cider.cider_scorer import CiderScorer, cook_refs, cook_test
        except ModuleNotFoundError as error:
            raise DependencyError(f"objective: cider needs {error.name}: {pip_install('eval')}") from error
        self._cook = cook_test
        self._references = {
            image: cook_refs([words(text) + _END for text in texts]) for image, texts in references.items()
        }
        self._scorer = CiderScorer()
        self._scorer.crefs = list(self._references.values())
        self._scorer.compute_doc_freq()

    def __call__(self, images: Sequence[int], captions: Sequence[str], ended: Sequence[bool]) -> Tensor:
        """(n,) float32, 0 to 10: one caption for each image. ended: whether its end token was written."""
        scores: list[float] = []
        documents = len(self._references)
        for start in range(0, len(images), documents):
            asked = slice(start, start + documents)
            self._scorer.ctest = [
                self._cook(words(text) + (_END if end else ""))
                for text, end in zip(captions[asked], ended[asked], strict=True)
            ]
            references = [self._references[image] for image in images[asked]]
            # The scorer takes the number of documents from the length of this list, and scores as many as were asked.
            self._scorer.crefs = references + [None] * (documents - len(references))
            scores += map(float, self._scorer.compute_cider())
        return torch.tensor(scores)


def words(text: str) -> str:
    """A caption's words, near enough to those of the Penn Treebank tokenizer, with a space between them."""
    return " ".join(_WORD.findall(text.lower()))


class NamingReward:
    """The concepts that a caption names: each pays its share of the references, each that none of them names costs.

    CIDEr alone barely tells a caption of a false thing from one of no thing (CHAIR, arXiv 1809.02156, counts those).

    references: captions by image. vocabulary: what can be named.
    """

    def __init__(self, references: Mapping[int, Sequence[str]], vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._shares = {
            image: {c: n / len(texts) for c, n in Counter(c for t in texts for c in vocabulary.find(t)).items()}
            for image, texts in references.items()
        }

    def __call__(self, images: Sequence[int], captions: Sequence[str]) -> Tensor:
        """(n,) float32: one caption for each image."""
        return torch.tensor(
            [
                sum(self._shares[image].get(concept, -_FALSE) for concept in self.vocabulary.find(caption))
                for image, caption in zip(images, captions, strict=True)
            ],
            dtype=torch.float32,
        )
