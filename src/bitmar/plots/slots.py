"""The memory's slots: which texts read them, how much they are used, what they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.ternary import F32
from bitmar.data.sources import OnBad
from bitmar.data.text import clean_text
from bitmar.evaluate.passages import SENTENCES, heldout_documents
from bitmar.evaluate.photos import readable_photos
from bitmar.plots.trace import Tracer
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.text import encode
from bitmar.session.session import Session

EACH = 24  # passages of a kind
_TOKENS = 48  # of a passage
_CHARACTERS = 240
_PARTS = 6  # of a document, one after the other

Tick = Callable[[], None]


@dataclass(frozen=True)
class Passage:
    """A short text of some kind, with the photo it is about or without."""

    kind: str
    text: str
    photo: Image.Image | None = None


@dataclass(frozen=True)
class Reading:
    """activation (K, n): the share that each slot has in the reads of each passage, mean over its tokens."""

    name: str
    activation: F32

    @property
    def ranked(self) -> F32:
        """Reads (K, n), with the most-read slot on top."""
        order = np.argsort(-self.activation.mean(axis=1), kind="stable")
        return self.activation[order]

    @property
    def needed(self) -> int:
        """How few slots get half of all reads."""
        return int(np.searchsorted(np.cumsum(self.ranked.mean(axis=1)), 0.5)) + 1


@dataclass(frozen=True)
class Held:
    """A slot, its share of all reads, and what it holds: an episode's text, or else the texts that read it the most."""

    slot: int
    share: float
    texts: list[str]


def passages(
    data: Sequence[str],
    texts: Sequence[str],
    heldout: float = 0.01,
    *,
    photos: bool = True,
    each: int = EACH,
    on_bad: OnBad | None = None,
) -> list[Passage]:
    """Captions of shards, with their photos if asked for, and the beginnings of held-out documents, by kind.

    Of each kind (the captions, a file) at most `each`. Neither shards nor texts: sentences that come with bitmar.
    Raises DataError for texts without a document.
    """
    found: list[Passage] = []
    for sample, photo in readable_photos(data, each, on_bad) if data else ():
        found.append(Passage("captions", clean_text(sample.captions[0], "caption"), photo if photos else None))
    for path in texts:
        kinds: dict[str, list[Passage]] = {}
        for kind, document in heldout_documents([path], heldout):
            there = kinds.setdefault(kind, [])
            there += [Passage(kind, part) for part in _cut(document)[: each - len(there)]]
            if len(there) >= each and len(kinds) == 1 and "*" not in str(path):
                break
        if not kinds:
            raise DataError(f"no document of {path} is held out (share {heldout}): give more text, or --heldout 1")
        found += [passage for there in kinds.values() for passage in there]
    return found or [Passage(kind, text) for kind, group in SENTENCES.items() for text in group]


def _cut(document: str) -> list[str]:
    """Its first parts, cut at spaces."""
    words = " ".join(document[: (_PARTS + 2) * _CHARACTERS].split())
    parts: list[str] = []
    while words and len(parts) < _PARTS:
        end = len(words) if len(words) <= _CHARACTERS else max(words.rfind(" ", 0, _CHARACTERS), 1)
        parts.append(words[:end])
        words = words[end:].strip()
    return parts


def read(name: str, model: BitMar, found: Sequence[Passage], memory: MemoryState | None, tick: Tick) -> Reading:
    """Let a model read every passage. Raises ConfigError for one without a memory."""
    if model.config.memory_integration == "off":
        raise ConfigError(f"{model.path} was built without a memory: there are no slots to look at")
    tracer, columns = Tracer(model.container), []
    for passage in found:
        seen = passage.photo is not None and model.engine.tower is not None
        image = model.encode_image(passage.photo) if seen else None
        ids = np.array([model.config.bos_token_id, *encode(model.tokenizer, passage.text)[:_TOKENS]])
        reads = tracer.run(ids, image, memory).reads
        assert reads is not None  # there is a memory
        columns.append(reads.mean(axis=0))
        tick()
    return Reading(name, np.stack(columns, axis=1))


def held(reading: Reading, found: Sequence[Passage], session: Session | None, *, slots: int = 8) -> list[Held]:
    """The slots that are read the most, with what they hold."""
    share = reading.activation.mean(axis=1)
    order = np.argsort(-share, kind="stable")
    remembered = {episode.slot: episode.text for episode in session.inspect()} if session else {}
    if remembered:
        order = np.array([slot for slot in order.tolist() if slot in remembered])

    def texts(slot: int) -> list[str]:
        if slot in remembered:
            return [remembered[slot] or "(a photo without a text)"]
        best = np.argsort(-reading.activation[slot], kind="stable")[:2]
        return [found[i].text for i in best.tolist()]

    return [Held(slot, float(share[slot]), texts(slot)) for slot in order[:slots].tolist()]


def usage_along(model: BitMar, found: Sequence[Passage], memory: MemoryState | None, tick: Tick) -> F32:
    """Usage (K, writes) while the passages are written into the memory one after the other."""
    columns = []
    for passage in found:
        memory = model.remember(passage.text, memory=memory)
        columns.append(memory.usage[0])
        tick()
    return np.stack(columns, axis=1)
