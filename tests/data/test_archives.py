"""Archives whole, broken and hostile; none is ever unpacked to the disk."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import DataError
from bitmar.data import archives
from bitmar.data.archives import (
    data_hash,
    open_archive,
    read_files,
    read_records,
    read_rows,
    text_of,
    texts_of,
)

LINE = b'{"text": "one"}\n'


def zipped(path: Path, encrypted: bool = False) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ewok_filtered/a.jsonl", '{"text": "one"}\n')
        archive.writestr("__MACOSX/ewok_filtered/a.jsonl", "no data")
    if encrypted:  # the standard library writes no passwords: only the flag that says there is one
        data = bytearray(path.read_bytes())
        for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = data.find(signature)
            while place >= 0:
                data[place + flags] |= 1
                place = data.find(signature, place + 4)
        path.write_bytes(bytes(data))
    return path


def test_an_encrypted_archive_says_what_to_do(tmp_path: Path) -> None:
    path = zipped(tmp_path / "ewok_fast.zip", encrypted=True)
    with (
        pytest.raises(DataError, match=r"encrypted: unpack it .*`unzip -P PASSWORD ewok_fast.zip`.*README"),
        open_archive(path),
    ):
        pass


def test_a_truncated_archive_is_a_clear_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "comps.zip")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"comps\.zip cannot be read .*download it again"):
        list(read_files(path, ".jsonl"))


def test_damage_inside_an_archive_is_a_clear_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "comps.zip")
    path.write_bytes(path.read_bytes().replace(b'"text"', b'"tExt"'))  # the check sum no longer holds
    with pytest.raises(DataError, match="download it again"):
        list(read_files(path, ".jsonl"))


def test_folder_zip_tar_and_file_read_alike(tmp_path: Path) -> None:
    (tmp_path / "f" / "deep").mkdir(parents=True)
    (tmp_path / "f" / "deep" / "a.jsonl").write_bytes(LINE)
    (tmp_path / "f" / "b.csv").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as packed, tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        for name in ("deep/a.jsonl", "b.csv"):
            packed.write(tmp_path / "f" / name, name)
            tar.add(tmp_path / "f" / name, name)
    for source in ("f", "z.zip", "t.tar.gz"):
        assert list(read_files(tmp_path / source, ".jsonl")) == [(f"{tmp_path / source}/deep/a.jsonl", LINE)]
        with open_archive(tmp_path / source) as archive:
            assert archive.names == ("b.csv", "deep/a.jsonl") and archive.read("b.csv") == b"x"
            for name in ("../f/b.csv", "/etc/passwd", "c.csv", ""):
                with pytest.raises(DataError, match="holds no"):
                    archive.read(name)
    file = tmp_path / "f" / "deep" / "a.jsonl"
    assert list(read_files(file, ".jsonl")) == [(str(file), LINE)]
    with pytest.raises(DataError, match="is not there"):
        list(read_files(tmp_path / "none.zip", ".jsonl"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_small_file_cannot_unpack_to_a_large_one(
    tmp_path: Path, method: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_FILE", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("a.jsonl", bytes((1 << 20) + 1))
    with pytest.raises(DataError, match="more than the 1 MiB"):
        list(read_files(path, ".jsonl"))
    data = bytearray(path.read_bytes())  # the same, which says that it is small
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature) + place
        data[at : at + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_files(path, ".jsonl"))


def test_many_files_together_have_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_TOTAL", 100)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as packed, tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in "abc":
            packed.writestr(f"{name}.jsonl", bytes(40))
            entry = tarfile.TarInfo(f"{name}.jsonl")
            entry.size = 40
            tar.addfile(entry, io.BytesIO(bytes(40)))
    for source in ("z.zip", "t.tar"):
        with pytest.raises(DataError, match="more than the 0 MiB"):
            list(read_files(tmp_path / source, ".jsonl"))


@pytest.mark.parametrize("name", ["../a.jsonl", "/a.jsonl", "x/../../a.jsonl", "..\\a.jsonl"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as packed:
        packed.writestr(zipfile.ZipInfo(name), LINE)
    with pytest.raises(DataError, match="leave its folder"):
        list(read_files(tmp_path / "slip.zip", ".jsonl"))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("a.jsonl", LINE)
        packed.writestr("a.jsonl", b"other")
    with pytest.raises(DataError, match="two files"):
        list(read_files(tmp_path / "two.zip", ".jsonl"))


@pytest.mark.parametrize("method", [99, 97, 14, 12, 1])
def test_another_method_is_a_clear_error(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "x.zip")
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(signature) + place
        data[at : at + 2] = method.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_files(path, ".jsonl"))


@given(
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_any_damage_is_a_data_error_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, method: int, edits: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        packed.writestr("a.jsonl", LINE * 9)
        packed.writestr("b.jsonl", LINE)
    data = bytearray(path.read_bytes())
    for at, value in edits:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - (cut if cut < 200 else 0)])
    try:
        list(read_files(path, ".jsonl"))
    except DataError as error:
        assert str(path) in str(error)


def test_rows_of_a_csv_know_the_line_they_begin_on() -> None:
    assert list(read_rows("x", b'\xef\xbb\xbfa,b\n"one\ntwo",3\n4,5\n')) == [
        (1, ["a", "b"]),
        (2, ["one\ntwo", "3"]),
        (4, ["4", "5"]),
    ]
    with pytest.raises(DataError, match="x:2 is no line"):
        list(read_rows("x", b"a\n" + b"y" * 200_000))


def test_the_hash_follows_the_data(tmp_path: Path) -> None:
    folder = tmp_path / "vqa_filtered"
    (folder / "images").mkdir(parents=True)
    (folder / "a.jsonl").write_text("one")
    (folder / "images" / "1.jpg").write_bytes(b"photo")
    seen = {data_hash(folder)}
    (folder / "a.jsonl").write_text("two")
    seen.add(data_hash(folder))
    (folder / "images" / "1.jpg").write_bytes(b"larger photo")
    seen.add(data_hash(folder))
    (folder / "images" / "2.jpg").write_bytes(b"")
    seen.add(data_hash(folder))
    assert len(seen) == 4 and data_hash(folder) in seen


# Lines.


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw\n\n[1]\n{"other": 1}\n{"text": 7}\n{"text": "two"}\n')
    bad: dict[str, str] = {}
    found = read_records(tmp_path, lambda line, stem: (stem, text_of(line, "text")), bad.__setitem__)
    assert found == [("a", "one"), ("a", "two")]
    assert list(bad) == [f"{path}:{number}" for number in (2, 4, 5, 6)]
    assert "not JSON" in bad[f"{path}:2"] and "lacks 'text'" in bad[f"{path}:5"] and "no text" in bad[f"{path}:6"]
    with pytest.raises(DataError, match="holds no line that can be read"):
        read_records(tmp_path, lambda line, stem: line["none"], bad.__setitem__)


def test_a_folder_and_its_archive_read_alike(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "ewok_filtered.zip")
    with zipfile.ZipFile(archive) as opened:
        opened.extract("ewok_filtered/a.jsonl", tmp_path)
    read = [
        read_records(source, lambda line, stem: (stem, line["text"]), lambda *_: None)
        for source in (archive, tmp_path / "ewok_filtered")
    ]
    assert read[0] == read[1] == [("a", "one")]


def test_values_have_to_be_texts() -> None:
    assert texts_of({"x": ["a", "b"]}, "x") == ["a", "b"]
    for value in ([], "ab", ["a", 1], ["a", ""], None):
        with pytest.raises(TypeError, match="no list of texts"):
            texts_of({"x": value}, "x")
