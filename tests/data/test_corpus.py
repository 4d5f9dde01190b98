from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError, DataError, OutputError
from bitmar.data import corpus as corpus_module
from bitmar.data.corpus import Corpus, TokenStream, build_corpus
from bitmar.data.tokenizer import train_bpe

STORIES = [f"story {i}\nabout {i * 7919 % 1000} dogs" for i in range(300)]
TOKENIZER = train_bpe(STORIES, 300)


def _source(folder: Path, name: str = "stories.txt", texts: list[str] = STORIES) -> str:
    path = folder / name
    path.write_text("\n\n".join(texts))
    return str(path)


def _build(path: str, cache: Path, tokenizer: Tokenizer = TOKENIZER, **more: object) -> Corpus:
    return build_corpus({"stories": path}, tokenizer, cache, progress=False, **more)  # type: ignore[arg-type]


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = _source(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
            _build(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert len(_build(path, tmp_path / "cache")["stories"].train)


@pytest.mark.parametrize(
    "about", ["[]", "{}", "null", '{"dtype": 1, "tokens": {}}', '{"dtype": "uint16", "tokens": []}']
)
def test_a_folder_that_says_something_else_is_damaged(tmp_path: Path, about: str) -> None:
    path = _source(tmp_path)
    _build(path, tmp_path / "cache")
    next((tmp_path / "cache").glob("*/domain.json")).write_text(about)
    with pytest.raises(DataError, match="is damaged"):
        _build(path, tmp_path / "cache")


def test_documents_that_do_not_fit_their_tokens_are_damage(tmp_path: Path) -> None:
    path = _source(tmp_path)
    _build(path, tmp_path / "cache", heldout=0.0)
    file = next((tmp_path / "cache").glob("*/train.offsets.npy"))
    offsets = np.load(file)
    np.save(file, np.concatenate((offsets[:1], offsets[2:3], offsets[1:2], offsets[3:])))
    with pytest.raises(DataError, match=r"train\.offsets\.npy does not fit train\.bin"):
        _build(path, tmp_path / "cache", heldout=0.0)


def _texts(stream: TokenStream) -> list[str]:
    return [TOKENIZER.decode(stream.document(i).tolist()) for i in range(len(stream))]


def test_documents_come_back_between_bos_and_eos(tmp_path: Path) -> None:
    corpus = _build(_source(tmp_path), tmp_path / "cache", heldout=0.0)
    stream = corpus["stories"].train
    assert _texts(stream) == STORIES
    assert len(corpus["stories"].heldout) == 0
    assert stream.tokens.dtype == np.uint16 and isinstance(stream.tokens, np.memmap)
    for i in range(len(stream)):
        document = stream.document(i)
        assert document[0] == 1 and document[-1] == 2
        assert not np.isin(document[1:-1], [0, 1, 2, 3]).any()


def test_the_held_out_share_depends_on_the_text_alone(tmp_path: Path) -> None:
    forward = _build(_source(tmp_path), tmp_path / "a", heldout=0.2)["stories"]
    assert sorted(_texts(forward.train) + _texts(forward.heldout)) == sorted(STORIES)
    assert 30 <= len(forward.heldout) <= 90
    backward = _build(_source(tmp_path, "b.txt", STORIES[::-1]), tmp_path / "b", heldout=0.2)["stories"]
    assert _texts(backward.heldout) == _texts(forward.heldout)[::-1]
    wider = _build(_source(tmp_path), tmp_path / "c", heldout=0.4)["stories"]
    assert set(_texts(forward.heldout)) < set(_texts(wider.heldout))


def test_paragraphs_stand_alone_and_are_held_out_with_their_document(tmp_path: Path) -> None:
    path = _source(tmp_path)
    whole = _build(path, tmp_path / "cache", heldout=0.2)["stories"]
    cut = build_corpus(
        {"stories": {"path": path, "paragraphs": True}}, TOKENIZER, tmp_path / "cache", heldout=0.2, progress=False
    )["stories"]
    for part in ("train", "heldout"):
        lines = [line for text in _texts(whole.stream(part)) for line in text.split("\n")]  # type: ignore[arg-type]
        assert _texts(cut.stream(part)) == lines  # type: ignore[arg-type]


def test_no_question_is_about_a_held_out_document(tmp_path: Path) -> None:
    texts = [
        f"Story {i} is a tale of {i * 7919 % 1000} dogs. The dogs of tale {i} were brave and loud." for i in range(200)
    ]
    path, tokenizer = _source(tmp_path, texts=texts), train_bpe(texts, 300)
    plain = _build(path, tmp_path / "cache", tokenizer, heldout=0.3)["stories"]
    held = [tokenizer.decode(plain.heldout.document(i).tolist()) for i in range(len(plain.heldout))]
    asked = build_corpus(
        {"stories": {"path": path, "questions": True}}, tokenizer, tmp_path / "cache", heldout=0.3, progress=False
    )["stories"]
    both = [tokenizer.decode(s.document(i).tolist()) for s in (asked.train, asked.heldout) for i in range(len(s))]
    assert len(held) > 30 and len(both) > 80
    assert all("Answer: " in text for text in both)
    sentences = [sentence for text in held for sentence in text.split(". ")]
    assert not any(sentence in text for text in both for sentence in sentences)


def test_built_once_and_again_only_when_an_input_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    build = corpus_module._build
    monkeypatch.setattr(corpus_module, "_build", lambda name, *more: (built.append(name), build(name, *more)))
    path, cache = _source(tmp_path), tmp_path / "cache"
    _build(path, cache)
    _build(path, cache)
    build_corpus({"stories": {"path": path, "weight": 3}}, TOKENIZER, cache, progress=False)
    shutil.copy(path, tmp_path / "renamed.txt")
    _build(str(tmp_path / "renamed.txt"), cache)
    assert len(built) == 1
    _build(path, cache, heldout=0.5)
    _build(path, cache, train_bpe(STORIES, 290))
    build_corpus({"stories": {"path": path, "split": "line"}}, TOKENIZER, cache, progress=False)
    _source(tmp_path, texts=STORIES[1:])
    _build(path, cache)
    assert len(built) == 5


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = _source(tmp_path), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "is_held_out", lambda text, share: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _build(path, cache)
    assert list(cache.iterdir()) == []
    assert len(_build(path, cache)["stories"].train) > 0


def test_a_damaged_cache_says_which_folder_to_delete(tmp_path: Path) -> None:
    path, cache = _source(tmp_path), tmp_path / "cache"
    _build(path, cache)
    (file,) = cache.glob("*/train.bin")
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match="delete that folder"):
        _build(path, cache)


def test_special_tokens_written_in_a_text_stay_text(tmp_path: Path) -> None:
    corpus = _build(_source(tmp_path, texts=["a <eos> b"]), tmp_path / "cache", heldout=0.0)
    assert np.count_nonzero(corpus["stories"].train.tokens == 2) == 1


def test_wrong_input_is_our_error(tmp_path: Path) -> None:
    path = _source(tmp_path)
    corpus = _build(path, tmp_path / "cache")
    with pytest.raises(ConfigError, match="did you mean 'stories'"):
        corpus["storys"]
    with pytest.raises(ConfigError, match="did you mean 'stories'"):
        corpus.only("stories", "storys")
    assert list(corpus.only("stories").domains) == ["stories"]
    with pytest.raises(ConfigError, match="at least one"):
        build_corpus({}, TOKENIZER, tmp_path)
    with pytest.raises(ConfigError, match="heldout"):
        _build(path, tmp_path, heldout=1.0)
    with pytest.raises(DataError, match="no document"):
        _build(_source(tmp_path, "empty.txt", ["", "\x00"]), tmp_path / "cache")


def test_gpt2_separates_documents_by_one_token(tmp_path: Path, shared_data: Path) -> None:
    from bitmar.data.tokenizer import load_tokenizer

    gpt2 = load_tokenizer(shared_data / "gpt2_bpe")
    tokens = _build(_source(tmp_path, texts=["Hello", "world"]), tmp_path / "cache", gpt2, heldout=0.0)["stories"].train
    assert tokens.tokens.tolist() == [15496, 50256, 6894, 50256]


def test_a_real_domain(tmp_path: Path, shared_data: Path) -> None:
    path = str(shared_data / "text" / "fairytales.txt.xz")
    summary = build_corpus({"tales": path}, TOKENIZER, tmp_path, progress=False).summary()["tales"]
    assert summary["documents"] > 278 and summary["heldout_tokens"] > 0
