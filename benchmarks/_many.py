"""Full memories of many slots: some real photos among episodes that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
from _machine import resident_bytes
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.ternary import F32
from bitmar.runtime.cache import ImageTokens
from bitmar.session.keep import keep
from bitmar.session.layout import Vectors
from bitmar.session.recite import to_recite
from bitmar.session.session import Session

ROUNDS = 9
WORDS = 8  # of a text that is made up


@dataclass(frozen=True)
class Shown:
    """A photo as an episode keeps it: in its quarter turns, with its hash."""

    seen: list[ImageTokens]
    photo: str | None

    @property
    def image(self) -> ImageTokens:
        return self.seen[0]

    @classmethod
    def of(cls, session: Session, photo: Image.Image) -> Shown:
        return cls(*session._look(photo, session._recognizer.turns))

    def keep(self, session: Session, text: str) -> int:
        """Remember it without encoding the photo again: the slot."""
        return keep(session.file, session._encode(text, self.seen), text, photo=self.photo).slot


def made_up(real: list[Vectors], captions: list[str], turns: int) -> Iterator[tuple[Vectors, str]]:
    """Episodes without end: vectors drawn from normal distributions with mean and covariance of the real ones', the
    image keys of each quarter turn of length 1; texts of words of the real captions.
    """
    rng = np.random.default_rng(0)
    words = sorted({word for caption in captions for word in caption.split()})
    values, images, texts = (np.stack([one[i] for one in real]) for i in range(3))  # type: ignore[arg-type]
    draws = [_normal(x, rng) for x in (values, images, texts)]
    while True:
        value, image, text = (next(draw) for draw in draws)
        keys = image.reshape(turns, -1)
        keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
        yield Vectors(value, image, text), " ".join(rng.choice(words, WORDS))


def _normal(x: F32, rng: np.random.Generator) -> Iterator[F32]:
    mean, factor = x.mean(axis=0), (x - x.mean(axis=0)) / np.sqrt(len(x))
    while True:
        yield from (mean + rng.standard_normal((256, len(x))) @ factor).astype(np.float32)


def full(
    model: BitMar, path: Path, slots: int, shown: list[Shown], captions: list[str], again: list[ImageTokens]
) -> dict[str, Any]:
    """What a memory of so many slots costs once all are taken; times are the processor's. again: another view of each
    photo.

    All photos but the last `ROUNDS` are remembered before; these are, while it is measured.
    """
    asked = len(shown) - ROUNDS
    with model.memory(path, slots=slots) as session:
        real = [session._encode(text, one.seen) for text, one in zip(captions, shown, strict=True)]
        others = made_up(real, captions, session._recognizer.turns)
        with session.file.at_once():
            for _ in range(slots - asked):
                session.file.write(*next(others))
        where = [one.keep(session, text) for one, text in zip(shown[:asked], captions, strict=False)]
    before, start = resident_bytes(), process_time()
    session = model.memory(path)
    figures: dict[str, Any] = {"file, bytes": path.stat().st_size, "open, ms": 1e3 * (process_time() - start)}
    figures["first recall by photo, ms"] = ms(lambda: session.recall(image=again[0]))
    found = [session.recall(image=image)[0] for image in again[:asked]]
    right = [one.episode.slot == slot for one, slot in zip(found, where, strict=True)]
    said = [bool(to_recite(one)) for one in found]
    figures["recall by photo, ms"] = median(ms(lambda i=i: session.recall(image=i)) for i in again[:asked])  # type: ignore[misc]
    figures["RAM for that, MB"] = growth(before)
    figures["recall@1"], figures["recited"] = sum(right) / asked, sum(said) / asked
    figures["a wrong one recited"] = sum(s and not r for s, r in zip(said, right, strict=True)) / asked
    figures["choosing what is read, ms"] = median(
        ms(lambda i=i: session.state_for(model, lambda: model.query("", i)))  # type: ignore[misc]
        for i in again[:ROUNDS]
    )
    written, lasting, after = [], [], []
    for one, text in list(zip(shown, captions, strict=True))[asked:]:
        start = perf_counter()
        written.append(ms(lambda one=one, text=text: one.keep(session, text)))  # type: ignore[misc]
        lasting.append(1e3 * (perf_counter() - start))
        after.append(ms(lambda: session.recall(image=again[0])))
    figures["remember an encoded photo, ms"], figures["of the clock, to the disk"] = median(written), median(lasting)
    figures["recall by photo after that, ms"] = median(after)
    figures["first recall by text, ms"] = ms(lambda: session.recall(text=captions[0]))
    figures["recall by text, ms"] = median(ms(lambda t=t: session.recall(text=t)) for t in captions[:ROUNDS])  # type: ignore[misc]
    session.remember("a text alone")
    figures["recall by text after remembering, ms"] = ms(lambda: session.recall(text=captions[0]))
    figures["RAM in all, MB"] = growth(before)
    session.close()
    path.unlink()
    return figures


def ms(work: Callable[[], object]) -> float:
    """Of the processor, for other programs may keep it busy."""
    start = process_time()
    work()
    return 1e3 * (process_time() - start)


def growth(before: int | None) -> float | None:
    """Megabytes."""
    now = resident_bytes()
    return None if now is None or before is None else (now - before) / 1e6
