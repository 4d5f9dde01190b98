from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.errors import ConfigError, DataError
from bitmar.data.caption_batches import CaptionBatches, Chains, Pixels
from bitmar.data.corpus import Corpus, CorpusDomain, TokenStream
from bitmar.data.dataset import IGNORED, Batch, BatchSource, Mixture, TextBatches
from bitmar.data.tokenizer import SpecialIds, train_bpe

SPECIAL = SpecialIds(pad=0, bos=1, eos=2, image=3)
GPT2_LIKE = SpecialIds(pad=9, bos=9, eos=9, image=None)
TOKENIZER = train_bpe(["a dog runs", "the cat sleeps", "photo number 0123456789"], 300)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


# --- text -----------------------------------------------------------------------------------------


def _stream(count: int, first: int, size: int = 5) -> TokenStream:
    """`count` documents BOS t t ... EOS, document i all of token first + i."""
    documents = [[1, *[first + i] * (size - 2), 2] for i in range(count)]
    return TokenStream(np.array(documents, np.uint16).ravel(), np.arange(0, size * count + 1, size))


def _corpus(**weights: float) -> Corpus:
    """One domain per weight: 40 documents, the last 4 held out; tokens of the i-th from 1000 i + 10."""
    domains = {
        name: CorpusDomain(name, weight, _stream(36, 1000 * i + 10), _stream(4, 1000 * i + 50), 1)
        for i, (name, weight) in enumerate(weights.items())
    }
    return Corpus(domains, SPECIAL)


def test_an_epoch_of_text_holds_every_token_once() -> None:
    source = TextBatches(_corpus(a=1, b=1), rows=3, length=15, seed=0)
    assert len(source) == 2 * 36 * 5 // 15 // 3
    tokens = Counter(np.concatenate([batch["input_ids"].ravel() for batch in source]).tolist())
    assert tokens == Counter({1: 72, 2: 72, **{1000 * d + 10 + i: 3 for d in (0, 1) for i in range(36)}})


def test_labels_leave_out_bos_and_padding_and_keep_eos() -> None:
    batch = TextBatches(_corpus(a=1), rows=20, length=16, seed=0, split="heldout")[0]
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    assert ids.shape == (2, 16) and mask.sum() == 20  # one pass: four documents of five tokens
    assert np.array_equal(labels[labels != IGNORED], ids[(mask == 1) & (ids != 1)])
    assert (labels == 2).sum() == 4


def test_gpt2_eos_is_trained_although_it_is_also_bos_and_padding() -> None:
    stream = TokenStream(np.array([5, 9, 6, 9], np.uint16), np.array([0, 2, 4]))
    corpus = Corpus({"a": CorpusDomain("a", 1.0, stream, stream, 1)}, GPT2_LIKE)
    batch = TextBatches(corpus, rows=1, length=6, seed=0, split="heldout")[0]
    assert batch["input_ids"].tolist() == [[5, 9, 6, 9, 9, 9]]
    assert batch["labels"].tolist() == [[5, 9, 6, 9, IGNORED, IGNORED]]


def test_weights_are_how_often_a_domain_is_seen() -> None:
    source = TextBatches(_corpus(once=1, half=0.5, twice=2), rows=1, length=15, seed=3)
    tokens = Counter(np.concatenate([source[k]["input_ids"].ravel() for k in range(2 * len(source))]).tolist())
    assert {tokens[10 + i] for i in range(36)} == {2 * 3}  # two epochs, three times in a document
    assert {tokens[1010 + i] for i in range(36)} == {3}
    assert {tokens[2010 + i] for i in range(36)} == {4 * 3}


def test_the_held_out_part_is_one_fixed_pass() -> None:
    source = TextBatches(_corpus(a=0.1, b=7), rows=3, length=5, seed=1, split="heldout")
    assert [len(batch["input_ids"]) for batch in source] == [3, 3, 2]
    assert source[0]["input_ids"][:, 1].tolist() == [50, 51, 52]
    for k in (-1, 3):
        with pytest.raises(IndexError):
            source[k]


def test_text_batches_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="did you mean 'heldout'"):
        TextBatches(_corpus(a=1), 1, 5, 0, split="helout")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rows"):
        TextBatches(_corpus(a=1), 0, 5, 0)
    empty = TokenStream(np.empty(0, np.uint16), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="no train tokens"):
        TextBatches(Corpus({"a": CorpusDomain("a", 1.0, empty, empty, 1)}, SPECIAL), 1, 5, 0)


# --- captions -------------------------------------------------------------------------------------


class Images:
    """Image i has captions "photo i 0", "photo i 1"...; its features hold (i, view), its photo the grey i."""

    def __init__(self, count: int, captions: int = 3, views: int = 2) -> None:
        self.views = views
        self.entries = [
            SimpleNamespace(captions=tuple(f"photo {i} {c}" for c in range(captions))) for i in range(count)
        ]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> SimpleNamespace:
        return self.entries[i]

    def features(self, i: int, view: int) -> np.ndarray:
        return np.full((2, 3), [i, view, 0], np.float32)

    def photo(self, i: int) -> np.ndarray:
        return np.full((8, 8, 3), i, np.uint8)


def _captions(batch: Batch) -> list[str]:
    return [TOKENIZER.decode(ids) for ids in batch["input_ids"].tolist()]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 30),
    chains=st.integers(1, 4),
    episodes=st.integers(1, 5),
    revisit=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_every_image_is_new_once_per_epoch(count: int, chains: int, episodes: int, revisit: float, seed: int) -> None:
    source = CaptionBatches(Images(count), TOKENIZER, chains * episodes, seed, chains=Chains(episodes, revisit))
    new: list[int] = []
    for k in range(3 * len(source)):
        for chain in source[k]["image_ids"].reshape(chains, episodes).tolist():
            new += list(dict.fromkeys(chain))
    if len(new) >= count and count > episodes:  # else a chain may span epochs
        assert sorted(new[:count]) == list(range(count))
    assert len(source) * chains * episodes >= count


def test_epochs_differ_and_use_all_captions() -> None:
    source = CaptionBatches(Images(6), TOKENIZER, rows=6, seed=0)
    epochs = [source[k] for k in range(6)]
    assert len({tuple(epoch["image_ids"].tolist()) for epoch in epochs}) > 3
    assert {text for epoch in epochs[:3] for text in _captions(epoch)} == {
        f"Photo {i} {c}." for i in range(6) for c in range(3)
    }
    views = np.concatenate([epoch["vision_features"][:, 0, 1] for epoch in epochs])
    assert set(views.tolist()) == {0.0, 1.0}


def test_features_belong_to_the_image_of_the_row() -> None:
    batch = CaptionBatches(Images(7), TOKENIZER, rows=4, seed=0)[0]
    assert batch["vision_features"].dtype == np.float32 and batch["vision_features"].shape == (4, 2, 3)
    assert batch["vision_features"][:, 0, 0].tolist() == batch["image_ids"].tolist()
    assert [text.split()[1] for text in _captions(batch)] == [str(i) for i in batch["image_ids"]]


def test_a_revisit_shows_another_view_and_another_caption() -> None:
    source = CaptionBatches(Images(20), TOKENIZER, rows=12, seed=0, chains=Chains(3, 1.0))
    for k in range(5):
        batch = source[k]
        chains = batch["image_ids"].reshape(4, 3)
        assert (chains == chains[:, :1]).all()  # revisit=1: only the first row is new
        assert all(len(set(_captions(batch)[i : i + 3])) == 3 for i in range(0, 12, 3))
        views = batch["vision_features"][:, 0, 1].reshape(4, 3)
        assert (views[:, 0] != views[:, 1]).all()


def test_a_repeat_has_the_caption_of_the_visit_before_and_another_view() -> None:
    source = CaptionBatches(Images(20), TOKENIZER, rows=12, seed=0, chains=Chains(3, 1.0, repeat=1.0))
    for k in range(5):
        batch = source[k]
        assert all(len(set(_captions(batch)[i : i + 3])) == 1 for i in range(0, 12, 3))
        views = batch["vision_features"][:, 0, 1].reshape(4, 3)
        assert (views[:, 0] != views[:, 1]).all() and (views[:, 1] != views[:, 2]).all()


def test_only_pictures_that_were_seen_are_hidden() -> None:
    source = CaptionBatches(Images(500), TOKENIZER, rows=400, seed=0, chains=Chains(4, 0.5, hidden=0.4))
    again, hidden = [], []
    for k in range(4):
        batch = source[k]
        for chain, shown in zip(batch["image_ids"].reshape(-1, 4), batch["image_mask"].reshape(-1, 4), strict=True):
            again += [image in chain[:row] for row, image in enumerate(chain)]
            hidden += [not one for one in shown]
    assert not any(h and not a for h, a in zip(hidden, again, strict=True))
    assert abs(sum(hidden) / sum(again) - 0.4) < 0.05
    assert "image_mask" not in CaptionBatches(Images(5), TOKENIZER, rows=2, seed=0)[0]


def test_a_share_of_the_rows_is_asked_about_and_of_every_other_picture_as_often() -> None:
    source = CaptionBatches(Images(200), TOKENIZER, rows=100, seed=0, max_length=80, photo_questions=0.3)
    texts = [text for k in range(10) for text in _captions(source[k])]
    asked = [text for text in texts if text.startswith("Is it true that photo ")]
    assert abs(len(asked) / len(texts) - 0.3) < 0.05
    rows = [
        (image, text)
        for k in range(10)
        for image, text in zip(source[k]["image_ids"], _captions(source[k]), strict=True)
    ]
    for image, text in rows:
        assert (f"photo {image} " in text.lower()) == (not text.endswith("no"))
    answers = Counter(text.rsplit("? ", 1)[1] for text in asked)
    assert set(answers) == {"yes", "no"} and abs(answers["yes"] / len(asked) - 0.5) < 0.1
    held = CaptionBatches(Images(200), TOKENIZER, rows=100, seed=0, photo_questions=0.3, training=False)
    assert not any("?" in text for batch in held for text in _captions(batch))


def test_a_repeated_question_is_the_same_question() -> None:
    source = CaptionBatches(Images(20), TOKENIZER, 12, 0, 80, chains=Chains(3, 1.0, repeat=1.0), photo_questions=0.5)
    assert all(len(set(_captions(source[k])[i : i + 3])) == 1 for k in range(5) for i in range(0, 12, 3))


def test_the_share_of_revisits_is_the_one_asked_for() -> None:
    source = CaptionBatches(Images(5000), TOKENIZER, rows=400, seed=0, chains=Chains(4, 0.3))
    again = [
        image in chain[:row]
        for k in range(5)
        for chain in source[k]["image_ids"].reshape(-1, 4).tolist()
        for row, image in enumerate(chain)
        if row
    ]
    assert abs(np.mean(again) - 0.3) < 0.01
    assert len(source) == -(-5000 // (100 * (4 - 0.3 * 3)))


def test_rows_are_bos_caption_eos_and_padding() -> None:
    images = Images(2)
    images.entries[1].captions = ("a dog . \x00", " . ")
    batch = CaptionBatches(images, TOKENIZER, rows=2, seed=0, training=False)[0]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.shape[1] % 8 == 0
    for row, caption in enumerate(("Photo 0 0.", "A dog.")):
        length = int(mask[row].sum())
        assert ids[row, :length].tolist() == [1, *TOKENIZER.encode(caption).ids, 2]
        assert (ids[row, length:] == 0).all() and not mask[row, length:].any()
        assert batch["labels"][row].tolist() == [
            IGNORED, *ids[row, 1:length].tolist(), *[IGNORED] * (ids.shape[1] - length)
        ]  # fmt: skip


def test_a_caption_of_ten_thousand_words_is_cut_before_its_eos() -> None:
    images = Images(1, captions=1)
    images.entries[0].captions = ("word " * 10_000,)
    source = CaptionBatches(images, TOKENIZER, rows=1, seed=0, max_length=20)
    batch = source[0]
    assert batch["input_ids"].shape == (1, 20) and batch["attention_mask"].all()
    assert batch["input_ids"][0, -1] == batch["labels"][0, -1] == 2
    assert source.truncated == 1


def test_images_without_a_caption_are_left_out() -> None:
    images = Images(4)
    images.entries[0].captions = ()
    images.entries[2].captions = ("\x00", "")
    source = CaptionBatches(images, TOKENIZER, rows=2, seed=0)
    assert sorted(source[0]["image_ids"].tolist()) == [1, 3]
    with pytest.raises(DataError, match="no image"):
        CaptionBatches(Images(3, captions=0), TOKENIZER, rows=2, seed=0)


def test_photos_become_normalised_pixels() -> None:
    photos, pixels = Images(9), Pixels(4, (0.0, 0.5, 0.5), (1.0, 0.5, 0.25))
    plain = CaptionBatches(None, TOKENIZER, 3, 0, training=False, photos=photos, pixels=pixels)[2]["pixel_values"]
    assert plain.shape == (3, 3, 4, 4) and plain.dtype == np.float32
    grey = np.array([6, 7, 8], np.float32) / 255
    assert np.allclose(plain[:, :, 0, 0], np.stack([grey, (grey - 0.5) / 0.5, (grey - 0.5) / 0.25], 1))
    augmented = CaptionBatches(None, TOKENIZER, 3, 0, photos=photos, pixels=pixels)
    assert augmented[0]["pixel_values"].shape == (3, 3, 4, 4)
    assert same(augmented[5], CaptionBatches(None, TOKENIZER, 3, 0, photos=photos, pixels=pixels)[5])


def test_caption_batches_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="give one"):
        CaptionBatches(None, TOKENIZER, 2, 0)
    with pytest.raises(ConfigError, match="give one"):
        CaptionBatches(Images(2), TOKENIZER, 2, 0, photos=Images(2))
    with pytest.raises(ConfigError, match="multiple"):
        CaptionBatches(Images(2), TOKENIZER, 3, 0, chains=Chains(2))
    with pytest.raises(ConfigError, match="hidden"):
        CaptionBatches(Images(2), TOKENIZER, 2, 0, chains=Chains(2, hidden=-0.1))
    with pytest.raises(ConfigError, match="photo_questions"):
        CaptionBatches(Images(2), TOKENIZER, 2, 0, photo_questions=2)
    with pytest.raises(ConfigError, match="revisit"):
        CaptionBatches(Images(2), TOKENIZER, 2, 0, chains=Chains(2, 1.5))
    with pytest.raises(ConfigError, match="training"):
        CaptionBatches(Images(2), TOKENIZER, 2, 0, chains=Chains(2), training=False)


# --- every source ---------------------------------------------------------------------------------


def _sources(seed: int) -> dict[str, BatchSource]:
    text = TextBatches(_corpus(a=1, b=0.5), rows=2, length=11, seed=seed)
    captions = CaptionBatches(Images(13), TOKENIZER, rows=4, seed=seed, chains=Chains(2))
    both = {"text": text, "captions": captions}
    return {**both, "mixture": Mixture(both, {"text": 1, "captions": 1}, steps=60, seed=seed, block=3)}


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(["text", "captions", "mixture"]), k=st.integers(0, 59), seed=st.integers(0, 99))
def test_batch_k_does_not_depend_on_what_was_drawn_before(name: str, k: int, seed: int) -> None:
    resumed, used = _sources(seed)[name], _sources(seed)[name]
    for before in (59, 0, k, k // 2):
        used[before]
    assert same(resumed[k], used[k])


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["text", "captions"])
def test_the_ranks_together_draw_the_whole(name: str, ranks: int) -> None:
    whole = list(_sources(0)[name])
    drawn: dict[int, Batch] = {}
    for rank in range(ranks):
        source = _sources(0)[name]
        drawn |= {k: source[k] for k in range(rank, len(source), ranks)}
    assert len(drawn) == len(whole) and all(same(drawn[k], batch) for k, batch in enumerate(whole))


@pytest.mark.parametrize("name", ["text", "captions", "mixture"])
def test_another_seed_gives_other_batches(name: str) -> None:
    one, other = _sources(1)[name], _sources(2)[name]
    assert not all(same(one[k], other[k]) for k in range(8))


# --- mixtures -------------------------------------------------------------------------------------


class Counted(BatchSource):
    def __init__(self, tokens: float) -> None:
        self.tokens_per_batch = tokens

    def __len__(self) -> int:
        return 5

    def __getitem__(self, k: int) -> Batch:
        return {"k": np.array(k)}


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.tuples(st.floats(0.05, 20), st.floats(1, 5000)), min_size=1, max_size=5),
    seed=st.integers(0, 9),
)
def test_shares_of_tokens_hold_in_every_prefix(parts: list[tuple[float, float]], seed: int) -> None:
    sources = {str(i): Counted(tokens) for i, (_, tokens) in enumerate(parts)}
    mixture = Mixture(sources, {str(i): weight for i, (weight, _) in enumerate(parts)}, 300, seed)
    rates = np.array([weight / tokens for weight, tokens in parts])
    rates /= rates.sum()
    counts = np.zeros(len(parts))
    for k in range(300):
        name, index = mixture.which(k)
        assert index == counts[int(name)]  # each source's own batches in turn, none skipped, none twice
        counts[int(name)] += 1
        assert np.abs(counts - rates * (k + 1)).max() <= len(parts)


def test_a_block_of_batches_shares_its_source() -> None:
    mixture = Mixture({"a": Counted(10), "b": Counted(20)}, {"a": 1, "b": 1}, 31, 0, block=4)
    names = [mixture.which(k)[0] for k in range(len(mixture))]
    assert all(len(set(names[i : i + 4])) == 1 for i in range(0, 31, 4))
    assert len(mixture) == 31 and abs(names.count("a") - 31 * 2 / 3) <= 4  # at most one block off
    with pytest.raises(IndexError):
        mixture[31]


def test_a_mixture_refuses_unknown_and_empty_weights() -> None:
    with pytest.raises(ConfigError, match="did you mean 'captions'"):
        Mixture({"captions": Counted(1)}, {"caption": 1}, 5, 0)
    with pytest.raises(ConfigError, match="at least one"):
        Mixture({"captions": Counted(1)}, {"captions": 0}, 5, 0)
