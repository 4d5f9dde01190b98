"""Which files bitmar reads as photos, told by their first bytes, and what to do about those it does not."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, TiffImagePlugin

from bitmar.core.errors import ImageError, pip_install

# Named, because Pillow would also open EPS (which starts Ghostscript) and much that no camera writes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
_PHOTO = "jpg jpeg jpe jfif png apng webp gif bmp tif tiff ppm pgm pbm pnm jp2 j2k jpx avif heic heif hif"
_RAW = "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
_VIDEO = "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv 3gp ogv"
SUFFIXES = frozenset(f".{name}" for name in _PHOTO.split())
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO.split())
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW.split())
HEAD = 32  # bytes that tell a format
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO/IEC 23008-12
# Canon's CR2 and CR3, Fuji, Olympus (three), Panasonic, Sigma, Minolta
_RAW_HEADS = (b"II*\0\x10\0\0\0CR", b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706


def readable(head: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats to try for a file that begins like this.

    Raises ImageError for a camera's raw file, and for HEIC where its extra is missing.
    """
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand == b"crx " or head.startswith(_RAW_HEADS):
        raise ImageError(_raw())
    if brand in _HEIF_BRANDS and not (brand in (b"mif1", b"msf1") and b"avi" in head[16:]):
        _read_heif()
    Image.init()  # fills Image.OPEN: AVIF is there from Pillow 11.3 on
    return tuple(name for name in FORMATS if name in Image.OPEN)


def refuse_raw(image: Image.Image, path: str | Path | None) -> None:
    """Most raw files are TIFF, and what Pillow shows of them is a thumbnail. Raises ImageError for those."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    tags = image.tag_v2
    thumbnail = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in tags
    if thumbnail or _DNG_VERSION in tags or (path is not None and is_raw(path)):
        raise ImageError(_raw())


def is_raw(path: str | Path) -> bool:
    """Whether a name is that of a camera's raw file."""
    return Path(path).suffix.lower() in RAW_SUFFIXES


def is_video(path: str | Path) -> bool:
    """Whether a name is that of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def no_picture(path: str | Path | None) -> str:
    """Why a file that no decoder knows is not read."""
    if path is not None and is_raw(path):
        return _raw()
    if path is not None and is_video(path):
        return "a video: `bitmar caption` describes a frame of it, `bitmar watch` what changes in it"
    return f"not a picture in a format bitmar reads ({', '.join(FORMATS)})"


def _raw() -> str:
    return (
        "a camera's raw file, which bitmar does not develop: save it as JPEG, or take out the one that the camera put "
        "inside with `exiftool -b -JpgFromRaw RAW > photo.jpg`"
    )


def _read_heif() -> None:
    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        raise ImageError(f"a HEIC photo needs pillow-heif: {pip_install('heif')}") from None
    register_heif_opener()
