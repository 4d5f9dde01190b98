"""A memory that outlives a call: episodes written at once, recalled by picture or text, kept in a `.mem` file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bitmar.core.errors import ConfigError, ImageError, MemoryFileError
from bitmar.core.image import PhotoSource, load_photo
from bitmar.core.ternary import F32
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.memory import MemoryState
from bitmar.session.file import MemoryFile
from bitmar.session.layout import Ints, Shape, Vectors
from bitmar.session.pages import FilePages, RamPages
from bitmar.session.recall import Background, Index

if TYPE_CHECKING:
    from bitmar.runtime.api import BitMar
    from bitmar.session.transfer import Moved

_SLOTS = "model.memory.slots"  # M_0, what an empty slot holds
_FLAT = 4  # grey levels between the darkest and the brightest spot of a photo that shows nothing


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that was remembered.

    time: seconds since 1970. photo: hash of the photo's thumbnail, 16 hexadecimal digits that stay almost the same
    for a smaller or recompressed copy; None without a photo. usage: 1 is just used; the least used is
    overwritten first. cut: the text was too long for its record and ends early. lost: what this one has overwritten
    (text, time).
    """

    slot: int
    text: str
    time: float
    photo: str | None
    usage: float
    cut: bool = False
    lost: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """An episode that a picture or text has called up.

    score: resemblance, at most 1. margin: score minus the best of all other episodes, None if there is no other.
    confidence: how rarely something never seen would score as much (`Index.confidence`), a share below 1; None while
    there are too few episodes to tell.
    """

    episode: Episode
    score: float
    margin: float | None
    confidence: float | None


class Session:
    """What `BitMar.memory` returns. Writing is for one program at a time; reading for any number.

    The lock is taken at the first write and kept until `close` (or the end of a `with`). Not for several threads.
    """

    def __init__(self, model: BitMar, path: str | Path | None = None, *, salvage: bool = False) -> None:
        config = model.config
        if config.memory_integration == "off":
            raise ConfigError('this model has no memory (memory_integration is "off")')
        self.model, self.path = model, None if path is None else Path(path)
        if self.path is not None and not self.path.parent.is_dir():
            raise MemoryFileError(f"{self.path}: there is no folder {self.path.parent}: make it, or put its disk back")
        shape = Shape(config.memory_slots, config.memory_dim, config.hidden_size, config.memory_dim)
        pages = RamPages() if self.path is None else FilePages(self.path)
        self.file = MemoryFile(pages, shape, model.container.checksum, salvage=salvage)
        self._background = Background.of(model.container)
        self._indices: dict[str, Index | None] = {}
        self._state: MemoryState | None = None
        self._version = -1  # of the file, for which these two hold
        self._uses: dict[int, None] = {}  # slots recalled since the last write, the latest last

    def __repr__(self) -> str:
        return f"Session({str(self.path) if self.path else 'in RAM'}, {len(self)} of {self.file.shape.slots} slots)"

    def __len__(self) -> int:
        self.file.refresh()
        return len(self.file.live())

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing.

    def remember(self, text: str = "", image: PhotoSource | ImageTokens | None = None) -> Episode:
        """Write an episode at once: a picture, a text, or a text on a picture. It lasts when this returns.

        Without a free slot it overwrites the least used episode, which `Episode.lost` then names. Raises ImageError,
        also for a photo of one colour; ConfigError if there is neither; MemoryFileError.
        """
        text = text.strip()
        if not text and image is None:
            raise ConfigError("there is nothing to remember: give a text, a photo, or both")
        tokens, photo = self._look(image)
        self._keep_uses()
        return self._episode(self.file.write(self.encode(text, tokens), text, photo=photo))

    def note(self, text: str, query: F32) -> Episode:
        """Write an episode of a text that the model has just read: `query` (C,) is its memory's query behind it.

        Without a second reading; otherwise as `remember`.
        """
        self._keep_uses()
        return self._episode(self.file.write(Vectors(query, None, query), text.strip()))

    def encode(self, text: str, image: ImageTokens | None) -> Vectors:
        """What is stored of an episode: the model's query on both, and the keys to recall it by."""
        engine, prompt = self.model.engine, self.model._prompt(text)
        value = engine.query(prompt, engine.start(image))
        alone = None
        if text:
            alone = value if image is None else engine.query(prompt, engine.start())
        return Vectors(value, None if image is None else image_key(image), alone)

    def forget(self, *slots: int) -> None:
        """Empty these slots and wipe what they held. Raises MemoryFileError for a slot that is empty."""
        self._keep_uses()
        self.file.forget(slots)

    def merge(self, other: Session) -> Moved:
        """Take over another session's episodes; see `transfer`."""
        from bitmar.session.transfer import merge_memory

        return merge_memory(self, other)

    def import_(self, path: str | Path) -> Moved:
        """Take over what `export` wrote, also on another machine or with another model; see `transfer`."""
        from bitmar.session.transfer import import_memory

        return import_memory(self, path)

    def export(self, path: str | Path) -> int:
        """Write all episodes to a file of JSON lines: how many."""
        from bitmar.session.transfer import export_memory

        return export_memory(self, path)[0]

    def close(self) -> None:
        """Let another program write, and note what was recalled if nothing is in the way. It may be used again."""
        with contextlib.suppress(MemoryFileError):  # a reader on a read-only disk has done nothing wrong
            self._keep_uses()
        self.file.close()

    def _keep_uses(self) -> None:
        uses, self._uses = self._uses, {}
        if uses:
            self.file.begin()
            live = set(self.file.live().tolist())
            self.file.touch([slot for slot in uses if slot in live])

    # Reading.

    def recall(
        self, *, image: PhotoSource | ImageTokens | None = None, text: str | None = None, k: int = 1
    ) -> list[Recalled]:
        """The k episodes nearest to a picture or to a text, the best first; fewer where there are fewer.

        A picture finds episodes with a picture, a text those with a text. The best one counts as used. Raises
        ConfigError for both or neither, ImageError, MemoryFileError.
        """
        if (image is None) == (text is None or not text.strip()):
            raise ConfigError("recall needs either a photo or a text, and not both")
        if type(k) is not int or k < 1:
            raise ConfigError(f"k is how many episodes to recall, at least 1, not {k!r:.80}")
        if image is not None:
            tokens, _ = self._look(image)
            assert tokens is not None
            kind, key, words = "image", image_key(tokens), ""
        else:
            assert text is not None
            words = text.strip()
            key = self.model.engine.query(self.model._prompt(words), self.model.engine.start())
            kind = "text"
        found = self.file.consistently(lambda: self._nearest(kind, key, words, k))
        if found:
            slot = found[0].episode.slot
            self._uses.pop(slot, None)
            self._uses[slot] = None
        return found

    def _nearest(self, kind: str, key: F32, words: str, k: int) -> list[Recalled]:
        index = self._index(kind)
        if index is None:
            return []
        scores = index.scores(key, words)
        order = np.argsort(-scores, kind="stable")
        best = scores[order]
        found = []
        for rank, place in enumerate(order[:k].tolist()):
            rival = best[0 if rank else 1] if len(best) > 1 else None
            score = float(best[rank])
            margin = None if rival is None else score - float(rival)
            found.append(Recalled(self._episode(int(index.slots[place])), score, margin, index.confidence(score)))
        return found

    def inspect(self) -> list[Episode]:
        """All episodes, the latest first. Raises MemoryFileError."""

        def read() -> list[Episode]:
            return [self._episode(int(slot)) for slot in self.file.live()]

        return sorted(self.file.consistently(read), key=lambda episode: -episode.time)

    def stats(self) -> dict[str, Any]:
        """Numbers on the whole memory, ready for JSON."""
        self.file.refresh()
        live = self.file.live()
        return {
            "file": None if self.path is None else str(self.path),
            "bytes": self.file.size,
            "slots": self.file.shape.slots,
            "episodes": len(live),
            "with_photo": int(self.file.has("image").sum()),
            "with_text": int(self.file.has("text").sum()),
            "damaged": self.file.damaged,
            "made": self.file.made,
            "model": self.file.model,
        }

    def state_for(self, model: BitMar) -> MemoryState:
        """What `model` reads while it writes: its own M_0 with the episodes in their slots. Raises ConfigError."""
        if model.container.checksum != self.file.model:
            raise ConfigError("this memory belongs to another model: open it with `memory` of the model that reads it")
        return self.file.consistently(self._read_state)

    def _read_state(self) -> MemoryState:
        self._fresh()
        if self._state is None:
            live = self.file.live()
            slots = self.model.container.tensors[_SLOTS].copy()
            slots[live] = self.file.column("value", live)
            self._state = MemoryState(slots[None], self.file.usage(self.model.config.memory_decay)[None])
        return self._state

    def _index(self, kind: str) -> Index | None:
        self._fresh()
        if kind not in self._indices:
            slots: Ints = np.flatnonzero(self.file.has(kind))
            self._indices[kind] = None
            if len(slots):
                texts = [self.file.record(int(slot)).text for slot in slots] if kind == "text" else None
                background = self._background if kind == "image" else None
                self._indices[kind] = Index(slots, self.file.column(kind, slots), texts, background)
        return self._indices[kind]

    def _fresh(self) -> None:
        """Drop what was made of an earlier state of the file."""
        if self._version != self.file.version:
            self._indices, self._state, self._version = {}, None, self.file.version

    def _episode(self, slot: int) -> Episode:
        record = self.file.record(slot)
        usage = float(self.file.usage(self.model.config.memory_decay)[slot])
        photo = None if record.photo is None else f"{record.photo:016x}"
        lost = None if record.lost is None else (record.lost.text, record.lost.time)
        return Episode(slot, record.text, record.time, photo, usage, record.cut, lost)

    def _look(self, image: PhotoSource | ImageTokens | None) -> tuple[ImageTokens | None, int | None]:
        """A picture as the model sees it, and the hash of its thumbnail; prepared tokens have none."""
        if image is None or isinstance(image, ImageTokens):
            return self.model._image(image), None
        photo = load_photo(image)
        low, high = photo.resize((32, 32)).convert("L").getextrema()
        if float(high) - float(low) < _FLAT:  # type: ignore[arg-type]  # two numbers in a picture of one band
            raise ImageError("the photo shows one colour and nothing else: there is nothing to remember it by")
        return self.model.encode_image(photo), thumbnail_hash(photo)


def image_key(image: ImageTokens) -> F32:
    """What a picture is recalled by: the mean of its vision tokens (d,), of root mean square 1.

    The mean neither knows where something stands nor which way it looks, so a crop or a mirror image stays near.
    """
    mean = image.tokens.mean(axis=0)
    key: F32 = mean / np.maximum(np.sqrt(np.mean(mean * mean)), np.float32(1e-12))
    return key


def thumbnail_hash(photo: Image.Image) -> int:
    """64 bits: in each row of a grey thumbnail of 9 x 8, whether a pixel is brighter than its right neighbour."""
    grey = np.asarray(photo.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
