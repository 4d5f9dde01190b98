"""Where an episode goes: over an older one of the same photo or the same words, or into a slot of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitmar.core.errors import MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.layout import TEXT_BYTES, Episode, Vectors, cut_text

_SAME_PHOTO, _SAME_TOKENS = 0.99, 0.9999  # cosine of two keys, with equal hashes of the photo, and with none


def keep(
    file: MemoryFile, vectors: Vectors, text: str, *, photo: str | None = None, when: float | None = None
) -> Episode:
    """Store an episode. The same photo with another text corrects the older episode, in its slot; the same again, or
    without a text, changes nothing but that it counts as used. `Episode.change` says which. Raises MemoryFileError.
    """
    file.begin()
    slot = _slot_of_the_same(file, vectors, text, photo)
    if slot is None:
        return replace(file.episode(file.write(vectors, text, photo=photo, when=when)), change="new")
    if _says(file, slot, text):
        file.touch([slot])
        return replace(file.episode(slot), change="unchanged")
    return replace(file.episode(file.write(vectors, text, photo=photo, when=when, slot=slot)), change="updated")


def same(file: MemoryFile, vectors: Vectors, text: str, photo: str | None) -> Episode | None:
    """The episode of the same photo, or without a photo of the same text."""
    slot = _slot_of_the_same(file, vectors, text, photo)
    return None if slot is None else file.episode(slot)


def _slot_of_the_same(file: MemoryFile, vectors: Vectors, text: str, photo: str | None) -> int | None:
    try:
        if vectors.image is None:
            return next(iter(file.with_text(text).tolist()), None)
        slots = file.with_photo(photo)
        if not len(slots):
            return None
        key = vectors.image
        if photo is None:  # which may be all there are
            keys = file.resident("image").follow().rows[: slots[-1] + 1]
            lengths = np.sqrt(np.einsum("nw,nw->n", keys, keys))
            cosine = (keys @ key / np.maximum(lengths * np.linalg.norm(key), 1e-12))[slots]
        else:
            keys = file.column("image", slots)
            cosine = keys @ key / np.maximum(np.linalg.norm(keys, axis=1) * np.linalg.norm(key), 1e-12)
        nearest = int(cosine.argmax())
        return int(slots[nearest]) if cosine[nearest] >= (_SAME_TOKENS if photo is None else _SAME_PHOTO) else None
    except MemoryFileError:  # what is damaged is no reason not to remember
        return None


def _says(file: MemoryFile, slot: int, text: str) -> bool:
    try:
        return not text or file.episode(slot).text == cut_text(text, TEXT_BYTES)[0].decode()
    except MemoryFileError:
        return False
