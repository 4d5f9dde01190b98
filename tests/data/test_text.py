from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.errors import BitMarError, ConfigError, DataError
from bitmar.data.text import Domain, clean_caption, clean_text, iter_documents


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("two dogs run on the grass .", "Two dogs run on the grass."),
        ("A  dog\tand a cat", "A dog and a cat."),
        ("a man 's hat , a woman 's bag .", "A man's hat, a woman's bag."),
        ("Look out !", "Look out!"),
        ("nul\x00 and \ud800 lone", "Nul and lone."),
        ('"go away!"', '"Go away!"'),
        ("the end...", "The end."),
        ("a dog , .", "A dog."),
        ("costs 3.5 dollars", "Costs 3.5 dollars."),
        (" . ", ""),
        ("", ""),
    ],
)
def test_clean_caption(raw: str, tidy: str) -> None:
    assert clean_caption(raw) == tidy


@given(st.text())
def test_clean_caption_twice_changes_nothing_and_is_encodable(raw: str) -> None:
    once = clean_caption(raw)
    assert clean_caption(once) == once
    assert "\x00" not in once and "\n" not in once
    once.encode()


def test_clean_text_keeps_lines_and_closes_gaps_on_request() -> None:
    raw = "*MOT: what's that ?\n\ufeff*CHI: a  dog ."
    assert clean_text(raw) == "*MOT: what's that ?\n*CHI: a  dog ."
    assert clean_text(raw, "spacing") == "*MOT: what's that?\n*CHI: a dog."


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("split", "documents"),
    [
        ("blank", ["one\ntwo", "three"]),
        ("auto", ["one\ntwo", "three"]),
        ("line", ["one", "two", "three"]),
        ("file", ["one\ntwo\nthree"]),
    ],
)
def test_document_splits(tmp_path: Path, split: str, documents: list[str]) -> None:
    path = _write(tmp_path / "a.txt", "one\ntwo\n  \nthree\n")
    assert list(iter_documents(path, split)) == documents  # type: ignore[arg-type]


def test_auto_takes_lines_where_no_blank_line_is_within(tmp_path: Path) -> None:
    assert list(iter_documents(_write(tmp_path / "a.txt", "\none\ntwo\n\n"))) == ["one", "two"]


@settings(max_examples=50)
@given(words=st.lists(st.text("abc", min_size=1, max_size=40), max_size=60), limit=st.integers(8, 64))
def test_long_documents_are_cut_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], limit: int
) -> None:
    path = _write(tmp_path_factory.mktemp("long") / "a.txt", " ".join(words) + "\n" + "\n".join(words))
    documents = list(iter_documents(path, "file", max_chars=limit))
    assert all(0 < len(document) <= limit for document in documents)
    assert "".join("".join(documents).split()) == "".join(words * 2)


def test_a_title_stays_with_its_long_paragraph(tmp_path: Path) -> None:
    first = next(iter_documents(_write(tmp_path / "a.txt", "= Title =\n" + "word " * 100), "file", max_chars=100))
    assert first.startswith("= Title =\nword word") and len(first) <= 100


@pytest.mark.parametrize(("suffix", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_compressed_text(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack(b"one\ntwo\n"))
    assert list(iter_documents(path)) == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"a\.txt.*cut off or damaged"):
        list(iter_documents(path))


def test_zstandard_text(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one\ntwo\n"))
    assert list(iter_documents(tmp_path / "a.txt.zst")) == ["one", "two"]


def test_progress_reports_every_byte_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "a line of text\n" * 1000)
    read: list[int] = []
    assert len(list(iter_documents(path, on_read=read.append))) == 1000
    assert sum(read) == path.stat().st_size


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path / "childes.txt", "x")
    with pytest.raises(DataError, match=r"did you mean 'childes\.txt'"):
        list(iter_documents(tmp_path / "childs.txt"))
    with pytest.raises(DataError, match=r"did you mean 'childes\.txt'"):
        Domain(path=str(tmp_path / "childs.txt")).files()


def test_domain_paths(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        _write(tmp_path / name, name)
    two = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert Domain.of(str(tmp_path)).files() == two
    assert Domain.of({"path": str(tmp_path / "*.txt")}).files() == two
    assert Domain.of({"path": [str(tmp_path / "b.txt"), str(tmp_path / "a.txt")]}).files() == two[::-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "a", "splt": "line"}, "did you mean 'split'"),
        ({"path": "a", "split": "lines"}, "did you mean 'line'"),
        ({"path": "a", "clean": "captions"}, "did you mean 'caption'"),
        ({"path": "a", "weight": 0}, "weight"),
        ({"path": "a", "weight": "two"}, "weight"),
        ({"path": "a", "weight": True}, "weight"),
        ({"path": 0}, "a file, a folder, a glob or a list of these, not 0"),
        ({"path": ["a", 3]}, "a list of these"),
        ({"path": {"a": 1}}, "a list of these"),
        ({"dataset": 3}, "dataset of a text domain must be text, not 3"),
        ({"path": "a", "column": ["x"]}, "column of a text domain must be text"),
        ({"path": "a", "questions": "no"}, "questions of a text domain is true or false, not 'no'"),
        (3, "a path or a mapping of its keys, not 3"),
        ({"path": "a", "dataset": "b"}, "exactly one"),
        ({}, "exactly one"),
    ],
)
def test_a_wrong_domain_says_what_is_wrong(fields: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Domain.of(fields)


def test_hugging_face_dataset_from_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    _write(tmp_path / "train.jsonl", '{"story": "One."}\n{"story": "Two."}\n')
    assert list(Domain(dataset=str(tmp_path), column="story").documents()) == ["One.", "Two."]
    with pytest.raises(BitMarError, match="did you mean 'story'"):
        list(Domain(dataset=str(tmp_path), column="stories").documents())


def test_a_column_of_a_dataset_that_is_no_text_becomes_none(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    _write(tmp_path / "train.jsonl", '{"a": null, "b": ["One."], "c": 5}\n{"a": "Two.", "b": ["Two."], "c": 6}\n')
    assert list(Domain(dataset=str(tmp_path), column="a").documents()) == ["Two."]
    for column in "bc":
        with pytest.raises(DataError, match=f"column '{column}' of dataset .* not text"):
            list(Domain(dataset=str(tmp_path), column=column).documents())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_text_in_another_encoding_is_refused_with_what_to_do(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / ("a.txt" if pack is bytes else "a.txt.gz")
    path.write_bytes(pack("A dog runs.\nIt barks.\n".encode(encoding)))
    with pytest.raises(DataError, match=r"a\.txt.*not UTF-8: convert it with `iconv"):
        list(iter_documents(path))


def test_what_is_no_text_is_refused_and_a_stray_byte_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(128, 256)) * 40)
    with pytest.raises(DataError, match="no text in UTF-8"):
        list(iter_documents(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 and a \0 in a long enough line\n")
    assert len(list(iter_documents(tmp_path / "a.txt"))) == 1
    (tmp_path / "a.txt").write_bytes("狗在跑。\n".encode() * 9000)  # cut in the middle of a letter
    assert len(list(iter_documents(tmp_path / "a.txt", "line"))) == 9000
    (tmp_path / "a.txt").write_bytes(b"")
    assert list(iter_documents(tmp_path / "a.txt")) == []


def test_an_endless_line_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.data.text._LONGEST", 100)
    documents = list(iter_documents(_write(tmp_path / "a.txt", "word " * 1000), "file", max_chars=80))
    assert " ".join(documents).split() == ["word"] * 1000
