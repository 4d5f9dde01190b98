"""Batches of captioned images, from stored features or photos: one caption, or question, a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError, DataError
from bitmar.data.dataset import (
    AUGMENT,
    CAPTIONS,
    EPISODES,
    IGNORED,
    IMAGES,
    QUESTIONS,
    VIEWS,
    Batch,
    BatchSource,
    check_positive,
    labels_of,
    permutation,
    rng_of,
    row_range,
)
from bitmar.data.picture_questions import picture_questions
from bitmar.data.text import clean_caption
from bitmar.data.tokenizer import plain_encoder, special_ids


class _Entry(Protocol):
    @property
    def captions(self) -> Sequence[str]: ...


class CaptionedFeatures(Protocol):
    """Captioned images as patch features; `data.features.FeatureStore` is one."""

    views: int

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> _Entry: ...
    def features(self, index: int, view: int, /) -> npt.NDArray[np.float32]:
        """(N_p, D_v)"""
        ...


class CaptionedPhotos(Protocol):
    """Captioned images as pixels; `data.photos.PhotoStore` is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> _Entry: ...
    def photo(self, index: int, /) -> npt.NDArray[np.uint8]:
        """(H, W, 3)"""
        ...


class Tagger(Protocol):
    """The concepts of photos as a model shall see them in training; `bitmar.train.tags` has one."""

    def __call__(
        self, images: Sequence[int], views: Sequence[int], /
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Store indices and the views of each, n of them -> concept numbers and scores (n, k)."""
        ...


@dataclass(frozen=True)
class Chains:
    """Rows that hang together, for a model that carries its memory through them: see `CaptionBatches`."""

    episodes: int = 1
    revisit: float = 0.5
    repeat: float = 0.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        check_positive(episodes=self.episodes)
        for name in ("revisit", "repeat", "hidden"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True)
class Pixels:
    """A tower's input: `size` pixels a side, (x/255 - mean) / std by channel."""

    size: int = 224
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class CaptionBatches(BatchSource):
    """Captioned images, one a row: `input_ids`, `labels`, `attention_mask` int64 (rows, T), `image_ids`.

    A row is BOS caption EOS, cleaned by `clean_caption`, padded on the right; T is the longest of the batch,
    rounded up to 8, at most `max_length`. A longer caption is cut before its EOS, which it keeps; `truncated`
    counts these. Images without a caption are left out. The picture is one of
      `vision_features` float32 (rows, N_p, D_v), a random stored view of `features`, or
      `pixel_values` float32 (rows, 3, size, size), from `photos`: a fresh random view, as `pixels` says.
    `image_ids` int64 (rows,) are indices of the store. Rows of a batch may show the same image (see below,
    and at the seam of two epochs): a contrastive loss must not take those for negatives.

    Epochs: each image once, in another order each time; its caption is another one from epoch to epoch until
    all were used. With training=False: one pass in order, first caption, view 0, photos as they are.

    Chains: with n `episodes`, rows 0..n-1, n..2n-1, ... of a batch are chains through which a model carries
    its memory. The first row of a chain shows a new image; of the other rows a share `revisit` shows, at
    random places, an image from earlier in the chain again: another view, another caption (as far as it has
    others). What an earlier row wrote then helps to predict, and a memory has something to learn. Of these a share
    `repeat` has the caption of the visit before, which only a memory can know, and a share `hidden` no picture:
    `image_mask` bool (rows,), False there. Revisits come on top of the epoch: each image is still new exactly once.

    Held-out: a share `heldout` of the images, chosen by their digests, so that copies of one photo stay together, is
    not trained on; with training=False those are the pass. `without` counts the captioned images left out for it.

    Questions: a share `photo_questions` of the rows has, in place of a caption, a question about it with its answer
    (`data.picture_questions`), each kind that its captions allow equally often.
    """

    def __init__(
        self,
        features: CaptionedFeatures | None,
        tokenizer: Tokenizer,
        rows: int,
        seed: int,
        max_length: int = 64,
        chains: Chains | None = None,
        *,
        photo_questions: float = 0.0,
        tags: Tagger | None = None,
        training: bool = True,
        heldout: float = 0.0,
        photos: CaptionedPhotos | None = None,
        pixels: Pixels | None = None,
    ) -> None:
        chains, pixels = chains or Chains(), pixels or Pixels()
        check_positive(rows=rows, seed=seed + 1, max_length=max_length - 2, size=pixels.size)
        episodes = chains.episodes
        store = photos if features is None else features
        if store is None or (features is not None and photos is not None):
            raise ConfigError("CaptionBatches takes its pictures from `features` or from `photos`: give one")
        if rows % episodes:
            raise ConfigError(f"{rows} rows cannot be cut into episodes of {episodes}: take a multiple")
        _check_share("photo_questions", photo_questions)
        if not training and episodes > 1:
            raise ConfigError("episodes are for training: an evaluation pass has episodes=1")
        self.rows, self.seed, self.chains, self.training = rows, seed, chains, training
        self.max_length = max_length
        self._asked, self._tags = photo_questions, tags
        self._features, self._photos, self._size = features, photos, pixels.size
        self._mean, self._std = (np.array(value, np.float32) for value in (pixels.mean, pixels.std))
        self.special = special_ids(tokenizer)
        self.images, self._captions, self.truncated = _encode(store, tokenizer, max_length - 2)
        if not self.images:
            raise DataError("no image of the store has a caption; build it from a captioned source")
        self.without = 0
        if heldout:
            kept = [n for n, i in enumerate(self.images) if _held_out(store[i], i, heldout) != training]
            self.without = len(self.images) - len(kept)
            self.images, self._captions = [self.images[n] for n in kept], [self._captions[n] for n in kept]
        if not self.images:
            raise DataError(f"heldout: {heldout} leaves no image to {'train on' if training else 'hold out'}")
        self._questions = (
            _encode_questions(store, self.images, tokenizer, max_length - 2, seed) if photo_questions else []
        )
        lengths = [len(caption) + 1 for captions in self._captions for caption in captions]
        self.tokens_per_batch = rows * float(np.mean(lengths))
        # New images per chain, on average, in millionths: integers, so that chain q's first new image has a
        # number in closed form and none is skipped or shown twice.
        self._new = episodes * 10**6 - round(chains.revisit * (episodes - 1) * 10**6)

    def references(self) -> dict[int, tuple[str, ...]]:
        """All captions of every image that has one, by `image_ids`."""
        store = self._photos if self._features is None else self._features
        assert store is not None
        return {image: tuple(store[image].captions) for image in self.images}

    def __len__(self) -> int:
        per_batch = self.rows // self.chains.episodes * self._new
        return -(-len(self.images) * 10**6 // per_batch)

    def __getitem__(self, k: int) -> Batch:
        draws = list(self._draws(k))
        captions = [self._caption(draw) for draw in draws]
        longest = max(len(caption) for caption in captions) + 2
        width = min(-(-longest // 8) * 8, self.max_length)
        ids = np.full((len(draws), width), self.special.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, caption in enumerate(captions):
            ids[row, : len(caption) + 2] = [self.special.bos, *caption, self.special.eos]
            mask[row, : len(caption) + 2] = 1
        labels = labels_of(ids, mask, self.special)
        labels[:, 0] = IGNORED
        image_ids = np.array([self.images[draw.place] for draw in draws], np.int64)
        batch: Batch = {"input_ids": ids, "labels": labels, "attention_mask": mask, "image_ids": image_ids}
        if self.chains.hidden:
            batch["image_mask"] = np.array([not draw.hidden for draw in draws])
        if self._features is not None:
            views = [self._view(draw) for draw in draws]
            pairs = zip(image_ids.tolist(), views, strict=True)
            stacked = np.stack([self._features.features(image, view) for image, view in pairs])
            stacked = stacked.astype(np.float32, copy=False)
            if self._tags is not None:
                batch["concept_ids"], batch["concept_scores"] = self._tags(image_ids.tolist(), views)
            return batch | {"vision_features": stacked}
        assert self._photos is not None
        photos = [self._photos.photo(image) for image in image_ids.tolist()]
        return batch | {"pixel_values": np.stack([self._pixels(photo, k, row) for row, photo in enumerate(photos)])}

    def _draws(self, k: int) -> Iterator[_Draw]:
        """Batch k's rows."""
        count = len(self.images)
        if not self.training:
            yield from (_Draw(place, 0, 0) for place in range(*row_range(k, self.rows, count, False)))
            return
        if k < 0:
            raise IndexError(k)
        chains = self.rows // self.chains.episodes
        for chain in range(k * chains, (k + 1) * chains):
            yield from self._chain(chain)

    def _chain(self, chain: int) -> Iterator[_Draw]:
        first, last = (number * self._new // 10**6 for number in (chain, chain + 1))
        rng = rng_of(self.seed, EPISODES, chain)
        later = rng.permutation(np.arange(1, self.chains.episodes))[: last - first - 1]
        new_rows = {0, *later.tolist()}
        shown: list[_Draw] = []  # every image of the chain as it was shown last
        for row in range(self.chains.episodes):
            if row in new_rows:
                epoch, turn = divmod(first + len(shown), len(self.images))
                place = int(permutation(len(self.images), self.seed, IMAGES, epoch)[turn])
                shown.append(_Draw(place, epoch, 0))
                yield shown[-1]
            else:
                again = int(rng.integers(len(shown)))
                before = shown[again]
                said = before.said if self.chains.repeat and rng.random() < self.chains.repeat else before.visit + 1
                hidden = bool(self.chains.hidden and rng.random() < self.chains.hidden)
                shown[again] = before._replace(visit=before.visit + 1, said=said, hidden=hidden)
                yield shown[again]

    def _caption(self, draw: _Draw) -> npt.NDArray[np.uint32]:
        captions = self._captions[draw.place]
        if not self.training:
            return captions[0]
        if self._asked:
            rng = rng_of(self.seed, QUESTIONS, draw.place, draw.epoch, draw.said)
            kinds = self._questions[draw.place]
            if kinds and rng.random() < self._asked:
                questions = kinds[int(rng.integers(len(kinds)))]
                return questions[int(rng.integers(len(questions)))]
        order: list[int] = rng_of(self.seed, CAPTIONS, draw.place).permutation(len(captions)).tolist()
        return captions[order[(draw.epoch + draw.said) % len(captions)]]

    def _view(self, draw: _Draw) -> int:
        assert self._features is not None
        views = self._features.views
        if not self.training or views == 1:
            return 0
        order = rng_of(self.seed, VIEWS, draw.place, draw.epoch).permutation(views)
        return int(order[draw.visit % views])

    def _pixels(self, photo: npt.NDArray[np.uint8], k: int, row: int) -> npt.NDArray[np.float32]:
        from PIL import Image

        from bitmar.data.augment import random_view

        size = self._size
        if self.training:
            photo = random_view(photo, rng_of(self.seed, AUGMENT, k, row), size)
        elif photo.shape[:2] != (size, size):
            photo = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC))
        scaled = (photo.astype(np.float32) / 255 - self._mean) / self._std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


class _Draw(NamedTuple):
    """One row: which captioned image, in which epoch, shown how often before in its chain.

    said: the visit at which this caption was said first. hidden: its picture is not shown.
    """

    place: int
    epoch: int
    visit: int
    said: int = 0
    hidden: bool = False


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ConfigError(f"{name} is a share between 0 and 1, not {share}")


def _held_out(entry: _Entry, number: int, share: float) -> bool:
    """Whether this image is of the held-out share; an old store without digests is divided by its numbers."""
    digest = getattr(entry, "digest", "") or hashlib.sha256(str(number).encode()).hexdigest()
    return int(digest[:8], 16) < share * 2**32


def _encode(
    store: CaptionedFeatures | CaptionedPhotos, tokenizer: Tokenizer, longest: int
) -> tuple[list[int], list[list[npt.NDArray[np.uint32]]], int]:
    """Which images have captions, their captions' ids (at most `longest` each), and how many were cut."""
    cleaned = [[text for raw in store[i].captions if (text := clean_caption(raw))] for i in range(len(store))]
    images = [i for i, texts in enumerate(cleaned) if texts]
    flat = [text for texts in cleaned for text in texts]
    encodings = plain_encoder(tokenizer).encode_batch_fast(flat, add_special_tokens=False)
    lengths = [len(encoding.ids) for encoding in encodings]
    ids = iter(np.array(encoding.ids[:longest], np.uint32) for encoding in encodings)
    captions = [[next(ids) for _ in cleaned[i]] for i in images]
    return images, captions, sum(length > longest for length in lengths)


def _encode_questions(
    store: CaptionedFeatures | CaptionedPhotos, images: list[int], tokenizer: Tokenizer, longest: int, seed: int
) -> list[list[list[npt.NDArray[np.uint32]]]]:
    """For each image, by kind, the ids of its questions that are not too long; another image gives what is not seen."""
    captions = {i: [text for raw in store[i].captions if (text := clean_caption(raw))] for i in images}
    order = rng_of(seed, QUESTIONS).permutation(images).tolist()
    another = dict(zip(order, [*order[1:], order[0]], strict=True))
    kinds = [
        [*picture_questions(captions[i], captions[another[i]]).values(), *getattr(store[i], "questions", ())]
        for i in images
    ]
    flat = [text for of_image in kinds for texts in of_image for text in texts]
    ids = (
        np.array(found.ids, np.uint32)
        for found in plain_encoder(tokenizer).encode_batch_fast(flat, add_special_tokens=False)
    )
    encoded = [[[next(ids) for _ in texts] for texts in of_image] for of_image in kinds]
    fitting = ([[q for q in questions if len(q) <= longest] for questions in of_image] for of_image in encoded)
    return [[questions for questions in of_image if questions] for of_image in fitting]
