from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import DataError, TokenizerError
from bitmar.data.tokenizer import (
    SpecialIds,
    bytes_per_token,
    fingerprint,
    load_tokenizer,
    plain_encoder,
    special_ids,
    train_bpe,
    train_from_sources,
)

TEXTS = ["the dog runs on the grass", "a dog and the cat on the grass"] * 20
TOKENIZER = train_bpe(TEXTS, 300)


def test_special_tokens_come_first_and_the_size_holds() -> None:
    assert special_ids(TOKENIZER) == SpecialIds(pad=0, bos=1, eos=2, image=3)
    assert TOKENIZER.get_vocab_size() <= 300
    assert len(TOKENIZER.encode(" the grass").ids) == 2


@given(st.text())
def test_any_text_survives_and_special_ids_never_come_from_text(text: str) -> None:
    text += "<eos><image>"
    ids = plain_encoder(TOKENIZER).encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert min(ids) > 3


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(TokenizerError, match="at least 260"):
        train_bpe(TEXTS, 259)


def test_saved_and_loaded_from_file_and_folder(tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(TOKENIZER)
    assert fingerprint(load_tokenizer(tmp_path / "tokenizer.json")) == fingerprint(TOKENIZER)
    assert fingerprint(train_bpe(TEXTS[:1], 300)) != fingerprint(TOKENIZER)


def test_unreadable_tokenizers_are_our_error(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"model": ')
    with pytest.raises(TokenizerError, match=r"broken\.json"):
        load_tokenizer(tmp_path / "broken.json")
    with pytest.raises(TokenizerError, match="neither"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="bitmar tokenizer train"):
        load_tokenizer(tmp_path / "absent.json")


def test_no_end_token_is_refused() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(TokenizerError, match="no end token"):
        special_ids(Tokenizer(models.BPE()))


def test_train_from_sources_writes_and_reports(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    report = train_from_sources(
        tmp_path / "out", {"stories": str(tmp_path / "text.txt")}, vocab_size=300, every=2, progress=False
    )
    assert fingerprint(load_tokenizer(report["path"])) == fingerprint(load_tokenizer(tmp_path / "out"))
    trained = load_tokenizer(tmp_path / "out")
    assert report["bytes_per_token"]["stories"] == round(bytes_per_token(trained, TEXTS[1::2]), 3) > 2
    json.dumps(report)


def test_gpt2(shared_data: Path) -> None:
    gpt2 = load_tokenizer(shared_data / "gpt2_bpe")
    assert gpt2.encode("Hello world").ids == [15496, 995]  # as published with the vocabulary
    assert special_ids(gpt2) == SpecialIds(pad=50256, bos=50256, eos=50256, image=None)
    assert plain_encoder(gpt2).encode("<|endoftext|>").ids != [50256]


@pytest.mark.parametrize("long", ["a" * 200_000, " " * 200_000, "\n" * 200_000, "ab1" * 60_000])
def test_an_endless_word_is_trained_on_in_parts(long: str) -> None:
    assert train_bpe([f"the dog {long} runs"] * 3, 300).get_vocab_size() > 262


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_no_text_trains_no_tokenizer(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="no text"):
        train_bpe(texts, 300)
    (tmp_path / "empty.txt").write_text("\n".join(texts))
    with pytest.raises(TokenizerError, match="no text"):
        train_from_sources(tmp_path / "out", {"empty": str(tmp_path / "empty.txt")}, vocab_size=300, progress=False)
    assert not (tmp_path / "out").exists()


def test_shards_that_are_not_there_are_told_before_the_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes("x".encode("utf-16"))  # would fail when read
    with pytest.raises(DataError, match="no shard"):
        train_from_sources(tmp_path / "out", {"b": str(tmp_path / "book.txt")}, [str(tmp_path / "x.tar")])
