"""Captions without a photo, each with tags in place of one: what words are said about which things, from text alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from bitmar.core.errors import DataError
from bitmar.data.dataset import IGNORED, TAGS, Batch, BatchSource, labels_of, permutation, rng_of, row_range
from bitmar.data.text import Domain, clean_caption
from bitmar.data.tokenizer import plain_encoder, special_ids

MakeTags = Callable[[str, np.random.Generator], tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]


def read_tagged(patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The captions of text files, one a line, and their questions: `question : WHAT? answer : THIS` as "WHAT? THIS"."""
    captions, questions = [], []
    for line in Domain(path=list(patterns), split="line").documents():
        question, sign, answer = line.partition(" answer : ")
        if sign and question.startswith("question : "):
            questions.append(f"{question.removeprefix('question : ').strip()} {answer.strip()}")
        elif caption := clean_caption(line):
            captions.append(caption)
    return captions, questions


class TaggedCaptions(BatchSource):
    """Rows BOS caption EOS as in `CaptionBatches`, with `concept_ids` and `concept_scores` (rows, k) and no photo.

    Every epoch shows each caption once, in another order and with other tags.
    """

    def __init__(
        self, captions: Sequence[str], tokenizer: Tokenizer, make_tags: MakeTags, rows: int, seed: int, max_length: int
    ) -> None:
        if not captions:
            raise DataError("no captions to tag: name text files of captions")
        self.rows, self.seed, self.max_length = rows, seed, max_length
        self.special, self._captions, self._make_tags = special_ids(tokenizer), list(captions), make_tags
        encoded = plain_encoder(tokenizer).encode_batch_fast(self._captions, add_special_tokens=False)
        self._ids = [np.array(each.ids[: max_length - 2], np.uint32) for each in encoded]
        self.tokens_per_batch = rows * float(np.mean([len(ids) + 1 for ids in self._ids]))

    def __len__(self) -> int:
        return -(-len(self._captions) // self.rows)

    def __getitem__(self, k: int) -> Batch:
        total = len(self._captions)
        places = []
        for number in range(*row_range(k, self.rows, total, True)):
            epoch, turn = divmod(number, total)
            places.append(int(permutation(total, self.seed, TAGS, epoch)[turn]))
        width = min(-(-(max(len(self._ids[p]) for p in places) + 2) // 8) * 8, self.max_length)
        ids = np.full((len(places), width), self.special.pad, np.int64)
        mask = np.zeros_like(ids)
        tags = []
        for row, place in enumerate(places):
            caption = self._ids[place]
            ids[row, : len(caption) + 2] = [self.special.bos, *caption, self.special.eos]
            mask[row, : len(caption) + 2] = 1
            tags.append(self._make_tags(self._captions[place], rng_of(self.seed, TAGS, k, row)))
        labels = labels_of(ids, mask, self.special)
        labels[:, 0] = IGNORED
        numbers, scores = (np.stack(parts) for parts in zip(*tags, strict=True))
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": mask,
            "concept_ids": numbers,
            "concept_scores": scores,
        }
