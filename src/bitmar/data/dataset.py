"""Batch sources: text rows, captioned images, and mixtures of them.

A batch source is indexed: `source[k]` is batch k, a pure function of (seed, k). Nothing remembers what was
drawn before, so a run resumes in the middle of an epoch by asking for the next k, and rank r of R reads
k = r, r + R, ... `len(source)` is one epoch. A training source goes on beyond it: the next epoch's rows
follow without a gap, in another order, and every batch is full. An evaluation source is one pass in fixed
order; its last batch may be short and k beyond it is an IndexError.

Batches are dicts of numpy arrays. `labels` follow the Hugging Face convention: aligned with `input_ids` (the
model shifts them), -100 where nothing is to be predicted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError, DataError, nearest
from bitmar.data.corpus import PARTS, Corpus, Part
from bitmar.data.packing import Packing
from bitmar.data.picture_questions import picture_questions
from bitmar.data.text import clean_caption
from bitmar.data.tokenizer import SpecialIds, plain_encoder, special_ids

Batch = dict[str, npt.NDArray[Any]]
IGNORED = -100

# First element after the seed in every random generator's key: one purpose never shares another's numbers.
_ROWS, _DOCUMENTS, _IMAGES, _EPISODES, _CAPTIONS, _VIEWS, _AUGMENT, _PHASES, _QUESTIONS = range(9)


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, purpose: int, epoch: int) -> npt.NDArray[np.int64]:
    return _rng(seed, purpose, epoch).permutation(count)


class BatchSource(ABC):
    """What a trainer draws from; see the head of this file."""

    tokens_per_batch: float
    """Predicted tokens in a batch, on average: how `Mixture` turns shares of tokens into shares of steps."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches in one epoch."""

    @abstractmethod
    def __getitem__(self, k: int) -> Batch:
        """Batch k."""

    def __iter__(self) -> Iterator[Batch]:
        """One epoch."""
        return (self[k] for k in range(len(self)))


class TextBatches(BatchSource):
    """Rows of packed documents: `input_ids`, `labels`, `attention_mask`, each int64 (rows, length).

    In every pass over a domain its documents are shuffled, laid end to end (BOS text EOS BOS text EOS ...)
    and cut into rows, so that a row may begin or end inside a document and attention crosses documents; the
    last row of a pass is padded. BOS is never a label, EOS always is. A domain of weight w gives w times its
    rows in an epoch, taken in turn, pass after pass, so none repeats before all of its rows were seen.
    With split="heldout" the held-out documents of all domains come once, unshuffled, whatever their weights.
    """

    def __init__(self, corpus: Corpus, rows: int, length: int, seed: int, split: Part = "train") -> None:
        if split not in PARTS:
            raise ConfigError(f"split is 'train' or 'heldout', not {split!r}{nearest(split, ('train', 'heldout'))}")
        _positive(rows=rows, length=length, seed=seed + 1)
        self.rows, self.length, self.seed, self.training = rows, length, seed, split == "train"
        self.special = corpus.special
        self.tokens_per_batch = rows * length
        domains = [domain for domain in corpus.domains.values() if len(domain.stream(split).tokens)]
        if not domains:
            raise DataError(f"the corpus has no {split} tokens")
        self._packings = [
            Packing(domain.stream(split), length, (seed, _DOCUMENTS, number) if self.training else None)
            for number, domain in enumerate(domains)
        ]
        weights = [domain.weight if self.training else 1.0 for domain in domains]
        shares = [max(1, round(w * len(packing))) for w, packing in zip(weights, self._packings, strict=True)]
        self._ends = np.cumsum(shares)  # rows of an epoch before shuffling: domain after domain

    def __len__(self) -> int:
        return -(-int(self._ends[-1]) // self.rows)

    def __getitem__(self, k: int) -> Batch:
        total = int(self._ends[-1])
        first, last = _row_range(k, self.rows, total, self.training)
        ids = np.full((last - first, self.length), self.special.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, number in enumerate(range(first, last)):
            tokens = self._row(number, total)
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "labels": _labels(ids, mask, self.special), "attention_mask": mask}

    def _row(self, number: int, total: int) -> npt.NDArray[Any]:
        """Row `number` since the beginning of training: the turn of which domain, and which of its rows."""
        epoch, slot = divmod(number, total)
        if self.training:
            slot = int(_permutation(total, self.seed, _ROWS, epoch)[slot])
        domain = int(np.searchsorted(self._ends, slot, side="right"))
        start = int(self._ends[domain - 1]) if domain else 0
        share = int(self._ends[domain]) - start
        return self._packings[domain].row(epoch * share + slot - start)


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


class CaptionBatches(BatchSource):
    """Captioned images, one a row: `input_ids`, `labels`, `attention_mask` int64 (rows, T), `image_ids`.

    A row is BOS caption EOS, cleaned by `clean_caption`, padded on the right; T is the longest of the batch,
    rounded up to 8, at most `max_length`. A longer caption is cut before its EOS, which it keeps; `truncated`
    counts these. Images without a caption are left out. The picture is one of
      `vision_features` float32 (rows, N_p, D_v), a random stored view of `features`, or
      `pixel_values` float32 (rows, 3, size, size), from `photos`: a fresh random view, (x/255 - mean) / std.
    `image_ids` int64 (rows,) are indices of the store. Rows of a batch may show the same image (see below,
    and at the seam of two epochs): a contrastive loss must not take those for negatives.

    Epochs: each image once, in another order each time; its caption is another one from epoch to epoch until
    all were used. With training=False: one pass in order, first caption, view 0, photos as they are.

    Episodes: with `episodes=n`, rows 0..n-1, n..2n-1, ... of a batch are chains through which a model carries
    its memory. The first row of a chain shows a new image; of the other rows a share `revisit` shows, at
    random places, an image from earlier in the chain again: another view, another caption (as far as it has
    others). What an earlier row wrote then helps to predict, and a memory has something to learn. Of these a share
    `repeat` has the caption of the visit before, which only a memory can know, and a share `hidden` no picture:
    `image_mask` bool (rows,), False there. Revisits come on top of the epoch: each image is still new exactly once.

    Questions: a share `asked` of the rows has, in place of a caption, a question about it with its answer
    (`data.picture_questions`), each kind that its captions allow equally often.
    """

    def __init__(
        self,
        features: CaptionedFeatures | None,
        tokenizer: Tokenizer,
        rows: int,
        seed: int,
        max_length: int = 64,
        episodes: int = 1,
        *,
        revisit: float = 0.5,
        repeat: float = 0.0,
        hidden: float = 0.0,
        asked: float = 0.0,
        training: bool = True,
        photos: CaptionedPhotos | None = None,
        size: int = 224,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        _positive(rows=rows, seed=seed + 1, episodes=episodes, max_length=max_length - 2, size=size)
        store = photos if features is None else features
        if store is None or (features is not None and photos is not None):
            raise ConfigError("CaptionBatches takes its pictures from `features` or from `photos`: give one")
        if rows % episodes:
            raise ConfigError(f"{rows} rows cannot be cut into episodes of {episodes}: take a multiple")
        for name, share in (("revisit", revisit), ("repeat", repeat), ("hidden", hidden), ("asked", asked)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is a share between 0 and 1, not {share}")
        if not training and episodes > 1:
            raise ConfigError("episodes are for training: an evaluation pass has episodes=1")
        self.rows, self.seed, self.episodes, self.training = rows, seed, episodes, training
        self.max_length = max_length
        self._repeat, self._hidden, self._asked = repeat, hidden, asked
        self._features, self._photos, self._size = features, photos, size
        self._mean, self._std = (np.array(value, np.float32) for value in (mean, std))
        self.special = special_ids(tokenizer)
        self.images, self._captions, self.truncated = _encode(store, tokenizer, max_length - 2)
        if not self.images:
            raise DataError("no image of the store has a caption; build it from a captioned source")
        self._questions = _encode_questions(store, self.images, tokenizer, max_length - 2, seed) if asked else []
        lengths = [len(caption) + 1 for captions in self._captions for caption in captions]
        self.tokens_per_batch = rows * float(np.mean(lengths))
        # New images per chain, on average, in millionths: integers, so that chain q's first new image has a
        # number in closed form and none is skipped or shown twice.
        self._new = episodes * 10**6 - round(revisit * (episodes - 1) * 10**6)

    def references(self) -> dict[int, tuple[str, ...]]:
        """All captions of every image that has one, by `image_ids`."""
        store = self._photos if self._features is None else self._features
        assert store is not None
        return {image: tuple(store[image].captions) for image in self.images}

    def __len__(self) -> int:
        per_batch = self.rows // self.episodes * self._new
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
        labels = _labels(ids, mask, self.special)
        labels[:, 0] = IGNORED
        image_ids = np.array([self.images[draw.place] for draw in draws], np.int64)
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask, "image_ids": image_ids}
        if self._hidden:
            batch["image_mask"] = np.array([not draw.hidden for draw in draws])
        if self._features is not None:
            views = [self._view(draw) for draw in draws]
            pairs = zip(image_ids.tolist(), views, strict=True)
            stacked = np.stack([self._features.features(image, view) for image, view in pairs])
            return batch | {"vision_features": stacked.astype(np.float32, copy=False)}
        assert self._photos is not None
        photos = [self._photos.photo(image) for image in image_ids.tolist()]
        return batch | {"pixel_values": np.stack([self._pixels(photo, k, row) for row, photo in enumerate(photos)])}

    def _draws(self, k: int) -> Iterator[_Draw]:
        """Batch k's rows."""
        count = len(self.images)
        if not self.training:
            yield from (_Draw(place, 0, 0) for place in range(*_row_range(k, self.rows, count, False)))
            return
        if k < 0:
            raise IndexError(k)
        chains = self.rows // self.episodes
        for chain in range(k * chains, (k + 1) * chains):
            yield from self._chain(chain)

    def _chain(self, chain: int) -> Iterator[_Draw]:
        first, last = (number * self._new // 10**6 for number in (chain, chain + 1))
        rng = _rng(self.seed, _EPISODES, chain)
        later = rng.permutation(np.arange(1, self.episodes))[: last - first - 1]
        new_rows = {0, *later.tolist()}
        shown: list[_Draw] = []  # every image of the chain as it was shown last
        for row in range(self.episodes):
            if row in new_rows:
                epoch, turn = divmod(first + len(shown), len(self.images))
                place = int(_permutation(len(self.images), self.seed, _IMAGES, epoch)[turn])
                shown.append(_Draw(place, epoch, 0))
                yield shown[-1]
            else:
                again = int(rng.integers(len(shown)))
                before = shown[again]
                said = before.said if self._repeat and rng.random() < self._repeat else before.visit + 1
                hidden = bool(self._hidden and rng.random() < self._hidden)
                shown[again] = before._replace(visit=before.visit + 1, said=said, hidden=hidden)
                yield shown[again]

    def _caption(self, draw: _Draw) -> npt.NDArray[np.uint32]:
        captions = self._captions[draw.place]
        if not self.training:
            return captions[0]
        if self._asked:
            rng = _rng(self.seed, _QUESTIONS, draw.place, draw.epoch, draw.said)
            kinds = self._questions[draw.place]
            if kinds and rng.random() < self._asked:
                questions = kinds[int(rng.integers(len(kinds)))]
                return questions[int(rng.integers(len(questions)))]
        order: list[int] = _rng(self.seed, _CAPTIONS, draw.place).permutation(len(captions)).tolist()
        return captions[order[(draw.epoch + draw.said) % len(captions)]]

    def _view(self, draw: _Draw) -> int:
        assert self._features is not None
        views = self._features.views
        if not self.training or views == 1:
            return 0
        order = _rng(self.seed, _VIEWS, draw.place, draw.epoch).permutation(views)
        return int(order[draw.visit % views])

    def _pixels(self, photo: npt.NDArray[np.uint8], k: int, row: int) -> npt.NDArray[np.float32]:
        from PIL import Image

        from bitmar.data.augment import random_view

        size = self._size
        if self.training:
            photo = random_view(photo, _rng(self.seed, _AUGMENT, k, row), size)
        elif photo.shape[:2] != (size, size):
            photo = np.asarray(Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC))
        scaled = (photo.astype(np.float32) / 255 - self._mean) / self._std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


class _Draw(NamedTuple):
    """One row: which captioned image, in which epoch, shown for the how-manieth time in its chain.

    said: the visit at which this caption was said first. hidden: its picture is not shown.
    """

    place: int
    epoch: int
    visit: int
    said: int = 0
    hidden: bool = False


class Mixture(BatchSource):
    """Several sources as one: batch k comes whole from one of them.

    weights: share of predicted tokens from each source (they are divided by their sum). The turns of a source
             are evenly spaced, so among any first k batches its count is right to within one per source.
    steps:   length of the schedule; `len(mixture)`. Beyond it, IndexError.
    block:   so many consecutive batches come from the same source: set it to the number of ranks (times
             accumulation), so that all ranks have the same kind of batch in a step and collectives match.

    The i-th batch that a source gives is its own batch i: nothing is skipped or repeated within its epochs.
    """

    def __init__(
        self,
        sources: Mapping[str, BatchSource],
        weights: Mapping[str, float],
        steps: int,
        seed: int,
        block: int = 1,
    ) -> None:
        _positive(steps=steps, seed=seed + 1, block=block)
        for name in weights:
            if name not in sources:
                raise ConfigError(f"a weight for {name!r}, which is no source{nearest(name, sources)}")
        self.names = [name for name in sources if weights.get(name, 0) > 0]
        if not self.names:
            raise ConfigError("a mixture needs at least one source with a weight above 0")
        self.sources = {name: sources[name] for name in self.names}
        rates = np.array([weights[name] / sources[name].tokens_per_batch for name in self.names])
        turns = _schedule(rates / rates.sum(), -(-steps // block), _rng(seed, _PHASES))
        self._turns = np.repeat(turns, block)[:steps].astype(np.int16)
        self._indices = np.empty(steps, np.int64)
        for number in range(len(self.names)):
            mine = self._turns == number
            self._indices[mine] = np.arange(mine.sum())
        tokens = np.array([sources[name].tokens_per_batch for name in self.names])
        self.tokens_per_batch = float(tokens[self._turns].mean())

    def __len__(self) -> int:
        return len(self._turns)

    def which(self, k: int) -> tuple[str, int]:
        """The source of batch k, and which of that source's batches it is."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.names[self._turns[k]], int(self._indices[k])

    def __getitem__(self, k: int) -> Batch:
        name, index = self.which(k)
        return self.sources[name][index]


def _schedule(rates: npt.NDArray[np.float64], steps: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(steps,) whose turn it is: source s takes turns at the times (i + phase_s) / rate_s, earliest first."""
    times, owners = [], []
    for owner, (rate, phase) in enumerate(zip(rates, rng.random(len(rates)), strict=True)):
        count = int(np.ceil(rate * (steps + len(rates)))) + 1
        times.append((np.arange(count) + phase) / rate)
        owners.append(np.full(count, owner))
    return np.concatenate(owners)[np.argsort(np.concatenate(times), kind="stable")][:steps]


def _row_range(k: int, rows: int, total: int, endless: bool) -> tuple[int, int]:
    """First and last + 1 row of batch k. Past the end of an evaluation pass: IndexError."""
    if k < 0 or (not endless and k * rows >= total):
        raise IndexError(k)
    return k * rows, (k + 1) * rows if endless else min((k + 1) * rows, total)


def _labels(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], special: SpecialIds) -> npt.NDArray[np.int64]:
    """`ids` where they are to be predicted: not padding (by the mask: GPT-2 pads with its EOS), not BOS."""
    ignored = mask == 0
    if special.bos != special.eos:
        ignored |= ids == special.bos
    return np.where(ignored, IGNORED, ids)


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
    order = _rng(seed, _QUESTIONS).permutation(images).tolist()
    another = dict(zip(order, [*order[1:], order[0]], strict=True))
    kinds = [list(picture_questions(captions[i], captions[another[i]]).values()) for i in images]
    flat = [text for of_image in kinds for texts in of_image for text in texts]
    ids = (
        np.array(found.ids, np.uint32)
        for found in plain_encoder(tokenizer).encode_batch_fast(flat, add_special_tokens=False)
    )
    encoded = [[[next(ids) for _ in texts] for texts in of_image] for of_image in kinds]
    fitting = ([[q for q in questions if len(q) <= longest] for questions in of_image] for of_image in encoded)
    return [[questions for questions in of_image if questions] for of_image in fitting]


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} is too small for a batch source")
