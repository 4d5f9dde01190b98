"""The files that `bitmar caption` writes: a table, JSON lines, a text beside each photo or in it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from bitmar.cli.caption_xmp import embed, is_described, write_sidecar
from bitmar.cli.common import needs
from bitmar.cli.photos import STDIN
from bitmar.core.errors import ConfigError, ImageError
from bitmar.core.fetch import is_address
from bitmar.core.files import shown, write_atomically
from bitmar.evaluate.store import Store
from bitmar.runtime.alt_text import alt_text

COLUMNS = ("photo", "caption", "confidence", "general")


class CaptionFiles:
    """Where captions go besides the screen. Nothing that is there already is written over, but with `force`.

    sidecar, xmp: a text, or an XMP file, beside each photo. embed: into the photo's own XMP and IPTC. Captions for a
    table gather in NAME.partial, so that the same command goes on after a stop; what belongs to one photo is complete
    when it is there. Raises ConfigError for a table that is there already, DependencyError without bitmar[xmp].
    """

    def __init__(
        self, table: Path | None, lines: Path | None, sidecar: bool, force: bool, xmp: bool = False, embed: bool = False
    ) -> None:
        self.table, self.lines, self.sidecar, self.force = table, lines, sidecar, force
        self.xmp, self.embed = xmp, embed
        self.kept = 0  # photos that had their texts
        if xmp or embed:
            with needs("xmp"):
                import exiv2  # noqa: F401
        self._stems: dict[str, Counter[str]] = {}  # by folder: how many photos in it have this name but for the suffix
        for path in self.outputs:
            if path.is_dir():
                raise ConfigError(f"{path} is a folder, name a file")
            if path.exists() and not force:
                raise ConfigError(f"{path} is there already: --force writes it anew, or name another file")
        if table is not None and table == lines:
            raise ConfigError(f"--csv and --jsonl both name {table}: give each a file of its own")

    def __bool__(self) -> bool:
        return self._each or bool(self.outputs)

    def __str__(self) -> str:
        each = [["a .txt beside each photo"] * self.sidecar, ["a .xmp beside each photo"] * self.xmp]
        return " and ".join([*map(str, self.outputs), *each[0], *each[1], *["the photos themselves"] * self.embed])

    @property
    def _each(self) -> bool:
        """Whether something is written for each photo on its own."""
        return self.sidecar or self.xmp or self.embed

    @property
    def outputs(self) -> list[Path]:
        """The tables."""
        return [path for path in (self.table, self.lines) if path is not None]

    def plan(self, photos: Sequence[str]) -> list[str]:
        """The photos that are still to do: without a table, those that lack one of their texts. Raises ConfigError."""
        if not self._each:
            return list(photos)
        if other := next((photo for photo in photos if photo == STDIN or _is_url(photo)), None):
            raise ConfigError(f"--sidecar, --xmp and --embed are for photos that are files, which {other} is not")
        if self.outputs or self.force:
            return list(photos)
        left = [photo for photo in photos if self._lacks(photo)]
        self.kept = len(photos) - len(left)
        return left

    def log(self, task: dict[str, Any]) -> AbstractContextManager[Store | None]:
        """The rows that an earlier run of the same task wrote for a table."""
        if not self.outputs:
            return nullcontext()
        first = self.outputs[0]
        return Store(first.with_name(f"{first.name}.partial"), task)

    def beside(self, photo: str, caption: str) -> None:
        """Write a photo's own texts, where there are none. Raises OutputError, ImageError for one that takes none."""
        lacks = self._lacks(photo)
        if self._each and not lacks:
            self.kept += 1
        if "txt" in lacks:
            write_atomically(self._beside(photo), f"{caption}\n".encode())
        if "xmp" in lacks:
            write_sidecar(self._beside(photo, "xmp"), caption, alt_text(caption) or caption)
        if "photo" in lacks:
            embed(photo, caption, alt_text(caption) or caption)

    def _lacks(self, photo: str) -> list[str]:
        """The files to write for a photo."""
        lacks = ["txt"] * (self.sidecar and (self.force or not self._beside(photo).exists()))
        lacks += ["xmp"] * (self.xmp and (self.force or not self._beside(photo, "xmp").exists()))
        try:
            described = self.embed and not self.force and is_described(photo)
        except ImageError:  # told when it is its turn
            described = False
        return lacks + ["photo"] * (self.embed and not described)

    def write(self, results: Sequence[dict[str, Any]]) -> None:
        """Write the tables, whole. Raises OutputError."""
        if self.table is not None:
            text = io.StringIO(newline="")
            rows = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
            rows.writeheader()
            rows.writerows(results)
            write_atomically(self.table, text.getvalue().encode())
        if self.lines is not None:
            write_atomically(
                self.lines, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in results).encode()
            )

    def _beside(self, photo: str, kind: str = "txt") -> Path:
        """photo.txt; photo.jpg.txt where photos of one name differ in their suffix alone."""
        folder, name = os.path.split(photo)
        if folder not in self._stems:
            self._stems[folder] = _stems_in(folder)
        shared = self._stems[folder][os.path.splitext(name)[0]] > 1
        return Path(f"{photo if shared else os.path.splitext(photo)[0]}.{kind}")


def _stems_in(folder: str) -> Counter[str]:
    from bitmar.core.formats import SUFFIXES  # with Pillow, which help does without

    try:
        names = [os.path.splitext(name) for name in os.listdir(folder or ".")]
    except OSError:  # told of the photo, which cannot be read either
        return Counter()
    return Counter(stem for stem, suffix in names if suffix.lower() in SUFFIXES)


def photo_key(photo: str) -> str | None:
    """A photo's identity across runs: its path, size and time. None for a source that may change unseen."""
    if photo == STDIN or _is_url(photo):
        return None
    try:
        about = os.stat(photo)
    except (OSError, ValueError):
        return None
    return f"{shown(os.path.abspath(photo))} {about.st_size} {about.st_mtime_ns}"


def _is_url(photo: str) -> bool:
    return is_address(photo) or photo[:5].lower() == "file:"
