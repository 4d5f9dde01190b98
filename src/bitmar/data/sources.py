"""Captioned photos: WebDataset shards, Conceptual Captions, Localized Narratives. (Plain text: `text.py`.)

Every reader is a generator that holds one sample at a time. A sample that cannot be read is handed to
`on_bad(name, reason)` and skipped, so that one broken file in a million neither stops a run nor vanishes in
silence; a whole source that cannot be read is a `DataError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bitmar.core.errors import DataError, DependencyError
from bitmar.data.text import near_path, reading

OnBad = Callable[[str, str], None]
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")


@dataclass(frozen=True, slots=True)
class CaptionedPhoto:
    """A photo as stored (`image`: the encoded file) with its captions as written (none for a plain photo).

    `key` is unique within a run over several shards ("flickr8k-train-00000/000000012"); `meta` is what the
    source says about it (licence, author, caption_type...).
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


def iter_webdataset(patterns: str | Sequence[str], on_bad: OnBad | None = None) -> Iterator[CaptionedPhoto]:
    """Photos from WebDataset tar shards, as img2dataset writes them.

    patterns: paths or URLs, with braces ("cc3m-{00000..00331}.tar") or, for local files, globs. Captions come
    from the sample's .json ("captions", else "caption"), else from its .txt. A shard that ends in the middle
    gives what can be read of it and one call of `on_bad`. A local shard that does not exist, or a pattern
    that matches nothing: DataError, before the first sample.
    """
    report = on_bad or _ignore
    for url in _shards([patterns] if isinstance(patterns, str) else patterns):
        yield from _read_shard(url, report)


def _ignore(name: str, reason: str) -> None:
    del name, reason


def _shards(patterns: Iterable[str]) -> list[str]:
    try:
        from braceexpand import braceexpand  # webdataset brings it
    except ImportError:
        raise DependencyError("WebDataset shards need an extra: pip install 'bitmar[train]'") from None
    found: list[str] = []
    for pattern in patterns:
        for url in braceexpand(str(pattern)):
            if "://" in url or url.startswith("pipe:"):
                found.append(url)
            elif matches := sorted(glob(url, recursive=True)):
                found += matches
            else:
                raise DataError(f"no shard at {url}{near_path(Path(url))}")
    return found


def _read_shard(url: str, report: OnBad) -> Iterator[CaptionedPhoto]:
    """One shard on its own: a broken one must not lend its last sample's files to the next one's first."""
    import webdataset

    failed = False

    def on_error(error: Exception) -> bool:
        nonlocal failed
        if not failed:  # webdataset reports a cut tar once per layer
            reason = str(error.args[0]).split(" @ ")[0] if error.args else type(error).__name__
            report(url, f"shard is damaged or cut off ({reason}); the samples before the fault were kept")
        failed = True
        return True

    stem = url.rsplit("/", 1)[-1].split(".tar")[0]
    shard = webdataset.WebDataset(
        url, shardshuffle=False, handler=on_error, nodesplitter=None, workersplitter=None, empty_check=False
    )
    for sample in shard:
        key = f"{stem}/{sample['__key__']}"
        photo = _from_sample(key, sample, report)
        if photo is not None:
            yield photo


def _from_sample(key: str, sample: Mapping[str, Any], report: OnBad) -> CaptionedPhoto | None:
    image = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    if not image:
        report(key, "no image in the sample")
        return None
    meta: dict[str, Any] = {}
    if "json" in sample:
        try:
            meta = json.loads(sample["json"])
        except ValueError:
            report(key, "its .json is not JSON")
            return None
    captions = meta.pop("captions", None) or [meta.pop("caption", None)]
    if captions == [None] and "txt" in sample:
        captions = [sample["txt"].decode("utf-8", errors="replace")]
    meta.pop("caption", None)
    return CaptionedPhoto(key, image, tuple(text for text in captions if isinstance(text, str)), meta)


def iter_cc3m(tsv: str | Path, image_root: str | Path, on_bad: OnBad | None = None) -> Iterator[CaptionedPhoto]:
    """Conceptual Captions: lines "caption<TAB>url[<TAB>file]" and a folder of the photos that were fetched.

    A photo is looked for under its third column, then under its line number as img2dataset numbers files
    ("00001/000012345.jpg" or "000012345.jpg"), then under the last part of its URL. Dead links are the rule
    in this set: a line without a photo goes to `on_bad`.
    """
    report, root = on_bad or _ignore, _folder(image_root)
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
            names.append(urlsplit(columns[1]).path.rsplit("/", 1)[-1])
            if (file := _find_image(root, names)) is None:
                report(f"{tsv}:{number + 1}", "its photo is not in the folder")
                continue
            yield CaptionedPhoto(f"cc3m/{number:09d}", file.read_bytes(), (columns[0],), {"url": columns[1]})


def iter_localized_narratives(
    jsonl: str | Path | Sequence[str | Path], image_root: str | Path, on_bad: OnBad | None = None
) -> Iterator[CaptionedPhoto]:
    """Localized Narratives (.jsonl as published): one photo with all its narratives.

    A photo is looked for as "<image_id>.jpg" and, for COCO, "<image_id, 12 digits>.jpg". The captions are
    gathered first (an image's narratives are not neighbours in the file); photos are read one at a time.
    """
    report, root = on_bad or _ignore, _folder(image_root)
    narratives: dict[tuple[str, str], list[str]] = {}
    for path in [jsonl] if isinstance(jsonl, str | Path) else jsonl:
        with reading(Path(path)), open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    record = json.loads(line)
                    image = (str(record["dataset_id"]), str(record["image_id"]))
                    narratives.setdefault(image, []).append(str(record["caption"]))
                except (ValueError, KeyError, TypeError):
                    report(f"{path}:{number}", "not a Localized Narrative")
    for (dataset, image_id), captions in narratives.items():
        names = [image_id, f"{int(image_id):012d}"] if image_id.isdecimal() else [image_id]
        if (file := _find_image(root, names)) is None:
            report(f"{dataset}/{image_id}", "its photo is not in the folder")
            continue
        yield CaptionedPhoto(f"{dataset}/{image_id}", file.read_bytes(), tuple(captions), {"source": dataset})


def _folder(path: str | Path) -> Path:
    if not Path(path).is_dir():
        raise DataError(f"no folder of photos at {path}{near_path(Path(path))}")
    return Path(path)


def _find_image(root: Path, names: Iterable[str]) -> Path | None:
    """The first image there is under one of `names`, with any known suffix; never outside `root`."""
    for name in names:
        if not name or ".." in Path(name).parts or Path(name).is_absolute():
            continue
        for file in (root / name, *(root / f"{name}.{suffix}" for suffix in IMAGE_SUFFIXES)):
            if file.suffix[1:].lower() in IMAGE_SUFFIXES and file.is_file():
                return file
    return None
