"""Captions without a photo: rows with tags in place of one."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from bitmar.core.errors import DataError
from bitmar.data.dataset import IGNORED
from bitmar.data.tagged import TaggedCaptions
from bitmar.data.tokenizer import train_bpe

CAPTIONS = [f"A {what} stands on the {where}." for what in ("dog", "cat", "cow") for where in ("road", "grass", "sand")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(CAPTIONS, vocab_size=300)


def tags(caption: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.array([len(caption), int(rng.integers(1000))]), np.array([0.9, 0.1], np.float32)


def test_an_epoch_shows_every_caption_once_with_tags_of_its_own(tokenizer: Tokenizer) -> None:
    source = TaggedCaptions(CAPTIONS, tokenizer, tags, rows=3, seed=0, max_length=32)
    batches = list(source)
    texts = [
        tokenizer.decode(row[mask == 1].tolist())
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(texts) == sorted(CAPTIONS) and len(source) == 3
    for batch in batches:
        assert "vision_features" not in batch and "image_ids" not in batch
        assert batch["concept_ids"].shape == batch["concept_scores"].shape == (3, 2)
        said = batch["attention_mask"] == 1
        said[:, 0] = False
        np.testing.assert_array_equal(batch["labels"], np.where(said, batch["input_ids"], IGNORED))
    again = TaggedCaptions(CAPTIONS, tokenizer, tags, rows=3, seed=0, max_length=32)
    for name, values in batches[2].items():
        np.testing.assert_array_equal(again[2][name], values)
    assert (source[3]["input_ids"] != batches[0]["input_ids"]).any()  # the next epoch, in another order


def test_a_long_caption_is_cut_before_its_end_token(tokenizer: Tokenizer) -> None:
    source = TaggedCaptions(["cat " * 50], tokenizer, tags, rows=1, seed=0, max_length=12)
    batch = source[0]
    assert batch["input_ids"].shape == (1, 12) and batch["input_ids"][0, -1] == source.special.eos


def test_no_captions_are_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="no captions to tag"):
        TaggedCaptions([], tokenizer, tags, rows=1, seed=0, max_length=12)
