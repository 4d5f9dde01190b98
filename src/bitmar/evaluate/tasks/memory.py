"""Does the episodic memory help, and what does it cost? The paper's Tables 3 and 4, measured with controls.

Same weights and same work everywhere but in the memory, paired intervals, and a control for each claim: what a memory
brings that nobody has written (trained weights like others), and what one brings that holds other episodes.

Episodes, which the memory is for, are photos that are remembered with a text and met again in another view. Nobody who
has not remembered can know these texts: the very words of one of five people's captions, or a name that has nothing to
do with the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError
from bitmar.core.files import write_atomically
from bitmar.evaluate.folder import LONG_TEXTS, Absent, EvalData
from bitmar.evaluate.passages import heldout_documents
from bitmar.evaluate.photos import another_view, readable_photos
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.scorer import packed
from bitmar.evaluate.task import Option
from bitmar.evaluate.tasks.babylm.blimp import read_pairs
from bitmar.evaluate.tasks.memory_tables import conclusion, whole_table
from bitmar.evaluate.tasks.memory_trials import (
    LITERAL,
    MEANING,
    OFF,
    ON,
    OTHERS,
    UNRECITED,
    UNWRITTEN,
    Measure,
    Tick,
    captions,
    document_ids,
    documents,
    grammar,
    peak_rss,
    speed,
    variants,
)
from bitmar.evaluate.work import Work
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.memory import MemoryState
from bitmar.session.session import Session

EPISODES, PHOTOS = 32, 200
# Of the photos: a long document costs about as much as eight of them, which cost as much as eighty pairs.
DOCUMENTS, PAIRS = 1 / 8, 10

NAMES = ("Rex", "Anna", "Peter", "Molly", "Oscar", "Lucy", "Henry", "Rosa", "Max", "Clara", "Simon", "Ruby", "Felix",
         "Emma", "Hugo", "Nora")  # fmt: skip
_NAMING = "This is {}."

Memory = MemoryState | Session | None
Answers = tuple[list[float], list[float]]  # of each photo: a number, and its detail
Ask = Callable[[str, BitMar, Memory], Answers]  # variant, who answers, with which memory


def run(
    scorer: Scorer,
    work: Work,
    *,
    data: Annotated[
        list[str] | None, Option("WebDataset shards with captions. Can be repeated.", "SHARDS", "shards")
    ] = None,
    text: Annotated[list[str] | None, Option("Long texts, plain or compressed. Can be repeated.", "FILE")] = None,
    heldout: Annotated[
        float, Option("Share of documents to use, as `heldout` of a recipe; 1 is all.", least=0, most=1)
    ] = 0.01,
    blimp: Annotated[Path | None, Option("Minimal pairs of sentences.", "ZIP|FOLDER|JSONL", "path")] = None,
    seeds: Annotated[int, Option("Random draws of the episodes.", least=1)] = 3,
    markdown: Annotated[Path | None, Option("Write the table here as Markdown.", "FILE")] = None,
) -> dict[str, Any]:
    """Measure a model with its memory on, off and by the paper's literal equations: quality, speed and RAM.

    Without --data, --text and --blimp it measures on the photos, novels, talks and sentence pairs below $BITMAR_DATA.
    """
    sources = Sources(data or (), text or (), blimp, heldout)
    found = ablate_memory(with_memory(scorer), sources, work, seeds=seeds).to_dict()
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(markdown, whole_table(found).encode())
    return found


def with_memory(scorer: Scorer) -> BitMar:
    """The packed model; Absent for one without a memory."""
    model = packed(scorer)
    if model.config.memory_integration == "off":
        raise Absent("this model was built without a memory: there is nothing to switch off")
    return model


def files(source: EvalData) -> dict[str, Any]:
    """Photos, long texts and pairs, as far as they are there."""
    found: dict[str, Any] = {"text": source.texts(LONG_TEXTS) or None}
    for name, look_up in (("data", source.shards), ("blimp", source.blimp)):
        with suppress(Absent):  # the ablation names what it leaves out
            found[name] = look_up()
    if not any(found.values()):
        raise Absent(f"{source.folder} has neither photos with captions, nor long texts, nor BLiMP")
    return found


def sizes(limit: int | None) -> dict[str, int]:
    """How much of everything a report takes."""
    return {"seeds": 3 if limit is None else 1, "limit": PHOTOS if limit is None else max(4, min(limit, PHOTOS))}


@dataclass(frozen=True)
class Sources:
    """Where the tasks' data is. Empty: the task is left out.

    heldout: the share of documents that training kept out, by which they are chosen here; 1 takes all.
    """

    photos: Sequence[str] = ()
    texts: Sequence[str] = ()
    pairs: Path | None = None
    heldout: float = 0.01


@dataclass(frozen=True)
class Ablation:
    """left_out: by task, why it could not be measured."""

    model: str
    engine: str
    seeds: int
    measures: Sequence[Measure]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        rows = [measure.to_dict() for measure in self.measures]
        return {
            "model": self.model,
            "engine": self.engine,
            "seeds": self.seeds,
            "variants": MEANING,
            "rows": rows,
            "left_out": self.left_out,
            "conclusion": conclusion(rows),
        }


def ablate_memory(model: BitMar, sources: Sources, work: Work, *, seeds: int = 3) -> Ablation:
    """Measure `model` with its memory on, off and literal on every task that `sources` has data for, and the costs.

    seeds: draws of the photos that are remembered. The limit of `work`, or else PHOTOS, is of photos, with DOCUMENTS
    and PAIRS times as many long documents and minimal pairs. Raises ConfigError for a model without a memory or without
    any data, DataError.
    """
    limit = PHOTOS if work.limit is None else work.limit
    if seeds < 1 or limit < 2:
        raise ConfigError("the ablation needs at least one seed and a limit of at least 2")
    if not (sources.photos or sources.texts or sources.pairs):
        raise ConfigError(
            "there is no data to measure on: give photos with captions (--data 'val-*.tar'), long texts (--text FILE) "
            "or minimal pairs (--blimp blimp_filtered.zip), or set BITMAR_DATA to a folder that has them"
        )
    models, measures, left_out = variants(model), list[Measure](), dict[str, str]()

    def begin(name: str) -> Tick:
        work.on_step(name, 0, None)
        return lambda: work.on_step(name, None, None)

    if sources.texts:
        held = [text for _, text in heldout_documents(sources.texts, sources.heldout)]
        texts = document_ids(model, held, max(2, int(DOCUMENTS * limit)))
        if len(texts) > 1:
            measures += documents(models, texts, begin("long documents"))
        else:
            left_out["long documents"] = (
                f"{len(texts)} documents are held out (share {sources.heldout}) and longer than the window; give more "
                "text, or --heldout 1 for texts that were not trained on"
            )
    else:
        left_out["long documents"] = "no --text"
    if sources.photos and model.engine.tower is not None:
        album, references = _album(model, sources.photos, limit, begin("photos"), work)
        if len(album) < 4:
            raise ConfigError(f"{len(album)} photos with captions are too few to measure on: give more with --data")
        found, missing = captions(models, album.first, references, begin("captions"))
        measures += found
        if missing:
            left_out["CIDEr"] = missing
        measures += episodes(models, album, seeds, EPISODES, begin("recall"))
    else:
        left_out["captions, recall"] = "no --data" if not sources.photos else "the model has no vision tower"
    if sources.pairs is not None:
        pairs = read_pairs(sources.pairs, work.on_bad)
        chosen = np.random.default_rng(0).permutation(len(pairs))[: PAIRS * limit]
        measures += grammar(models, [pairs[i] for i in chosen.tolist()], begin("grammar"))
    else:
        left_out["grammar"] = "no --blimp"
    begin("speed and RAM")
    measures += [*speed(models), peak_rss(models)]
    return Ablation(str(model.path), model.engine.name, seeds, measures, left_out)


def _album(
    model: BitMar, patterns: Sequence[str], limit: int, tick: Tick, work: Work
) -> tuple[Album, list[tuple[str, ...]]]:
    """The photos in two views each, encoded once for all variants, and all their captions."""
    first, again, texts = list[ImageTokens](), list[ImageTokens](), list[tuple[str, ...]]()
    rng = np.random.default_rng(0)
    for sample, photo in readable_photos(patterns, limit, work.on_bad):
        first.append(_portable(model.encode_image(photo)))
        again.append(_portable(model.encode_image(another_view(photo, rng))))
        texts.append(sample.captions)
        tick()
    return Album(first, again, [group[0] for group in texts]), texts


def _portable(image: ImageTokens) -> ImageTokens:
    """Without what one engine has prepared, so that each variant prepares its own."""
    return ImageTokens(image.tokens, None, image.pooled)


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
