"""Concepts: the few hundred words by which photos are told apart, and how they are found in captions and labels.

A concept is a word or a short phrase as captions use it ("dog", "fire truck", "riding"). Captions name them, labels and
the classes of a pretrained backbone stand for them, and a model learns keys that find them in a photo
(`bitmar.train.concepts`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files

import numpy as np
import numpy.typing as npt

IMAGENET_CLASSES = 1000
LONGEST = 3  # words of a phrase

_WORD = re.compile(r"[a-z]+")
# Words that say nothing about what is to be seen.
_STOP = frozenset(
    "a an the this that these those there here it its he she his her him hers they them their theirs we our us you your i "
    "my me one ones some any all both each every other others another several many much more most few lot lots number "
    "group pair couple bunch set piece pieces part parts kind type types way side top bottom back front end edge middle "
    "center corner left right and or but nor so as at by for from in into of off on onto out over to under up upon with "
    "within without while when where which who whose what how through across around along against among between behind "
    "below beneath beside besides near next down during after before about above toward towards inside outside is are "
    "was were be been being am has have having had do does doing did can could will would may might must shall should "
    "not no very too just also only even still again then than like looks look looking appears appear seems seen shown "
    "showing shows show see sees image picture photo photograph view shot scene background foreground close distance "
    "get gets getting got go goes going gone come comes coming make makes making made take takes taking taken put puts "
    "putting use uses using used try tries trying being else something someone somebody everyone t s d ll re ve m "
    "posing poses pose different various together away ahead past per via area place places thing things time what "
    "filled covered full attached facing same next ready about well".split()
)
_SAME = {
    "puppy": "dog", "puppies": "dog", "dogs": "dog", "kitten": "cat", "kittens": "cat", "bike": "bicycle",
    "bikes": "bicycle", "bicycles": "bicycle", "motorbike": "motorcycle", "motorbikes": "motorcycle", "tv": "television",
    "airplanes": "airplane", "plane": "airplane", "planes": "airplane", "jet": "airplane", "kid": "child",
    "kids": "child", "children": "child", "toddler": "child", "lady": "woman", "ladies": "woman", "women": "woman",
    "guy": "man", "guys": "man", "men": "man", "male": "man", "female": "woman", "persons": "person", "cellphone": "phone",
    "cows": "cow", "cattle": "cow", "bull": "cow", "calf": "cow", "lamb": "sheep", "lambs": "sheep", "sofa": "couch",
    "firetruck": "fire truck", "rhinoceros": "rhino", "hippopotamus": "hippo", "bunny": "rabbit", "rooster": "chicken",
    "hen": "chicken", "pony": "horse", "horses": "horse", "grey": "gray", "doughnut": "donut", "doughnuts": "donut",
    "infant": "baby", "babies": "baby", "people": "people", "automobile": "car", "seagull": "bird", "seagulls": "bird",
    "skiis": "skis", "ski": "skiing", "skier": "skiing", "skiers": "skiing", "surfer": "surfing", "surfers": "surfing",
    "snowboarder": "snowboarding", "skateboarder": "skateboarding", "leaves": "leaf", "knives": "knife", "sheep": "sheep",
    "wolves": "wolf", "geese": "goose", "mice": "mouse", "teeth": "teeth", "glasses": "glasses", "mom": "woman",
    "mother": "woman", "dad": "man", "father": "man", "gentleman": "man", "cyclist": "bicycle", "bicyclist": "bicycle",
    "streetcar": "trolley", "sailboats": "sailboat", "racquet": "racket", "colour": "color", "ocean": "ocean",
}  # fmt: skip

_FURTHER = ("sheep", "person", "man", "woman", "child", "people", "animal", "food")


def words(text: str) -> list[str]:
    """The words of a text, lower-case letters only."""
    return _WORD.findall(text.lower())


class Vocabulary:
    """A list of concepts, and where they occur in a text."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.index = {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], int]:
        return {tuple(name.split()): i for name, i in self.index.items() if " " in name}

    def concept(self, word: str) -> int | None:
        """The concept that a single word stands for: itself, a synonym or its plural."""
        for form in (word, _SAME.get(word), *singulars(word)):
            if form is not None and form in self.index:
                return self.index[form]
        return None

    def find(self, text: str) -> list[int]:
        """The concepts that a text names, in their order, each once; the longest phrase first."""
        tokens, found, at = words(text), [], 0
        while at < len(tokens):
            for length in range(min(LONGEST, len(tokens) - at), 0, -1):
                concept = self._look_up(tokens[at : at + length])
                if concept is not None:
                    found.append(concept)
                    break
            at += length
        return list(dict.fromkeys(found))

    def _look_up(self, tokens: list[str]) -> int | None:
        if len(tokens) == 1:
            return self.concept(tokens[0])
        for last in (tokens[-1], *singulars(tokens[-1])):
            if (place := self._phrases.get((*tokens[:-1], last))) is not None:
                return place
        return None


def singulars(word: str) -> list[str]:
    """What a word may be the plural of."""
    found = []
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
    return found


def build_vocabulary(captions_of_photos: Iterable[Sequence[str]], least: int = 25) -> Vocabulary:
    """The nouns of the ImageNet classes and of the labels, and content words that captions of `least` photos share."""
    counts: Counter[str] = Counter()
    for captions in captions_of_photos:
        counts.update({word for caption in captions for word in words(caption)})
    names = dict.fromkeys(sorted({*imagenet_nouns().values(), *(c for of in label_table().values() for c in of)}))
    names |= dict.fromkeys(_FURTHER)
    for word, count in counts.most_common():
        if count < least or len(word) < 3 or word in _STOP:
            continue
        word = _SAME.get(word, word)
        base = next((form for form in singulars(word) if counts[form] >= least and form not in _STOP), word)
        names.setdefault(_SAME.get(base, base))
    return Vocabulary(list(names))


def imagenet_nouns() -> Mapping[int, str]:
    """ImageNet class number -> the noun that a caption would use."""
    table = (files(__name__) / "imagenet.tsv").read_text(encoding="utf-8")
    nouns: dict[int, str] = {}
    for line in table.splitlines():
        if line.startswith("#") or not line:
            continue
        numbers, noun = line.split("\t")
        for part in numbers.split():
            low, _, high = part.partition("-")
            nouns |= dict.fromkeys(range(int(low), int(high or low) + 1), noun)
    return nouns


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes by name, in the order of their numbers."""
    return tuple((files(__name__) / "imagenet_names.txt").read_text(encoding="utf-8").splitlines())


def label_table() -> Mapping[str, tuple[str, ...]]:
    """Label, in lower case -> the concepts that a caption would name, the main one first."""
    table = (files(__name__) / "labels.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in table.splitlines() if line and not line.startswith("#"))
    return {label: tuple(concepts.split(", ")) for label, concepts in rows}


class Labels:
    """From the label of a photo to the concepts that are to be seen in it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        nouns = imagenet_nouns()
        named = {name.lower(): (nouns[i],) for i, name in enumerate(imagenet_names()) if i in nouns}
        self._concepts = {**named, **label_table()}

    def __call__(self, label: str) -> list[int]:
        """The concepts of a label such as "tabby", "Red Bell Pepper" or "bicycle, car, person"; [] for none."""
        found: list[int] = []
        for part in re.split(r", | and ", label.lower()):
            found += self._one(part)
        return list(dict.fromkeys(found))

    def _one(self, label: str) -> list[int]:
        tokens = label.split()
        tails = (" ".join(tokens[i:]) for i in range(len(tokens)))  # "red bell pepper", "bell pepper", "pepper"
        known = next((self._concepts[tail] for tail in tails if tail in self._concepts), None)
        if known is None:
            known = next((self._concepts[token] for token in tokens if token in self._concepts), None)
        if known is not None:
            return [self.vocabulary.index[name] for name in known if name in self.vocabulary.index]
        return self.vocabulary.find(label)


def class_concepts(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """(1000,) the concept of each ImageNet class, -1 where there is none."""
    found = np.full(IMAGENET_CLASSES, -1, np.int64)
    for number, noun in imagenet_nouns().items():
        found[number] = vocabulary.index.get(noun, -1)
    return found
