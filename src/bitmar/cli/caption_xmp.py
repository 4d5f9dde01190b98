"""Descriptions and alternative texts as other programs read them: in XMP and IPTC, inside a photo or beside it.

The fields are those of the IPTC Photo Metadata Standard 2021.1: Description (`dc:description`, and IIM 2:120 for older
programs) and Alt Text (`Iptc4xmpCore:AltTextAccessibility`). Exiv2 writes them; all else in a file stays as it is.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from bitmar.core.errors import ImageError
from bitmar.core.files import write_atomically

_DESCRIPTION, _ALT, _IIM = "Xmp.dc.description", "Xmp.iptc.AltTextAccessibility", "Iptc.Application2.Caption"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufffe\uffff]")  # which XML does not hold
_UTF8 = "\x1b%G"  # ISO 2022: what follows in IIM is UTF-8


def is_described(path: str | Path) -> bool:
    """Whether a photo, or an XMP file, has a description or an alternative text; False where there is no such file.

    Raises ImageError for a file that Exiv2 does not read.
    """
    if not os.path.exists(path):
        return False
    image = _opened(path)
    return any(key in image.xmpData() for key in (_DESCRIPTION, _ALT)) or _IIM in image.iptcData()


def embed(path: str | Path, description: str, alt: str) -> None:
    """Write both into a photo's own file, whose pixels and other fields stay the same.

    Raises ImageError for a format that takes none: only JPEG, PNG, WebP, TIFF and JPEG 2000 do.
    """
    import exiv2

    image = _opened(path)
    iptc = image.iptcData()
    if image.checkMode(exiv2.MetadataId.Iptc) == exiv2.AccessMode.ReadWrite:  # WebP has no place for it
        iptc["Iptc.Envelope.CharacterSet"], iptc[_IIM] = _UTF8, _CONTROL.sub("", description)
    whole = os.path.realpath(path)  # the file, not a link to it
    _write(image, whole, description, alt, stat.S_IMODE(os.stat(whole).st_mode))


def write_sidecar(path: Path, description: str, alt: str) -> None:
    """Write both into an XMP file; of one that is there all else is kept. Raises ImageError, OutputError."""
    import exiv2

    image = _opened(path) if path.exists() else exiv2.ImageFactory.create(exiv2.ImageType.xmp)
    _write(image, path, description, alt, 0o666)


def _write(image: Any, path: str | Path, description: str, alt: str, mode: int) -> None:
    import exiv2

    for key, text in ((_DESCRIPTION, description), (_ALT, alt)):
        image.xmpData()[key] = f'lang="x-default" {_CONTROL.sub("", text)}'
    try:
        image.writeMetadata()
    except exiv2.Exiv2Error as error:
        raise _refused(path, error) from error
    write_atomically(path, bytes(image.io().data()), mode=mode)


def _opened(path: str | Path) -> Any:
    """Read into memory, so that the file itself is written as a whole or not at all."""
    import exiv2

    try:
        image = exiv2.ImageFactory.open(Path(path).read_bytes())
        image.readMetadata()
    except exiv2.Exiv2Error as error:
        raise _refused(path, error) from error
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return image


def _refused(path: str | Path, error: Exception) -> ImageError:
    return ImageError(
        f"{path}: no text can be written into it ({error.args[1]}): JPEG, PNG, WebP, TIFF and JPEG 2000 take one; "
        "--xmp writes beside any photo"
    )
