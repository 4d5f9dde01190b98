"""`bitmar caption` of single photos, good and bad."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitmar

Cli = Callable[..., Any]


def bomb() -> bytes:
    """A PNG of a few bytes whose header claims 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


RGB = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
WHOLE = encoded(RGB, "JPEG")
GOOD = {
    "cmyk.jpg": encoded(RGB.convert("CMYK"), "JPEG"),
    "sixteen-bit.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "animated.gif": encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)] * 2),
}
BAD = {
    "broken.jpg": b"\xff\xd8\xff\xe0" + bytes(range(256)),
    "truncated.jpg": WHOLE[: len(WHOLE) // 2],
    "bomb.png": bomb(),
    "empty.jpg": b"",
    "notes.jpg": b"this is no picture, it is text",
}


def write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def test_one_photo_prints_what_the_api_returns(cli: Cli, model: Path, photo: Path) -> None:
    result = cli("caption", photo, "--model", model, "--beams", 2, "--max-tokens", 7)
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == bitmar.load(model).caption(photo, beams=2, max_tokens=7)


def test_json_is_one_document(cli: Cli, model: Path, photo: Path) -> None:
    document = json.loads(cli("caption", photo, "--model", model, "--json").stdout)
    (line,) = document["captions"]
    assert document["model"] == str(model) and document["skipped"] == []
    assert line["photo"] == str(photo) and line["caption"] == bitmar.load(model).caption(photo)
    assert line["finish_reason"] in ("stop", "length") and set(line["seconds"]) == {"image", "prompt", "decode"}


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_are_read(cli: Cli, model: Path, tmp_path: Path, name: str) -> None:
    (path,) = write(tmp_path, {name: GOOD[name]})
    assert cli("caption", path, "--model", model).exit_code == 0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_one_line(fails: Callable[..., str], model: Path, tmp_path: Path, name: str) -> None:
    (path,) = write(tmp_path, {name: BAD[name]})
    assert str(path) in fails("caption", path, "--model", model)


def test_bad_pictures_among_good_ones_are_named_counted_skipped(cli: Cli, model: Path, tmp_path: Path) -> None:
    paths = write(tmp_path, {**BAD, **GOOD})
    result = cli("caption", *paths, "--model", model)
    assert result.exit_code == 1
    assert [line.split(": ")[0] for line in result.stdout.splitlines() if str(tmp_path) in line] == [
        str(tmp_path / name) for name in GOOD
    ]
    assert all(str(tmp_path / name) in result.stderr for name in BAD)
    assert result.stderr.splitlines()[-1] == "5 of 8 photos skipped"
    document = json.loads(cli("caption", *paths, "--model", model, "--json").stdout)
    assert [Path(line["photo"]).name for line in document["skipped"]] == list(BAD)


def test_nothing_but_bad_pictures_is_a_failure(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert cli("caption", *write(tmp_path, BAD), "--model", model).exit_code == 2


def test_a_grid_has_all_photos(cli: Cli, model: Path, photo: Path, tmp_path: Path) -> None:
    grid = tmp_path / "new" / "grid.png"
    assert cli("caption", *[photo] * 5, "--model", model, "--grid", grid).exit_code == 0
    with Image.open(grid) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    green = (abs(pixels - np.array([0, 128, 0])).sum(-1) < 30).sum()
    assert green == pytest.approx(5 * 320 * 240, rel=0.02)
    assert pixels.shape[1] == 4 * 336 + 16  # four in a row, the fifth below


def test_a_grid_needs_a_suffix(fails: Callable[..., str], model: Path, photo: Path, tmp_path: Path) -> None:
    assert ".png or .jpg" in fails("caption", photo, "--model", model, "--grid", tmp_path / "grid.webp")


def test_a_damaged_model_is_named(fails: Callable[..., str], model: Path, photo: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    cut, other = tmp_path / "cut.bitmar", tmp_path / "other.bitmar"
    cut.write_bytes(whole[: len(whole) // 2])
    other.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert str(cut) in fails("caption", photo, "--model", cut)
    assert "checksum" in fails("caption", photo, "--model", other)
    assert "not a .bitmar file" in fails("caption", photo, "--model", photo)


def test_how_sure_it_is_stands_beside_a_caption(capsys: pytest.CaptureFixture[str]) -> None:
    from bitmar.cli.caption import Style, _print

    result = {"photo": "cat.jpg", "caption": "A cat.", "confidence": 0.94, "general": None}
    _print(result, Style.plain, alone=False)
    assert capsys.readouterr().out == "cat.jpg: A cat. (94% sure)\n"
    _print(result, Style.plain, alone=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("A cat.\n", "94% sure\n")
    _print({**result, "confidence": None}, Style.plain, alone=False)
    assert capsys.readouterr().out == "cat.jpg: A cat.\n"
