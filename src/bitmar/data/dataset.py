"""Batch sources: what they are, rows of text, and mixtures. (Captioned images: `caption_batches.py`.)

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
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import ConfigError, DataError, nearest
from bitmar.data.corpus import PARTS, Corpus, Part
from bitmar.data.packing import Packing
from bitmar.data.tokenizer import SpecialIds

Batch = dict[str, npt.NDArray[Any]]
IGNORED = -100

# First element after the seed in every random generator's key: one purpose never shares another's numbers.
ROWS, DOCUMENTS, IMAGES, EPISODES, CAPTIONS, VIEWS, AUGMENT, PHASES, QUESTIONS, TAGS = range(10)


def rng_of(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


@lru_cache(maxsize=8)
def permutation(count: int, seed: int, purpose: int, epoch: int) -> npt.NDArray[np.int64]:
    return rng_of(seed, purpose, epoch).permutation(count)


class BatchSource(ABC):
    """A source of batches; see the head of this file."""

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
        check_positive(rows=rows, length=length, seed=seed + 1)
        self.rows, self.length, self.seed, self.training = rows, length, seed, split == "train"
        self.special = corpus.special
        self.tokens_per_batch = rows * length
        domains = [domain for domain in corpus.domains.values() if len(domain.stream(split).tokens)]
        if not domains:
            raise DataError(f"the corpus has no {split} tokens")
        self._packings = [
            Packing(domain.stream(split), length, (seed, DOCUMENTS, number) if self.training else None)
            for number, domain in enumerate(domains)
        ]
        weights = [domain.weight if self.training else 1.0 for domain in domains]
        shares = [max(1, round(w * len(packing))) for w, packing in zip(weights, self._packings, strict=True)]
        self._ends = np.cumsum(shares)  # rows of an epoch before shuffling: domain after domain

    def __len__(self) -> int:
        return -(-int(self._ends[-1]) // self.rows)

    def __getitem__(self, k: int) -> Batch:
        total = int(self._ends[-1])
        first, last = row_range(k, self.rows, total, self.training)
        ids = np.full((last - first, self.length), self.special.pad, np.int64)
        mask = np.zeros_like(ids)
        for row, number in enumerate(range(first, last)):
            tokens = self._row(number, total)
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "labels": labels_of(ids, mask, self.special), "attention_mask": mask}

    def _row(self, number: int, total: int) -> npt.NDArray[Any]:
        """Row `number` since the beginning of training: the turn of which domain, and which of its rows."""
        epoch, slot = divmod(number, total)
        if self.training:
            slot = int(permutation(total, self.seed, ROWS, epoch)[slot])
        domain = int(np.searchsorted(self._ends, slot, side="right"))
        start = int(self._ends[domain - 1]) if domain else 0
        share = int(self._ends[domain]) - start
        return self._packings[domain].row(epoch * share + slot - start)


class Mixture(BatchSource):
    """Several sources as one: batch k comes whole from one of them.

    weights: share of predicted tokens from each source (they are divided by their sum). The turns of a source
             are evenly spaced, so among any first k batches its count is right to within one per source.
    steps:   length of the schedule; `len(mixture)`. Beyond it, IndexError.
    even:    whether every predicted token is to weigh the same in the loss, so that the shares are its shares too. A
             loss is a mean over its batch, so a batch then has a `loss_weight` (float32, scalar): its source's tokens
             per batch over those of the mixture, on average 1. Without, every batch weighs the same.
    block:   number of consecutive batches from the same source: set it to the number of ranks (times
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
        even: bool = False,
    ) -> None:
        check_positive(steps=steps, seed=seed + 1, block=block)
        for name in weights:
            if name not in sources:
                raise ConfigError(f"a weight for {name!r}, which is no source{nearest(name, sources)}")
        self.names = [name for name in sources if weights.get(name, 0) > 0]
        if not self.names:
            raise ConfigError("a mixture needs at least one source with a weight above 0")
        self.sources = {name: sources[name] for name in self.names}
        rates = np.array([weights[name] / sources[name].tokens_per_batch for name in self.names])
        turns = _schedule(rates / rates.sum(), -(-steps // block), rng_of(seed, PHASES))
        self._turns = np.repeat(turns, block)[:steps].astype(np.int16)
        self._indices = np.empty(steps, np.int64)
        for number in range(len(self.names)):
            mine = self._turns == number
            self._indices[mine] = np.arange(mine.sum())
        tokens = np.array([sources[name].tokens_per_batch for name in self.names])
        self.tokens_per_batch = float(tokens[self._turns].mean())
        self.loss_weights = dict(zip(self.names, tokens / self.tokens_per_batch, strict=True)) if even else {}

    def __len__(self) -> int:
        return len(self._turns)

    def which(self, k: int) -> tuple[str, int]:
        """The source of batch k, and which of that source's batches it is."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.names[self._turns[k]], int(self._indices[k])

    def __getitem__(self, k: int) -> Batch:
        name, index = self.which(k)
        batch = self.sources[name][index]
        return batch | {"loss_weight": np.float32(self.loss_weights[name])} if self.loss_weights else batch


def _schedule(rates: npt.NDArray[np.float64], steps: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(steps,) whose turn it is: source s takes turns at the times (i + phase_s) / rate_s, earliest first."""
    times, owners = [], []
    for owner, (rate, phase) in enumerate(zip(rates, rng.random(len(rates)), strict=True)):
        count = int(np.ceil(rate * (steps + len(rates)))) + 1
        times.append((np.arange(count) + phase) / rate)
        owners.append(np.full(count, owner))
    return np.concatenate(owners)[np.argsort(np.concatenate(times), kind="stable")][:steps]


def row_range(k: int, rows: int, total: int, endless: bool) -> tuple[int, int]:
    """First and last + 1 row of batch k. Past the end of an evaluation pass: IndexError."""
    if k < 0 or (not endless and k * rows >= total):
        raise IndexError(k)
    return k * rows, (k + 1) * rows if endless else min((k + 1) * rows, total)


def labels_of(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], special: SpecialIds) -> npt.NDArray[np.int64]:
    """`ids` where they are to be predicted: not padding (by the mask: GPT-2 pads with its EOS), not BOS."""
    ignored = mask == 0
    if special.bos != special.eos:
        ignored |= ids == special.bos
    return np.where(ignored, IGNORED, ids)


def check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} is too small for a batch source")
