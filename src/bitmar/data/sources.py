"""Captioned photos: WebDataset shards, Conceptual Captions, Localized Narratives. (Plain text: `text.py`.)

Every reader is a generator that holds one sample at a time. A sample that cannot be read, or in which anything is not
of the documented type, is handed to `on_bad(name, reason)` and skipped, so that one broken file in a million neither
stops a run nor vanishes in silence; a whole source that cannot be read is a `DataError`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bitmar.core.errors import DataError
from bitmar.core.strict_json import DEPTH, kind_of, parse_json
from bitmar.data.shards import named_shards, open_shard
from bitmar.data.tar import Damage, Member, read_tar
from bitmar.data.text import near_path, reading

OnBad = Callable[[str, str], None]
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo as stored (`image`: the encoded file) with its captions as written (none for a plain photo).

    `key` names it to people and is unique within a run over several shards ("flickr8k-train-00000/000000012"); `meta`
    is what the source says about it (licence, author, caption_type...), any JSON. `shard`: where it was read.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    shard: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the photo's file, half of it in hexadecimal: its identity, whatever it is called.

        Keys change with the names of shards and may repeat from one set to another; what belongs to a photo
        (features, a caption) is found by its digest.
        """
        return hashlib.sha256(self.image).hexdigest()[:32]


def iter_webdataset(patterns: str | Sequence[str], on_bad: OnBad | None = None) -> Iterator[CaptionedPhoto]:
    """Photos from WebDataset tar shards, as img2dataset writes them.

    patterns: as in `expand_shards`, which raises DataError before the first sample. Captions come from the sample's
    .json ("captions", else "caption"), else from its .txt; blank ones count as none. A shard that is damaged gives
    what can be read of it: `on_bad` hears of every damaged place and of the samples next to it that lack a file.
    """
    named = named_shards(patterns)
    return (sample for shard, stem in named for sample in iter_shard(shard, stem, on_bad))


def iter_shard(shard: str, stem: str, on_bad: OnBad | None = None) -> Iterator[CaptionedPhoto]:
    """The photos of one shard as `iter_webdataset` gives them; `stem` comes before their names."""
    return iter(_Shard(shard, stem, on_bad or _ignore))


def _ignore(name: str, reason: str) -> None:
    del name, reason


class _Shard:
    """One shard's samples: files that follow one another and share a name up to its first full stop."""

    def __init__(self, shard: str, stem: str, report: OnBad) -> None:
        self._shard, self._stem, self._report = shard, stem, report
        self._seen: set[str] = set()
        self._usual = frozenset(("image", "json"))  # the parts of the last whole sample

    def __iter__(self) -> Iterator[CaptionedPhoto]:
        key, parts, hurt = "", dict[str, bytes](), False
        for item in self._items():
            if isinstance(item, Damage):
                self._report(self._shard if item.last else f"{self._shard} at byte {item.offset}", item.reason)
                hurt = True
                if parts:
                    yield from self._sample(key, parts, hurt)
                key, parts = "", {}
                continue
            name, _, suffix = item.name.rpartition("/")[2].partition(".")
            name = item.name[: len(item.name) - len(suffix) - 1] if suffix else ""
            if name != key:
                if parts:
                    yield from self._sample(key, parts, hurt)
                    hurt = False
                key, parts = name, {}
            suffix = suffix.lower()
            if suffix in parts:
                self._report(f"{self._stem}/{name}", f"has two files .{suffix}; the second is left out")
                continue
            if suffix in IMAGE_SUFFIXES and (other := next((each for each in IMAGE_SUFFIXES if each in parts), "")):
                self._report(f"{self._stem}/{name}", f"has two photos, .{other} and .{suffix}; the second is left out")
                continue
            parts[suffix] = item.data
        if parts:
            yield from self._sample(key, parts, hurt)

    def _items(self) -> Iterator[Member | Damage]:
        """Its files that can belong to a sample, and its damaged places; what else there is goes to `report`."""
        try:
            with open_shard(self._shard) as file:
                for item in read_tar(file):
                    if isinstance(item, Damage):
                        yield item
                    elif fault := item.skipped or _fault_of_name(item.name):
                        self._report(f"{self._stem}/{_printable(item.name)}", fault)
                    elif not _is_hidden(item.name):
                        yield item
        except OSError as error:
            yield Damage(0, f"cannot be read: {error.strerror or error}", last=True)

    def _sample(self, key: str, parts: dict[str, bytes], hurt: bool) -> Iterator[CaptionedPhoto]:
        """hurt: damage lies next to the sample, so that some of its files may be lost."""
        name = f"{self._stem}/{key}"
        kinds = frozenset("image" if suffix in IMAGE_SUFFIXES else suffix for suffix in parts)
        try:
            if hurt and not kinds >= self._usual:
                raise ValueError("some of its files are lost to the damage beside it")
            if key in self._seen:
                raise ValueError("a second sample of this name; the files of a sample must follow one another")
            self._seen.add(key)
            photo = replace(_from_sample(name, parts), shard=self._shard)
        except ValueError as error:
            self._report(name, str(error))
            return
        if not hurt:
            self._usual = kinds & {"image", "json", "txt"}
        yield photo


def _fault_of_name(name: str) -> str:
    if name != _printable(name):
        return "its name is not UTF-8"
    base = name.rpartition("/")[2]
    return "" if "." in base or _is_hidden(name) else "has no ending, so that it belongs to no sample"


def _is_hidden(name: str) -> bool:
    """Files that macOS leaves in a tar, and WebDataset's own __notes__."""
    base = name.rpartition("/")[2]
    return base.startswith(".") or (base.startswith("__") and base.endswith("__")) or name.startswith("__MACOSX/")


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _from_sample(key: str, parts: dict[str, bytes]) -> CaptionedPhoto:
    """Raises ValueError where anything has not the documented type."""
    image = next((parts[suffix] for suffix in IMAGE_SUFFIXES if suffix in parts), None)
    if not image:
        raise ValueError("no image in the sample")
    meta: dict[str, Any] = {}
    if "json" in parts:
        try:
            meta = parse_json(parts["json"], DEPTH // 2)  # it will stand inside other documents
        except ValueError as error:
            raise ValueError(f"its .json: {error}") from None
        if not isinstance(meta, dict):
            raise ValueError(f"its .json holds {kind_of(meta)}, not an object")
    listed, single = meta.pop("captions", None), meta.pop("caption", None)
    captions = [] if listed is None else listed
    if not isinstance(captions, list):
        raise ValueError(f'"captions" of its .json is {kind_of(captions)}, not a list of strings')
    if bad := [text for text in captions if not isinstance(text, str)]:
        raise ValueError(f'"captions" of its .json holds {kind_of(bad[0])}, not only strings')
    if not isinstance(single, str | None):
        raise ValueError(f'"caption" of its .json is {kind_of(single)}, not a string')
    captions = [text for text in captions or [single] if text and text.strip()]
    if not captions and "txt" in parts:
        captions = [text for text in [_decoded(parts["txt"])] if text.strip()]
    return CaptionedPhoto(key, image, tuple(captions), meta)


def _decoded(text: bytes) -> str:
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its .txt is not UTF-8 at byte {error.start}") from None
    if "\0" in decoded:
        raise ValueError("its .txt holds NUL bytes, as UTF-16 does; it must be UTF-8")
    return decoded


def iter_cc3m(tsv: str | Path, image_root: str | Path, on_bad: OnBad | None = None) -> Iterator[CaptionedPhoto]:
    """Conceptual Captions: lines "caption<TAB>url[<TAB>file]" and a folder of the photos that were fetched.

    A photo is looked for under its third column, then under its line number as img2dataset numbers files
    ("00001/000012345.jpg" or "000012345.jpg"), then under the last part of its URL, unless another line's URL ends
    in the same. Dead links are the rule in this set: a line without a photo goes to `on_bad`.
    """
    report, root = on_bad or _ignore, _folder(image_root)
    shared = _shared_names(Path(tsv), root)
    with reading(Path(tsv)), open(tsv, encoding="utf-8", errors="replace") as lines:
        number = -1
        for line in lines:
            columns = line.rstrip("\n").split("\t")
            if columns[:2] == ["caption", "url"]:  # img2dataset wants a header, the original file has none
                continue
            number += 1
            if len(columns) < 2:
                report(f"{tsv}:{number + 1}", "not 'caption<TAB>url'")
                continue
            names = [*columns[2:3], f"{number // 10000:05d}/{number:09d}", f"{number:09d}"]
            if (last := _last_part(columns[1])) not in shared:
                names.append(last)
            if (file := _find_image(root, names)) is None:
                if last in shared:
                    report(f"{tsv}:{number + 1}", f"{last} may be another line's photo, whose URL ends in the same")
                    continue
                report(f"{tsv}:{number + 1}", "its photo is not in the folder")
                continue
            yield CaptionedPhoto(f"cc3m/{number:09d}", file.read_bytes(), (columns[0],), {"url": columns[1]})


def _last_part(url: str) -> str:
    try:
        return urlsplit(url).path.rsplit("/", 1)[-1]
    except ValueError:  # half an IPv6 address
        return ""


def _shared_names(tsv: Path, root: Path) -> set[str]:
    """Names of photos in `root` in which the URLs of two lines end, so that it cannot be known whose they are."""
    stored = {name for path in root.iterdir() for name in (path.name, path.stem)}
    if not stored:
        return set()
    with reading(tsv), open(tsv, encoding="utf-8", errors="replace") as lines:
        ends = (_last_part(line.rstrip("\n").split("\t")[1]) for line in lines if "\t" in line)
        counts = Counter(end for end in ends if end in stored)
    return {name for name, count in counts.items() if count > 1}


def iter_localized_narratives(
    jsonl: str | Path | Sequence[str | Path], image_root: str | Path, on_bad: OnBad | None = None
) -> Iterator[CaptionedPhoto]:
    """Localized Narratives (.jsonl as published): one photo with all its narratives.

    A photo is looked for as "<image_id>.jpg" and, for COCO, "<image_id, 12 digits>.jpg". The captions are
    gathered first (an image's narratives are not neighbours in the file); photos are read one at a time. A photo that
    two images of different sets could be is given to neither but the first.
    """
    report, root = on_bad or _ignore, _folder(image_root)
    narratives: dict[tuple[str, str], list[str]] = {}
    for path in [jsonl] if isinstance(jsonl, str | Path) else jsonl:
        with reading(Path(path)), open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = parse_json(line)
                    dataset, image_id, caption = (record[key] for key in ("dataset_id", "image_id", "caption"))
                    image_id = str(image_id) if type(image_id) is int else image_id
                    if not all(isinstance(text, str) and text.strip() for text in (dataset, image_id, caption)):
                        raise TypeError
                    narratives.setdefault((dataset, image_id), []).append(caption)
                except (ValueError, KeyError, TypeError):
                    report(f"{path}:{number}", "not a Localized Narrative")
    taken: set[Path] = set()
    for (dataset, image_id), captions in narratives.items():
        names = [image_id]
        if image_id.isascii() and image_id.isdecimal() and len(image_id) < 12:
            names.append(image_id.zfill(12))
        if (file := _find_image(root, names)) is None:
            report(f"{dataset}/{image_id}", "its photo is not in the folder")
            continue
        if file in taken:
            report(f"{dataset}/{image_id}", f"{file.name} is the photo of another image already")
            continue
        taken.add(file)
        yield CaptionedPhoto(f"{dataset}/{image_id}", file.read_bytes(), tuple(captions), {"source": dataset})


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise DataError(f"no folder of photos at {path}{near_path(Path(path))}")
    return Path(path)


def _find_image(root: Path, names: Iterable[str]) -> Path | None:
    """The first image there is under one of `names`, with any known suffix; never outside `root`."""
    for name in names:
        if not name or "\0" in name or ".." in Path(name).parts or Path(name).is_absolute():
            continue
        for file in (root / name, *(root / f"{name}.{suffix}" for suffix in IMAGE_SUFFIXES)):
            if file.suffix[1:].lower() in IMAGE_SUFFIXES and _is_file(file):
                return file
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the system
        return False
