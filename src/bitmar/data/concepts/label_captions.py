"""What is said of photos that have no captions: chosen captions of others, questions about their labels and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import Labels, imagenet_nouns
from bitmar.data.concepts.questions import Box, label_questions
from bitmar.data.concepts.rewrite import CaptionPool, replace_noun
from bitmar.data.features import FeatureStore
from bitmar.data.joined import Said

LABELLED, PLAIN = 5, 3  # captions of a photo with a label, and of one without
TRUEST = 3  # of those of a label, what captions are rewarded for

_LONGEST = 16  # words of a caption whose noun is replaced


def label_of(meta: dict[str, object]) -> str:
    """The label of a photo, as `label` in its .json; "" where it has none."""
    label = meta.get("label")
    return label if isinstance(label, str) else ""


def say(
    store: FeatureStore, scores: npt.NDArray[np.float32], pool: CaptionPool, *, labelled: bool, seed: int = 0
) -> list[Said]:
    """Captions and questions for every photo of a store. scores (n, K): what a concept bank sees in them.

    A labelled photo whose label names no concept gets none; without `labelled` what the bank sees decides alone. There
    are questions where the label is a thing, such as those that ImageNet's classes name, or has boxes.
    """
    vocabulary, of = pool.vocabulary, Labels(pool.vocabulary)
    concepts = [of(label_of(store[i].meta)) if labelled else [] for i in range(len(store))]
    mains = [found[0] for found in concepts if found]
    things, rng = set(imagenet_nouns().values()), np.random.default_rng(seed)
    said = []
    for i, found in enumerate(concepts):
        if labelled and not found:
            said.append(Said(()))
            continue
        captions = pool.choose(scores[i].copy(), found, LABELLED if found else PLAIN)
        nouns, boxes = [vocabulary.names[concept] for concept in found], _boxes(store[i].meta)
        questions: list[list[str]] = []
        if nouns and (nouns[0] in things or boxes):
            drawn = [mains[int(k)] for k in rng.integers(len(mains), size=4 * len(nouns))]
            others = [vocabulary.names[concept] for concept in drawn if concept not in found]
            questions = label_questions(nouns, others[: len(nouns)], boxes)
        said.append(Said(tuple(captions), tuple(map(tuple, questions))))
    return said


def truest(said: Sequence[Said], shown: Sequence[set[int]], vocabulary: Vocabulary) -> list[Said]:
    """Of each photo's captions the few that name the least that is not there. shown: what is, by photo."""

    def of(captions: Sequence[str], known: set[int]) -> tuple[str, ...]:
        return tuple(sorted(captions, key=lambda caption: len(set(vocabulary.find(caption)) - known))[:TRUEST])

    return [replace(each, captions=of(each.captions, known)) for each, known in zip(said, shown, strict=True)]


def _boxes(meta: dict[str, object]) -> list[Box]:
    """`boxes_rel` of a photo's .json: [[name, [left, top, right, bottom]], ...] from 0 to 1; what is not so is left."""
    found = meta.get("boxes_rel")
    boxes: list[Box] = []
    for box in found if isinstance(found, list) else ():
        match box:
            case [str(name), [*sides]] if len(sides) == 4 and all(isinstance(side, int | float) for side in sides):
                left, top, right, bottom = map(float, sides)
                boxes.append((name, (left, top, right, bottom)))
    return boxes


def with_other_nouns(captions: Sequence[str], vocabulary: Vocabulary, rng: np.random.Generator) -> list[str]:
    """Short captions with the first thing they name replaced by any other noun of ImageNet's classes.

    With tags of the new noun they teach that words follow the tags, even where no caption has ever said so.
    """
    nouns = sorted(set(imagenet_nouns().values()))
    singles = {noun for noun in nouns if not noun.endswith("s")}
    made = []
    for caption in captions:
        if len(caption.split()) > _LONGEST:
            continue
        padded = " " + caption.lower().replace(".", " ").replace(",", " ") + " "
        named = (vocabulary.names[concept] for concept in vocabulary.find(caption))
        own = next((noun for noun in named if noun in singles and f" a {noun} " in padded), None)
        if own is not None:
            changed = replace_noun(caption, own, nouns[int(rng.integers(len(nouns)))])
            if changed != caption:
                made.append(changed)
    return made
