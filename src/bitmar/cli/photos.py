"""The photos that a command line names: files, folders, globs, addresses, standard input."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bitmar.core.errors import ImageError, pip_install
from bitmar.core.fetch import fetch_photo, is_address

if TYPE_CHECKING:
    from PIL import Image

    from bitmar.core.image import PhotoSource

STDIN = "-"


def find_photos(names: Iterable[str], on_bad: Callable[[str, str], None]) -> list[str]:
    """Every photo of these names, in their order; of a folder and a glob sorted by path.

    A folder gives the photos in all folders below it, by their suffix, without hidden ones. `on_bad(name, reason)`: a
    folder or a glob that gives none, or a folder that may not be read. Any other name is a photo, whatever it is.
    """
    photos: list[str] = []
    for name in names:
        if is_address(name) or name == STDIN:
            photos.append(name)
        elif os.path.isdir(name):
            photos += _in_folder(name, on_bad)
        elif glob.has_magic(name) and not os.path.lexists(name):
            matched = _matches(name)
            if not matched:
                on_bad(name, "no file matches")
            several = (_in_folder(match, on_bad) if os.path.isdir(match) else [match] for match in matched)
            photos += dict.fromkeys(photo for some in several for photo in some)  # a folder's match may match, too
        else:
            photos.append(name)
    return photos


def _matches(pattern: str) -> list[str]:
    """What a glob matches, sorted. As in a folder, ** looks neither into hidden folders nor behind links to folders,
    which may lead round in circles."""
    first, *below = re.split(r"(?:^|(?<=/))\*\*(?:/|$)", pattern.replace(os.sep, "/"))
    found = sorted(glob.glob(first)) if first else [""]
    for rest in below:
        folders = [path for start in found if os.path.isdir(start or ".") for path in _folders(start)]
        found = sorted({path for folder in folders for path in glob.glob(os.path.join(glob.escape(folder), rest))})
    return found


def _folders(top: str) -> Iterator[str]:
    """A folder and all below it, with `top` as it was written."""
    for path, folders, _ in os.walk(top or os.curdir):
        folders[:] = [each for each in folders if not each.startswith(".")]
        yield path if top else path.removeprefix(os.curdir).lstrip(os.sep)


def photo_of(name: str) -> PhotoSource:
    """The photo of a name, fetched or read from standard input if need be. Raises ImageError."""
    if is_address(name):
        return fetch_photo(name)
    if name == STDIN:
        if sys.stdin.isatty():
            raise ImageError("standard input is the keyboard: bitmar caption - < photo.jpg")
        return sys.stdin.buffer
    from bitmar.core.formats import is_video  # with Pillow, which help does without

    return _still_of(name) if is_video(name) else name


def _still_of(name: str) -> Image.Image:
    from bitmar.core.image import path_of

    path = path_of(name)
    try:
        from bitmar.watch.video import still_of
    except ModuleNotFoundError:
        raise ImageError(f"{name}: a video needs PyAV: {pip_install('video')}") from None
    return still_of(path)


def _in_folder(folder: str, on_bad: Callable[[str, str], None]) -> list[str]:
    from bitmar.core.formats import is_raw  # with Pillow, which help does without

    found = sorted(_walk(folder, on_bad))
    stems = {os.path.splitext(path)[0] for path in found if not is_raw(path)}
    # A camera writes IMG_1.CR2 and IMG_1.JPG of one photo.
    photos = [path for path in found if not (is_raw(path) and os.path.splitext(path)[0] in stems)]
    if not photos:
        on_bad(folder, "no photo in this folder")
    return photos


def _walk(folder: str, on_bad: Callable[[str, str], None]) -> Iterator[str]:
    from bitmar.core.formats import SUFFIXES, is_raw  # with Pillow, which help does without

    def closed(error: OSError) -> None:
        on_bad(str(error.filename), f"cannot be read: {error.strerror}")

    for path, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for file in files:
            if not file.startswith(".") and (Path(file).suffix.lower() in SUFFIXES or is_raw(file)):
                yield os.path.join(path, file)
