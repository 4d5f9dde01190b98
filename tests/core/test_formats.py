from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from bitmar.core.errors import ImageError
from bitmar.core.image import load_photo

HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf"


def tiff(**tags: int | bytes) -> bytes:
    info, buffer = TiffImagePlugin.ImageFileDirectory_v2(), io.BytesIO()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    Image.new("RGB", (8, 6), "red").save(buffer, "TIFF", tiffinfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"II*\0\x10\0\0\0CR\x02\0" + bytes(40),
        b"\0\0\0\x18ftypcrx \0\0\0\x01" + bytes(40),
        b"FUJIFILMCCD-RAW 0201" + bytes(40),
        tiff(t50706=b"\1\4\0\0"),
    ],
    ids=["CR2", "CR3", "RAF", "DNG"],
)
def test_a_raw_file_says_how_to_get_its_photo(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"raw file.*exiftool"):
        load_photo(data)


@pytest.mark.parametrize("data", [tiff(), b"what no decoder knows"])
def test_a_raw_file_is_known_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "photo.NEF"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"photo\.NEF: a camera's raw file"):
        load_photo(path)


def test_a_jpeg_under_another_name_is_a_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "photo.nef"
    Image.new("RGB", (8, 6)).save(path, "JPEG")
    assert load_photo(path).size == (8, 6)


def test_heic_without_its_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match=r"pillow-heif: pip install .*\[heif\]"):
        load_photo(HEIC)


def test_heic() -> None:
    pytest.importorskip("pillow_heif", reason="HEIC needs bitmar[heif]").register_heif_opener()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "HEIF")
    assert load_photo(buffer.getvalue()).size == (64, 48)
    with pytest.raises(ImageError):
        load_photo(buffer.getvalue()[:-9])


def test_strange_file_objects_and_addresses() -> None:
    with pytest.raises(ImageError, match="mode 'rb'"):
        load_photo(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no bytes"):
        load_photo(io.BytesIO())
    with pytest.raises(ImageError, match="fetch_photo"):
        load_photo("https://example.org/photo.jpg")
    with pytest.raises(ImageError, match="this machine"):
        load_photo("file://elsewhere/photo.jpg")
