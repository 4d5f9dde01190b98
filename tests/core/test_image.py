from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin, features

from bitmar.core import bands, rgb
from bitmar.core import image as reading
from bitmar.core.errors import ImageError
from bitmar.core.image import load_photo, preprocess, to_square

RED = (200, 30, 20)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_formats(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    photo = load_photo(encoded(Image.new("RGB", (8, 6), RED), kind))
    assert (photo.mode, photo.size) == ("RGB", (8, 6))
    np.testing.assert_allclose(np.asarray(photo), np.broadcast_to(RED, (6, 8, 3)), atol=8)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000"])
def test_large_photos_of_formats_that_are_decoded_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    monkeypatch.setattr(reading, "_WHOLE", 10)
    photo = load_photo(encoded(Image.new("RGB", (80, 64), RED), kind))
    assert photo.size == ((80, 64) if kind == "AVIF" else (40, 32))
    np.testing.assert_allclose(np.asarray(photo)[8, 8], RED, atol=8)


def test_every_kind_of_source_gives_the_same_photo(tmp_path: Path) -> None:
    image = noise()
    path = tmp_path / "photo.png"
    image.save(path)
    for source in (
        path,
        str(path),
        path.as_uri(),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        image,
        np.asarray(image),
    ):
        np.testing.assert_array_equal(np.asarray(load_photo(source)), np.asarray(image))


def test_the_greatest_levels_keep_their_order() -> None:
    photo = load_photo(encoded(Image.fromarray(np.array([[-3e38, 0, 3e38]], np.float32)), "TIFF"))
    np.testing.assert_array_equal(np.asarray(photo)[0, :, 0], [0, 128, 255])


def test_an_array_of_too_many_pixels_is_refused_before_it_is_copied() -> None:
    endless = np.broadcast_to(np.zeros(1, np.uint8), (1 << 20, 1 << 20, 3))
    with pytest.raises(ImageError, match="1048576x1048576 pixels are more than the 64 megapixels"):
        load_photo(endless)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV"])
def test_colour_modes_become_rgb(mode: str) -> None:
    assert load_photo(noise(mode)).mode == "RGB"


def test_cmyk_jpeg() -> None:
    photo = load_photo(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG"))
    np.testing.assert_allclose(np.asarray(photo)[8, 8], RED, atol=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    np.testing.assert_array_equal(np.asarray(load_photo(clear)), 255)


def test_a_transparent_colour_of_a_palette_is_laid_on_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((0, 0), 1)
    pixels = np.asarray(load_photo(encoded(palette, "PNG", transparency=0)))
    assert tuple(pixels[0, 0]) == RED and tuple(pixels[3, 3]) == (255, 255, 255)


def test_16_bit_grey_keeps_its_levels() -> None:
    levels = np.array([[0, 257 * 128, 65535]], dtype=np.uint16)
    photo = load_photo(encoded(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(np.asarray(photo)[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (0.0, 1.0), (0.0, 1e30)])
def test_float_grey_is_stretched(low: float, high: float) -> None:
    photo = load_photo(Image.fromarray(np.array([[low, high]], dtype=np.float32)))
    np.testing.assert_array_equal(np.asarray(photo)[0, :, 0], [0, 255])


def test_a_constant_or_unusual_float_image() -> None:
    assert load_photo(Image.new("F", (2, 2), 7.0)).mode == "RGB"
    with pytest.raises(ImageError, match="not finite"):
        load_photo(Image.new("F", (2, 2), float("nan")))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255))]
    photo = load_photo(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(np.asarray(photo)[4, 4], RED, atol=8)


def test_the_camera_s_orientation_is_undone() -> None:
    image = Image.new("RGB", (20, 10), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert load_photo(encoded(image, "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_spoil_good_pixels() -> None:
    photo = encoded(Image.new("RGB", (20, 10), RED), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 30)
    assert load_photo(photo).size == (20, 10)


def test_the_caller_s_image_is_left_alone() -> None:
    image = noise("RGBA")
    before = image.tobytes()
    load_photo(image)
    assert image.mode == "RGBA" and image.tobytes() == before


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no bytes"),
        (b"hello, this is text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\xff\xd8\xff\xe0", "picture"),
        (png_claiming(9_000, 9_000), "more than the 64 megapixels"),
        (png_claiming(12_000, 12_000), "bomb|more than the 64"),
        (png_claiming(2**31 - 1, 2**31 - 1), "bomb|broken"),
    ],
    ids=["empty", "text", "postscript", "stub", "81 MP", "144 MP", "bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_picture_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_photo(content)
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        load_photo(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files_are_refused(kind: str) -> None:
    content = encoded(noise(size=(64, 64)), kind)
    with pytest.raises(ImageError):
        load_photo(content[: len(content) // 2])


PIXELS = {
    "grey of few bits.png": ("PNG", "L", {"bits": 2}),
    "grey.png": ("PNG", "L", {}),
    "black and white.png": ("PNG", "1", {}),
    "grey and alpha.png": ("PNG", "LA", {}),
    "palette.png": ("PNG", "P", {}),
    "palette with a clear colour.png": ("PNG", "P", {"transparency": 3}),
    "colour.png": ("PNG", "RGB", {}),
    "colour and alpha.png": ("PNG", "RGBA", {}),
    "deep grey.png": ("PNG", "I;16", {}),
    "grey.bmp": ("BMP", "L", {}),
    "palette.bmp": ("BMP", "P", {}),
    "black and white.bmp": ("BMP", "1", {}),
    "colour.bmp": ("BMP", "RGB", {}),
    "black and white.pbm": ("PPM", "1", {}),
    "grey.pgm": ("PPM", "L", {}),
    "colour.ppm": ("PPM", "RGB", {}),
    **{f"{mode}.tif": ("TIFF", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16")},
    **{
        f"{mode} {kind}.tif": ("TIFF", mode, {"compression": kind})
        for mode in ("L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16")
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
    },
    "jpeg in.tif": ("TIFF", "RGB", {"compression": "jpeg"}),
}


def in_mode(mode: str, size: tuple[int, int]) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    if mode in ("I", "F", "I;16"):
        dtype = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
        return Image.fromarray(((x * y * 37) % 60_000).astype(dtype))
    grey = Image.fromarray(((x * 3 + y * 5) % 256).astype(np.uint8))
    if mode == "LA":
        return Image.merge("LA", (grey, grey))
    colour = Image.merge("RGB", (grey, noise("L", size), grey))
    return Image.merge("RGBA", (*colour.split(), grey)) if mode == "RGBA" else colour.convert(mode)


@pytest.mark.parametrize("name", PIXELS)
def test_bands_give_the_pixels_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind, mode, options = PIXELS[name]
    path = tmp_path / name
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 1000)  # bytes that Pillow writes into a strip
    in_mode(mode, (203, 151)).save(path, kind, **options)
    whole = load_photo(path)
    assert whole.size == (203, 151)
    monkeypatch.setattr(reading, "_WHOLE", 0)
    monkeypatch.setattr(bands, "_BAND", 1500)
    monkeypatch.setattr(rgb, "_ROWS", 1500)
    monkeypatch.setattr(reading, "_make_room", None)  # nothing is decoded whole
    np.testing.assert_array_equal(np.asarray(load_photo(path)), np.asarray(whole))
    monkeypatch.setattr(reading, "_SHRUNK", 0)
    np.testing.assert_array_equal(np.asarray(load_photo(path)), np.asarray(whole.reduce(2)))


@pytest.mark.parametrize("colour", [2, 6])
def test_deep_colours_of_png_in_bands(monkeypatch: pytest.MonkeyPatch, colour: int) -> None:
    """Pixels of 6 and 8 bytes, with each of the five filters: Pillow writes none such."""
    channels = {2: 3, 6: 4}[colour]
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 65536, (40, 30, channels)).astype(">u2").view(np.uint8).reshape(40, -1)
    lines = b"".join(bytes([y % 5]) + row.tobytes() for y, row in enumerate(levels))  # any bytes are a filtered row
    header = struct.pack(">IIBBBBB", 30, 40, 16, colour, 0, 0, 0)
    content = png_of((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    whole = load_photo(content)
    monkeypatch.setattr(reading, "_WHOLE", 0)
    monkeypatch.setattr(bands, "_BAND", 200)
    np.testing.assert_array_equal(np.asarray(load_photo(content)), np.asarray(whole))


@pytest.mark.parametrize("name", ["colour.png", "L.tif", "RGB tiff_lzw.tif", "colour.bmp", "colour.ppm"])
def test_truncated_files_are_refused_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind, mode, options = PIXELS[name]
    content = encoded(in_mode(mode, (203, 151)), kind, **options)
    monkeypatch.setattr(reading, "_WHOLE", 0)
    monkeypatch.setattr(bands, "_BAND", 1500)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(ImageError):
            load_photo(content[: int(len(content) * share)])


def test_what_must_be_decoded_whole_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_WHOLE", 0)
    monkeypatch.setattr(reading, "_ROOM", 3000)
    with pytest.raises(ImageError, match="WEBP that can only be decoded whole"):
        load_photo(encoded(noise(), "WEBP"))
    with pytest.raises(ImageError, match="JPEG that can only be decoded whole"):
        load_photo(encoded(noise(), "JPEG", progressive=True))
    assert load_photo(encoded(noise(), "JPEG")).size == (20, 15)  # by its decoder, at half the size


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_pixels(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    np.testing.assert_array_equal(np.asarray(load_photo(clear)), 255)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_a_picture_without_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="shows nothing"):
        load_photo(Image.new("RGB", size))


def test_the_system_s_reasons_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="cannot be read: File name too long"):
        load_photo(tmp_path / ("x" * 5000))
    path = tmp_path / "photo.png"
    noise().save(path)

    def refused(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ImageError, match=r"photo\.png: cannot be read: Permission denied"):
        load_photo(path)


def test_missing_files_folders_and_strange_sources(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_photo(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="folder"):
        load_photo(tmp_path)
    with pytest.raises(ImageError, match="not int"):
        load_photo(7)  # type: ignore[arg-type]
    with pytest.raises(ImageError):
        load_photo("a\0b.jpg")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8"):
        load_photo(array)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF"]), st.data())
def test_damage_gives_a_photo_or_an_image_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(noise(size=(16, 16)), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        photo = load_photo(bytes(content))
    except ImageError:
        return
    assert photo.mode == "RGB"


def test_square_is_squashed_not_cropped() -> None:
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255
    square = to_square(Image.fromarray(wide), 8)
    assert square.shape == (8, 8, 3) and square.dtype == np.uint8
    assert square[:, :3].max() == 0 and square[:, 5:].min() == 255


def test_shrinking_antialiases() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(to_square(Image.fromarray(stripes), 8), 127.5, atol=12)


def test_preprocess_normalises_each_colour() -> None:
    photo = Image.new("RGB", (9, 5), (255, 0, 51))
    pixels = preprocess(photo, size=4, mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0))
    assert pixels.shape == (3, 4, 4) and pixels.dtype == np.float32 and pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels[:, 0, 0], [1.0, -2.0, 0.0], atol=1e-6)
