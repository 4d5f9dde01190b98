"""A memory that outlives a call: episodes written at once, recalled by picture or text, kept in a `.mem` file."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container
from bitmar.core.errors import ConfigError, ImageError, MemoryFileError, told
from bitmar.core.image import PhotoSource, load_photo
from bitmar.core.ternary import F32
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.text import checked
from bitmar.session import transfer
from bitmar.session.file import MemoryFile
from bitmar.session.indices import Indices
from bitmar.session.keep import keep
from bitmar.session.layout import Episode, Shape, Vectors
from bitmar.session.pages import FilePages, RamPages
from bitmar.session.recall import Background, Recognizer
from bitmar.session.slots import Reading, SlotReader

MOST_SLOTS = 1 << 16
_FLAT = 4  # grey levels between the darkest and the brightest spot of a photo that shows nothing


class Model(Protocol):
    """The interface of a model to a session; `BitMar` has it."""

    container: Container
    config: ModelConfig

    def image_tokens(self, image: PhotoSource | ImageTokens) -> ImageTokens:
        """A photo encoded; tokens checked."""
        ...

    def query(self, text: str, image: ImageTokens | None = None) -> F32:
        """The memory's query q (C,) after a text, about a picture or not, with nothing remembered."""
        ...


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
    """The memory that `BitMar.memory` opens. Threads may share one; of several programs one writes, any number read.

    The lock is taken at the first write, waiting for it as long as `wait` says (seconds), and kept until `close` (or
    the end of a `with`). After os.fork() both processes may go on: each takes the lock for itself. A session cannot be
    copied or pickled; another process opens the file anew.

    slots: how many episodes there is room for, up to 65,536, in a new file; one that is there and has fewer grows with
    the next write. By default as many as the model has, or the file that is there.
    """

    def __init__(
        self,
        model: Model,
        path: str | Path | None = None,
        *,
        slots: int | None = None,
        salvage: bool = False,
        wait: float = 0.0,
    ) -> None:
        config = model.config
        if config.memory_integration == "off":
            raise ConfigError('this model has no memory (memory_integration is "off")')
        if isinstance(wait, bool) or not isinstance(wait, (int, float)) or not 0 <= wait < math.inf:
            raise ConfigError(f"wait is how many seconds to wait for another program, at least 0, not {told(wait)}")
        if slots is not None and (type(slots) is not int or not 1 <= slots <= MOST_SLOTS):
            raise ConfigError(f"slots is how many episodes a memory has room for, 1 to {MOST_SLOTS}, not {told(slots)}")
        self.model, self.path = model, None if path is None else Path(os.path.abspath(path))
        if self.path is not None and not os.path.isdir(self.path.parent):  # False too where nobody may look
            raise MemoryFileError(f"{path}: there is no folder {Path(str(path)).parent}: make it, or put its disk back")
        self._background = Background.of(model.container)
        self._recognizer = Recognizer(self._background, config.hidden_size)
        shape = Shape(slots or config.memory_slots, config.memory_dim, self._recognizer.width, config.memory_dim)
        pages = RamPages() if path is None else FilePages(path, wait=wait)
        checksum = model.container.checksum
        grow = slots is not None
        self.file = MemoryFile(pages, shape, checksum, decay=config.memory_decay, salvage=salvage, grow=grow)
        self._slots = SlotReader(self.file, model.container, config)
        self._indices = Indices(self.file, self._background)
        self._uses: dict[int, None] = {}  # slots recalled since the last write, the latest last
        self._lock = threading.RLock()
        _sessions.add(self)

    def __repr__(self) -> str:
        return f"Session({str(self.path) if self.path else 'in RAM'}, {len(self)} of {self.file.shape.slots} slots)"

    def __len__(self) -> int:
        with self._lock:
            self.file.refresh()
            return len(self.file.live())

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise ConfigError(
            "a Session holds an open file and cannot be pickled or copied: in the other process load the model and "
            "open the same path with model.memory(path)"
        )

    # Writing.

    def remember(self, text: str = "", image: PhotoSource | ImageTokens | None = None) -> Episode:
        """Write an episode at once: a picture, a text, or a text on a picture. It lasts when this returns.

        `Episode.change` says what became of it: "new"; "updated", the same photo had another text, which
        `Episode.lost` then names; "unchanged", the same photo with this text, or with none given now, or the same text
        alone is there already. Without a free slot a new one overwrites the least used episode, which `Episode.lost`
        names. Raises ImageError, also for a photo of one colour; ConfigError if there is neither; TokenizerError;
        MemoryFileError.
        """
        text = checked(text).strip()
        if not text and image is None:
            raise ConfigError("there is nothing to remember: give a text, a photo, or both")
        seen, photo = self._look(image, self._recognizer.turns)
        vectors = self._encode(text, seen)
        with self._lock:
            self._keep_uses()
            return keep(self.file, vectors, text, photo=photo)

    def note(self, text: str, query: F32) -> Episode:
        """Write an episode of a text that the model has just read: `query` (C,) is its memory's query after it.

        Without a second reading, and always as a new episode; otherwise as `remember`.
        """
        with self._lock:
            self._keep_uses()
            slot = self.file.write(Vectors(query, None, query), text.strip())
            return replace(self.file.episode(slot), change="new")

    def _encode(self, text: str, seen: list[ImageTokens]) -> Vectors:
        """The vectors of an episode: the model's query on both, and the keys to recall it by.

        seen: the photo, and its turns.
        """
        value = self.model.query(text, seen[0] if seen else None)
        alone = None
        if text:
            alone = self.model.query(text) if seen else value
        return Vectors(value, self._recognizer.keys(seen) if seen else None, alone)

    def forget(self, *slots: int) -> None:
        """Empty these slots and wipe what they held. Raises MemoryFileError for a slot that is empty."""
        with self._lock:
            self._keep_uses()
            self.file.forget(slots)

    def merge(self, other: Session) -> transfer.Moved:
        """Take over another session's episodes, all of them or none; see `transfer`."""
        with other._lock:
            parcels, _ = other.file.consistently(lambda: transfer.pack(other.file))
        same_model = other.file.model == self.file.model
        with self._lock:
            return transfer.take(self.file, parcels, None if same_model else self._encode_text)

    def import_(self, path: str | Path) -> transfer.Moved:
        """Take over what `export` wrote, also on another machine or with another model; see `transfer`."""
        with self._lock:
            return transfer.import_memory(self.file, path, self._encode_text)

    def export(self, path: str | Path) -> int:
        """Write all episodes to a file of JSON lines, for its owner alone: how many."""
        with self._lock:
            return transfer.export_memory(self.file, path)[0]

    def _encode_text(self, text: str) -> Vectors:
        return self._encode(text, [])

    def close(self) -> None:
        """Let another program write, and note what was recalled if nothing is in the way. It may be used again."""
        with self._lock:
            # A reader on a read-only disk, or beside a writer, has done nothing wrong.
            with contextlib.suppress(MemoryFileError), self._without_waiting():
                self._keep_uses()
            self.file.close()

    @contextmanager
    def _without_waiting(self) -> Iterator[None]:
        pages = self.file.pages
        if not isinstance(pages, FilePages):
            yield
            return
        wait, pages.wait = pages.wait, 0.0
        try:
            yield
        finally:
            pages.wait = wait

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
        ConfigError for both or neither, ImageError, TokenizerError, MemoryFileError.
        """
        if (image is None) == (text is None or not checked(text).strip()):
            raise ConfigError("recall needs either a photo or a text, and not both")
        if type(k) is not int or k < 1:
            raise ConfigError(f"k is how many episodes to recall, at least 1, not {told(k)}")
        if image is not None:
            (tokens, *_), _ = self._look(image)
            kind, key, words = "image", self._recognizer.key(tokens), ""
        else:
            assert text is not None
            words = text.strip()
            kind, key = "text", self.model.query(words)
        with self._lock:
            found = self.file.consistently(lambda: self._nearest(kind, key, words, k))
            if found:
                slot = found[0].episode.slot
                self._uses.pop(slot, None)
                self._uses[slot] = None
        return found

    def _nearest(self, kind: str, key: F32, words: str, k: int) -> list[Recalled]:
        index = self._indices.of(kind)
        if index is None:
            return []
        scores = index.scores(key, words)
        count = min(k + 1, len(scores))
        near = np.flatnonzero(scores >= np.partition(scores, -count)[-count])  # more than these where some are equal
        order = near[np.argsort(-scores[near], kind="stable")]
        best = scores[order]
        found = []
        for rank, place in enumerate(order[:k].tolist()):
            rival = best[0 if rank else 1] if len(best) > 1 else None
            score = float(best[rank])
            margin = None if rival is None else score - float(rival)
            episode = self.file.episode(int(index.slots[place]))
            found.append(Recalled(episode, score, margin, index.confidence(score)))
        return found

    def inspect(self) -> list[Episode]:
        """All episodes, the latest first. Raises MemoryFileError."""

        def read() -> list[Episode]:
            return [self.file.episode(int(slot)) for slot in self.file.live()]

        with self._lock:
            return sorted(self.file.consistently(read), key=lambda episode: -episode.time)

    def stats(self) -> dict[str, Any]:
        """Numbers on the whole memory, ready for JSON."""
        with self._lock:
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

    def reading(self, model: Model, query: Callable[[], F32] | None = None) -> Reading:
        """What `model` reads while it writes (`slots.SlotReader`). query: gives its q (C,) for what it will write of;
        only asked for where there are more episodes than the model has slots. Raises ConfigError.
        """
        if model.container.checksum != self.file.model:
            raise ConfigError("this memory belongs to another model: open it with `memory` of the model that reads it")
        with self._lock:
            return self.file.consistently(lambda: self._slots.reading(query))

    def state_for(self, model: Model, query: Callable[[], F32] | None = None) -> MemoryState:
        """The state of `reading`."""
        return self.reading(model, query).state

    def read_weights(self, model: Model, query: F32) -> F32:
        """How much `model` reads each slot for this query, w of eq. 2: of the session or of the model, whichever has
        more; 0 for what is not read.
        """
        state, source = self.reading(model, lambda: query)
        weights = np.zeros(max(self.file.shape.slots, len(source)), np.float32)
        weights[source] = self._slots.memory.read_weights(query[None, None], state)[0, 0]
        return weights

    def _look(self, image: PhotoSource | ImageTokens | None, turns: int = 1) -> tuple[list[ImageTokens], str | None]:
        """A picture as the model sees it, with its quarter turns, and the hash of its thumbnail; prepared tokens have
        neither.
        """
        if image is None:
            return [], None
        if isinstance(image, ImageTokens):
            return [self.model.image_tokens(image)], None
        photo = load_photo(image)
        if shows_nothing(photo):
            raise ImageError("the photo shows one colour and nothing else: there is nothing to remember it by")
        turned = [photo, *(photo.transpose(turn) for turn in _TURNS[: turns - 1])]
        return [self.model.image_tokens(one) for one in turned], thumbnail_hash(photo)


def shows_nothing(photo: Image.Image) -> bool:
    """Whether it is of one colour, so that there is nothing to remember it by."""
    low, high = photo.resize((32, 32)).convert("L").getextrema()
    return float(high) - float(low) < _FLAT  # type: ignore[arg-type]  # two numbers in a picture of one band


_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def thumbnail_hash(photo: Image.Image) -> str:
    """16 hexadecimal digits that stay almost the same for a smaller or recompressed copy: in each row of a grey
    thumbnail of 9 x 8, whether a pixel is brighter than its right neighbour.
    """
    grey = np.asarray(photo.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey[:, :-1] > grey[:, 1:]).reshape(-1)
    return np.packbits(bits).tobytes().hex()


# A fork comes between two operations of a session, never into one: its child would go on from the middle.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_held: list[Any] = []  # their locks


def _hold() -> None:
    for session in list(_sessions):
        session._lock.acquire()
        _held.append(session._lock)


def _let_go() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
