"""Episodes, which the memory is for: photos are remembered with a text, and met again in another view.

Nobody who has not remembered can know these texts: the very words of one of five people's captions, or a name that has
nothing to do with the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitmar.api import BitMar
from bitmar.evaluate.ablation_measure import Measure
from bitmar.evaluate.ablation_tasks import Tick
from bitmar.evaluate.ablation_variants import LITERAL, OFF, ON, OTHERS, UNRECITED, UNWRITTEN
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.memory import MemoryState
from bitmar.session.session import Session

NAMES = ("Rex", "Anna", "Peter", "Molly", "Oscar", "Lucy", "Henry", "Rosa", "Max", "Clara", "Simon", "Ruby", "Felix",
         "Emma", "Hugo", "Nora")  # fmt: skip
_NAMING = "This is {}."

Memory = MemoryState | Session | None
Answers = tuple[list[float], list[float]]  # of each photo: a number, and what stands behind it
Ask = Callable[[str, BitMar, Memory], Answers]  # variant, who answers, with which memory


@dataclass(frozen=True)
class Album:
    """Photos that are met twice: a view to remember, another one, and one person's caption. All are (n,)."""

    first: Sequence[ImageTokens]
    again: Sequence[ImageTokens]
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)

    def pick(self, places: Sequence[int]) -> Album:
        """Some of them, in this order."""
        first, again = ([views[i] for i in places] for views in (self.first, self.again))
        return Album(first, again, [self.captions[i] for i in places])


def by_writing(model: BitMar, images: Sequence[ImageTokens], texts: Sequence[str]) -> Memory:
    """The model's own write rule (eq. 1), one episode after the other, from M_0."""
    memory: MemoryState | None = None
    for image, text in zip(images, texts, strict=True):
        memory = model.remember(text, image, memory=memory)
    return memory


def by_session(model: BitMar, images: Sequence[ImageTokens], texts: Sequence[str]) -> Memory:
    """A slot for each episode, as `BitMar.memory` keeps them."""
    session = model.memory()
    for image, text in zip(images, texts, strict=True):
        session.remember(text, image)
    return session


def episodes(models: Mapping[str, BitMar], album: Album, seeds: int, count: int, tick: Tick) -> list[Measure]:
    """Remember `count` photos, then meet them in another view; which ones and in what order, `seeds` times by chance.

    `count` is at most half the album: the other half are the photos of OTHERS. The units are the photos of all seeds.
    """
    count = min(count, len(album) // 2)
    named = min(count, len(NAMES))
    rule, session = "by the model's rule", "in a session"
    captions = _Collected(f"caption of {count} remembered {{}}", "log-probability a token")
    names = _Collected(f"name out of {named} remembered {{}}, by likelihood", f"share right, chance {1 / named:.1%}")
    said = _Collected(f"name out of {named} remembered {{}}, said in the caption", "share right")
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(album)).tolist()
        mine, others = album.pick(order[:count]), album.pick(order[count : 2 * count])
        few, few_others = mine.pick(range(named)), others.pick(range(named))
        called = rng.permutation(NAMES)[:named].tolist()
        texts = [_NAMING.format(name) for name in called]
        for how, store in ((rule, by_writing), (session, by_session)):
            captions.add(how, models, store, (mine, mine.captions), (others, others.captions), _caption_scores(mine))
            strange = (few_others, texts[::-1])
            names.add(how, models, store, (few, texts), strange, _name_choices(few, texts))
            if store is by_session:
                said.add(how, models, store, (few, texts), strange, _names_said(few, called), UNRECITED)
            tick()
    return [measure for each in (captions, names, said) for measure in each.measures()]


def _caption_scores(album: Album) -> Ask:
    """Log-probability of each remembered caption beside the other view, and its tokens."""

    def ask(variant: str, model: BitMar, memory: Memory) -> Answers:
        pairs = zip(album.captions, album.again, strict=True)
        scores = [model.score(text, image, memory=memory) for text, image in pairs]
        return [float(score.sum(dtype=np.float64)) for score in scores], [float(len(score)) for score in scores]

    return ask


def _name_choices(album: Album, texts: Sequence[str]) -> Ask:
    """1 where of all names a photo's own gains the most from the photo: its score less that name's mean over photos.

    A common name is likelier than a rare one whatever the photo shows, and that is no knowledge.
    """

    def ask(variant: str, model: BitMar, memory: Memory) -> Answers:
        scores = [[model.score(text, image, memory=memory).sum(dtype=np.float64) for text in texts]
                  for image in album.again]  # fmt: skip
        table = np.array(scores)
        best = (table - table.mean(axis=0)).argmax(axis=1).tolist()
        return [float(place == i) for i, place in enumerate(best)], [1.0] * len(texts)

    return ask


def _names_said(album: Album, names: Sequence[str]) -> Ask:
    """1 where the caption of the other view has the photo's name in it. UNRECITED leaves the words to the model."""

    def ask(variant: str, model: BitMar, memory: Memory) -> Answers:
        recite = variant != UNRECITED
        texts = [model.caption(image, memory=memory, recite=recite) for image in album.again]
        return [float(name in text) for name, text in zip(names, texts, strict=True)], [1.0] * len(names)

    return ask


class _Collected:
    """One figure's units over the seeds, by how the episodes were stored."""

    def __init__(self, name: str, unit: str) -> None:
        self._name, self._unit = name, unit
        self._values: dict[str, dict[str, list[float]]] = {}
        self._weights: dict[str, list[float]] = {}

    def add(
        self,
        how: str,
        models: Mapping[str, BitMar],
        store: Callable[[BitMar, Sequence[ImageTokens], Sequence[str]], Memory],
        right: tuple[Album, Sequence[str]],
        strange: tuple[Album, Sequence[str]],
        ask: Ask,
        *further: str,
    ) -> None:
        """Ask every variant, each with its memory: of the `right` episodes, of `strange` ones, or of none."""
        on = models[ON]
        full = store(on, right[0].first, right[1])
        asked: dict[str, tuple[BitMar, Memory]] = {
            ON: (on, full),
            OFF: (models[OFF], None),
            UNWRITTEN: (on, None),
            OTHERS: (on, store(on, strange[0].first, strange[1])),
            **{variant: (on, full) for variant in further},
        }
        if LITERAL in models and store is by_writing:
            literal = models[LITERAL]
            asked[LITERAL] = (literal, store(literal, right[0].first, right[1]))
        for variant, (model, memory) in asked.items():
            values, weights = ask(variant, model, memory)
            self._values.setdefault(how, {}).setdefault(variant, []).extend(values)
        self._weights.setdefault(how, []).extend(weights)

    def measures(self) -> list[Measure]:
        """One for each way of storing."""
        found = []
        for how, values in self._values.items():
            arrays = {variant: np.array(numbers) for variant, numbers in values.items()}
            name = self._name.format(how)
            found.append(Measure("recall", name, self._unit, "higher", arrays, np.array(self._weights[how])))
        return found
