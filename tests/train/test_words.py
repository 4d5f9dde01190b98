from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from bitmar.data.tokenizer import special_ids, train_bpe
from bitmar.train.words import WordCounter, babylm_milestones

SENTENCES = ["the dog runs\nand the cat sleeps", "don't stop,  said the dog\tto the cat", "naïve dogs"]


def _own() -> Tokenizer:
    return train_bpe(SENTENCES * 3, 320)


def _gpt2_like() -> Tokenizer:
    """One special token that begins, ends and pads."""
    plain = train_bpe(SENTENCES * 3, 320)
    tokenizer = Tokenizer.from_str(plain.to_str().replace('"<eos>"', '"<|endoftext|>"'))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer


TOKENIZERS = {"own": _own(), "gpt2": _gpt2_like()}
texts = st.text(st.sampled_from("abcdnogt e\n\t.,'é"), max_size=40) | st.sampled_from(SENTENCES)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(rows=st.lists(texts, min_size=1, max_size=4))
def test_words_are_those_of_split(name: str, rows: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    bos, eos, pad = special_ids(tokenizer).bos, special_ids(tokenizer).eos, special_ids(tokenizer).pad
    encoded = [[bos, *tokenizer.encode(text, add_special_tokens=False).ids, eos] for text in rows]
    ids = np.full((len(rows), max(map(len, encoded)) + 3), pad)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    counter = WordCounter(tokenizer, tokenizer.get_vocab_size())
    expected = sum(len(text.split()) for text in rows)
    assert counter.count(torch.from_numpy(ids), torch.from_numpy(mask)) == expected
    assert counter.count(torch.from_numpy(ids)) == expected  # padding is no word, mask or not


@given(text=texts.filter(str.strip), length=st.integers(2, 7))
def test_a_text_cut_into_rows_has_no_more_words_than_whole(text: str, length: int) -> None:
    tokenizer = TOKENIZERS["own"]
    counter = WordCounter(tokenizer, tokenizer.get_vocab_size())
    stream = [1, *tokenizer.encode(text, add_special_tokens=False).ids, 2]
    parts = [torch.tensor([stream[i : i + length]]) for i in range(0, len(stream), length)]
    whole = len(text.split())
    assert whole - len(parts) < sum(counter.count(part) for part in parts) <= whole


def test_the_milestones_of_babylm() -> None:
    found = babylm_milestones()
    assert found == sorted(set(found))
    assert found == [*range(1, 11), *range(20, 101, 10), *range(200, 1001, 100)]
