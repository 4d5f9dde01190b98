"""Descriptions inside photos and beside them, read back by Pillow and by Exiv2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin

from bitmar.cli.caption_xmp import embed, is_described, write_sidecar
from bitmar.core.errors import ImageError

exiv2 = pytest.importorskip("exiv2", reason="XMP needs bitmar[xmp]")

Cli = Callable[..., Any]
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))


def saved(path: Path, **options: Any) -> Path:
    RGB.save(path, **options)
    return path


def fields(path: Path) -> dict[str, str]:
    image = exiv2.ImageFactory.open(path.read_bytes())
    image.readMetadata()
    return {each.key(): each.print() for each in (*image.xmpData(), *image.iptcData())}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.jp2"])
def test_both_texts_and_not_a_pixel_more(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    os.chmod(path, 0o640)
    before = np.asarray(Image.open(path))
    assert not is_described(path)
    embed(path, 'a "brown" d\u00f6g', "A dog.")
    embed(path, 'a "brown" d\u00f6g, running', "A dog runs.")  # not twice
    assert is_described(path) and np.array_equal(np.asarray(Image.open(path)), before)
    found = fields(path)
    assert found["Xmp.dc.description"] == 'lang="x-default" a "brown" d\u00f6g, running'
    assert found["Xmp.iptc.AltTextAccessibility"] == 'lang="x-default" A dog runs.'
    assert name == "a.webp" or found["Iptc.Application2.Caption"] == 'a "brown" d\u00f6g, running'
    assert path.stat().st_mode & 0o777 == 0o640 and [each.name for each in tmp_path.iterdir()] == [name]


def test_what_a_camera_wrote_stays(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "My camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path / "a.jpg", exif=exif, icc_profile=profile)
    embed(path, "A dog.", "A dog.")
    with Image.open(path) as image:
        assert image.getexif()[0x0110] == "My camera" and image.info["icc_profile"] == profile
        assert IptcImagePlugin.getiptcinfo(image)[2, 120] == b"A dog."  # type: ignore[index]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg")
    (tmp_path / "link.jpg").symlink_to(path)
    embed(tmp_path / "link.jpg", "A dog.", "A dog.")
    assert (tmp_path / "link.jpg").is_symlink() and is_described(path)


def test_a_sidecar_keeps_what_else_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.xmp"
    write_sidecar(path, "A dog.", "A dog.")
    path.write_text(path.read_text().replace("<dc:description>", "<dc:source>mine</dc:source><dc:description>"))
    write_sidecar(path, "A cat.", "A cat.")
    found = fields(path)
    assert found["Xmp.dc.source"] == "mine" and found["Xmp.dc.description"].endswith(" A cat.")


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a.ppm"])
def test_formats_that_take_no_text(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    before = path.read_bytes()
    with pytest.raises(ImageError, match="--xmp writes beside"):
        embed(path, "A dog.", "A dog.")
    assert path.read_bytes() == before and not is_described(tmp_path / "none.jpg")


def test_the_command_writes_once_and_goes_on(cli: Cli, model: Path, tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.jpg"), saved(tmp_path / "b.png")
    embed(a, "My own words.", "Mine.")
    arguments = ("caption", tmp_path, "--model", model, "--embed", "--xmp")
    result = cli(*arguments)
    assert result.exit_code == 0, result.stderr
    assert fields(a)["Xmp.dc.description"].endswith("My own words.") and is_described(b)
    assert fields(tmp_path / "a.xmp")["Xmp.iptc.AltTextAccessibility"] and is_described(tmp_path / "b.xmp")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = cli(*arguments)
    assert again.exit_code == 0 and "2 were there already" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert cli(*arguments, "--force").exit_code == 0 and "own words" not in fields(a)["Xmp.dc.description"]


def test_a_photo_that_takes_no_text_is_skipped(cli: Cli, model: Path, tmp_path: Path) -> None:
    saved(tmp_path / "a.gif"), saved(tmp_path / "b.jpg")
    result = cli("caption", tmp_path, "--model", model, "--embed")
    assert result.exit_code == 1 and "skipped" in result.stderr and "a.gif" in result.stderr
    assert is_described(tmp_path / "b.jpg") and "1 caption in the photos themselves" in result.stderr


def test_what_is_no_file(fails: Callable[..., str], model: Path) -> None:
    assert "photos that are files" in fails("caption", "-", "--model", model, "--embed")


def test_without_the_extra(fails: Callable[..., str], model: Path, photo: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "exiv2", None)
    assert "[xmp]" in fails("caption", photo, "--model", model, "--xmp")
