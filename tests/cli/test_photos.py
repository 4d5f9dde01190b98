"""From names on the command line to photos, and to the files of their captions."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitmar.cli.photos import find_photos
from bitmar.cli.threads import in_order

from .._without import without

Cli = Callable[..., Any]


@pytest.fixture
def album(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "album"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for i, name in enumerate(("b.JPG", "a.jpg", "deep/c.jpeg", "deep/.hidden/x.jpg", "._a.jpg", "raw.jpg")):
        (folder / name).write_bytes(jpeg(("red", "green", "blue", "white", "black", "yellow")[i]))
    (folder / "notes.txt").write_text("no photo")
    (folder / "raw.CR2").write_bytes(b"II*\0\x10\0\0\0CR\x02\0")
    return folder


def names(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("a.jpg", "b.JPG", "deep/c.jpeg", "raw.jpg")]


def test_folders_and_globs_in_their_order(album: Path, tmp_path: Path) -> None:
    bad: dict[str, str] = {}
    (tmp_path / "odd[1].jpg").touch()
    (tmp_path / "empty").mkdir()
    asked = [
        f"{album}/[ab].*",
        str(album),
        f"{album}/**/c.*",
        f"{tmp_path}/odd[1].jpg",
        "-",
        "https://h/*?a",
        "none.jpg",
        f"{tmp_path}/empty",
        "none*",
    ]
    a, b, c, raw = names(album)
    rest = [f"{tmp_path}/odd[1].jpg", "-", "https://h/*?a", "none.jpg"]
    assert find_photos(asked, bad.__setitem__) == [a, b, a, b, c, raw, c, *rest]
    assert list(bad) == [f"{tmp_path}/empty", "none*"]


def test_a_glob_goes_no_way_twice(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (album / "deep" / "round").symlink_to(album)
    (album / "deep" / "again").symlink_to(album)  # with two, some globs would never end

    def found(*asked: str) -> list[str]:
        return find_photos(asked, lambda name, reason: pytest.fail(f"{name}: {reason}"))

    everything = names(album)
    assert found(f"{album}/**/*.[jJ]*") == sorted(everything)
    assert found(f"{album}/**") == found(f"{album}/**/") == everything
    assert found(f"{album}/*") == [*everything[:2], everything[2], str(album / "notes.txt"), *_raw(album)]
    assert found(f"{album.parent}/al*/**/**/c.*") == [everything[2]]
    monkeypatch.chdir(album)
    assert found("**/c.*") == ["deep/c.jpeg"]


def _raw(album: Path) -> list[str]:
    return [str(album / "raw.CR2"), str(album / "raw.jpg")]


def test_a_folder_to_a_table_and_json_lines(cli: Cli, model: Path, album: Path, tmp_path: Path) -> None:
    table, lines = tmp_path / "out.csv", tmp_path / "out.jsonl"
    arguments = ("caption", album, "--model", model, "--csv", table, "--jsonl", lines)
    result = cli(*arguments)
    assert result.exit_code == 0 and result.stdout == ""
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["photo"] for row in rows] == names(album) and set(rows[0]) == {
        "photo",
        "caption",
        "confidence",
        "general",
    }
    documents = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [each["caption"] for each in documents] == [row["caption"] for row in rows]
    before = table.read_bytes()
    assert cli(*arguments).exit_code == 2 and table.read_bytes() == before
    assert cli(*arguments, "--force", "--workers", 3).exit_code == 0 and table.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"out.csv", "out.jsonl"}
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_command_goes_on(
    cli: Cli, model: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar.api import BitMar

    table, generate, seen = tmp_path / "out.csv", BitMar.generate, list[Any]()

    def stopped(self: BitMar, text: str, photo: Any, **options: Any) -> Any:
        seen.append(photo)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return generate(self, text, photo, **options)

    monkeypatch.setattr(BitMar, "generate", stopped)
    arguments = ("caption", album, "--model", model, "--csv", table, "--workers", 1)
    result = cli(*arguments)
    assert result.exit_code == 130 and "out.csv.partial is kept" in result.stderr and not table.exists()
    assert cli(*arguments).exit_code == 0
    assert seen == [*names(album)[:3], *names(album)[2:]]
    assert [row["photo"] for row in csv.DictReader(table.open())] == names(album)


def test_sidecars_are_never_written_over(cli: Cli, model: Path, album: Path, jpeg: Callable[..., bytes]) -> None:
    (album / "raw.png").write_bytes(jpeg())  # shares its stem
    (album / "a.txt").write_text("My own words.")
    arguments = ("caption", album, "--model", model, "--sidecar")
    result = cli(*arguments)
    assert result.exit_code == 0 and "1 was there already" in result.stderr
    assert (album / "a.txt").read_text() == "My own words."
    assert {path.name for path in album.glob("*.txt")} == {"a.txt", "b.txt", "raw.jpg.txt", "raw.png.txt", "notes.txt"}
    again = cli(*arguments)
    assert again.exit_code == 0 and "0 captions" in again.stderr and "5 were there" in again.stderr
    (album / "broken.jpg").write_bytes(b"no photo")
    told = cli(*arguments)
    assert told.exit_code == 1 and told.stderr.endswith("5 were there already\n1 of 1 photos skipped\n")
    (album / "broken.jpg").unlink()
    assert cli(*arguments, "--force").exit_code == 0 and (album / "a.txt").read_text() != "My own words."


def test_a_broken_photo_in_a_folder_is_skipped(cli: Cli, model: Path, album: Path, tmp_path: Path) -> None:
    (album / "broken.jpg").write_bytes(b"no photo")
    (album / "other.NEF").write_bytes(b"raw")
    result = cli("caption", album, "--model", model, "--csv", tmp_path / "out.csv")
    assert result.exit_code == 1 and "broken.jpg" in result.stderr and "exiftool" in result.stderr
    assert result.stderr.splitlines()[-1] == "2 of 6 photos skipped"


def test_standard_input(cli: Cli, model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> Any:
        monkeypatch.setattr("bitmar.cli.photos.sys", type("Sys", (), {"stdin": io.TextIOWrapper(io.BytesIO(data))}))
        return cli("caption", "-", "--model", model)

    assert piped(photo.read_bytes()).stdout == cli("caption", photo, "--model", model).stdout
    assert piped(b"").exit_code == 2 and sys.stdin is not None
    assert cli("caption", photo.as_uri(), "--model", model).exit_code == 0


def test_what_does_not_go_together(fails: Callable[..., str], model: Path, album: Path, tmp_path: Path) -> None:
    assert "photos that are files" in fails("caption", "-", "--sidecar", "--model", model)
    assert "a folder" in fails("caption", album, "--csv", tmp_path, "--model", model)
    assert "at least 1" in fails("caption", album, "--workers", 0, "--model", model)
    assert "of its own" in fails("caption", album, "--csv", tmp_path / "a", "--jsonl", tmp_path / "a", "--model", model)


def test_an_alternative_text_is_a_sentence(cli: Cli, model: Path, photo: Path) -> None:
    line = cli("caption", photo, "--model", model, "--style", "alt").stdout.rstrip("\n")
    assert line and line == line[0].upper() + line[1:] and line[-1] in ".!?"


def test_threads_keep_the_order_and_end_with_an_error() -> None:
    both = threading.Barrier(2, timeout=10)

    def call(i: int) -> int:
        if i < 2:
            both.wait()  # passes only where two run at a time
        if i == 50:
            raise ValueError(i)
        return i

    results = in_order(call, 2, range(1000))
    assert [next(results) for _ in range(50)] == list(range(50))
    with pytest.raises(ValueError, match="50"):
        next(results)


def test_a_video_is_described_by_a_frame_of_its_middle(
    cli: Cli, fails: Callable[..., str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av", reason="videos need bitmar[video]")
    path = tmp_path / "cl\u00eep 1.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for colour in ["black"] * 10 + ["blue"] * 20:
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), colour))))
        container.mux(stream.encode(None))
    one = cli("caption", path, "--model", model)
    assert one.exit_code == 0 and one.stdout == cli("caption", path.as_uri(), "--model", model).stdout
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    both = cli("caption", f"{tmp_path}/*.mp4", "--model", model, "--sidecar")
    assert both.exit_code == 1 and "broken.mp4: no video" in both.stderr and path.with_suffix(".txt").exists()
    folder = cli("caption", tmp_path, "--model", model)  # a telephone films beside its photos
    assert folder.exit_code == 2 and "no photo in this folder" in folder.stderr
    assert "[video]" in without("av", "caption", path, "--model", model)
