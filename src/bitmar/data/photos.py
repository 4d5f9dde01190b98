"""Decoded photos, squashed to one square size and memory-mapped: decode a set once, train on it for many
epochs.

Layout of a folder: `store.json` (size, counts), `index.jsonl` (a line per sample: key, row, captions, meta;
a broken photo has row null and its error) and `photos-00000.npy`, uint8 (n, size, size, 3).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bitmar.core.errors import DataError, ImageError
from bitmar.core.files import write_atomically
from bitmar.core.image import load_photo, to_square
from bitmar.core.locks import sole_writer
from bitmar.core.strict_json import parse_json
from bitmar.data.rowlog import RowLog, open_shards, read_index
from bitmar.data.sources import CaptionedPhoto, OnBad

STORE_NAME = "store.json"
FORMAT = 2  # 1 had no digests: its photos can be trained on, but not be found again
_COMMIT_EVERY = 256  # samples: the most that are decoded again after a kill
_ONE_SHARD = 1 << 62

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored photo's record, without its pixels or features. digest: as in `CaptionedPhoto`."""

    key: str
    captions: tuple[str, ...]
    meta: dict[str, Any]
    digest: str


class PhotoStore:
    """The photos of a folder that `build_photo_store` wrote.

    `pixels` is uint8 (n, size, size, 3), memory-mapped and read-only; `store[i]` is the i-th photo's `Entry`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        card = read_card(self.folder, "photos")
        self.size: int = card["size"]
        self.entries, self.skipped = read_entries(self.folder)
        shape = (self.size, self.size, 3)
        shards = open_shards(self.folder, "photos", shape, np.dtype(np.uint8))
        self.pixels: np.ndarray = shards[0] if shards else np.zeros((0, *shape), np.uint8)
        if len(self.pixels) < len(self.entries):
            raise DataError(f"{self.folder}: the index names more photos than are stored; build it again")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Entry:
        return self.entries[i]

    def photo(self, i: int) -> np.ndarray:
        """The i-th photo, uint8 (size, size, 3)."""
        return np.asarray(self.pixels[i])


def build_photo_store(
    samples: Iterable[CaptionedPhoto],
    folder: str | Path,
    *,
    size: int = 224,
    on_bad: OnBad | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PhotoStore:
    """Decode every sample into `folder`. Broken photos are skipped, given to `on_bad` and named in the index.

    Called again with the same samples it goes on where a killed run stopped; with others it raises
    `DataError`. `on_progress(n)` is called after each sample with the number passed so far, earlier runs
    included.
    """
    folder = Path(folder)
    card = {"format": FORMAT, "kind": "photos", "size": size}
    with claim_folder(folder, card), RowLog(folder, "photos", (size, size, 3), np.dtype(np.uint8), _ONE_SHARD) as log:
        for sample in unlogged(samples, log, describe, on_bad):
            try:
                log.append(describe(sample), to_square(load_photo(sample.image), size))
            except ImageError as error:
                skip(describe(sample), error, log, on_bad)
            if on_progress is not None:
                on_progress(len(log.lines))
            if len(log.lines) % _COMMIT_EVERY == 0:
                log.commit()
    return PhotoStore(folder)


# What photo and feature stores share: the card, the index, the resuming.


def describe(sample: CaptionedPhoto) -> dict[str, Any]:
    return {"key": sample.key, "digest": sample.digest, "captions": list(sample.captions), "meta": sample.meta}


def skip(line: dict[str, Any], error: ImageError, log: RowLog, on_bad: OnBad | None) -> None:
    """Name the broken photo in the index, so that a resumed run does not meet it again."""
    log.append({"key": line["key"], "digest": line["digest"], "error": str(error)}, None)
    if on_bad is not None:
        on_bad(line["key"], str(error))


def unlogged(
    items: Iterable[Item], log: RowLog, line_of: Callable[[Item], dict[str, Any]], on_bad: OnBad | None = None
) -> Iterator[Item]:
    """The items after those already logged, which must be the same photos with the same captions and keys.

    line_of: from an item to its line of the index, as `describe` makes it. on_bad: hears of the broken photos that an
    earlier run has logged, too.
    """
    done = len(log.lines)
    position = -1
    for position, item in enumerate(items):
        if position >= done:
            yield item
            continue
        now, logged = json.loads(json.dumps(line_of(item))), log.lines[position]
        if other := next((name for name, value in logged.items() if name in now and now[name] != value), ""):
            raise DataError(
                f"{log.folder}: sample {position} was {logged['key']!r} and is now {now['key']!r} with "
                f"another {other}; the sources changed, so choose another folder or delete this one"
            )
        if logged["row"] is None and on_bad is not None:
            on_bad(logged["key"], logged.get("error", ""))
    if position + 1 < done:
        raise DataError(
            f"{log.folder} holds {done} samples but the sources give only {position + 1}; "
            "choose another folder or delete this one"
        )


@contextmanager
def claim_folder(folder: Path, card: dict[str, Any]) -> Iterator[None]:
    """Be the folder's only writer, with `store.json` written, or asking for the same thing where it is there."""
    with sole_writer(folder):
        path = folder / STORE_NAME
        if path.exists():
            found = read_card(folder, card["kind"])
            for name, value in card.items():
                if found.get(name) != value:
                    raise DataError(
                        f"{folder} was built with {name} = {found.get(name)!r}, not {value!r}; "
                        "choose another folder or delete this one"
                    )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(card, indent=1).encode() + b"\n")
        yield


def read_card(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / STORE_NAME
    try:
        card = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{folder} is no store of {kind}: it has no {STORE_NAME}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); build the folder again") from error
    if not isinstance(card, dict) or card.get("kind") != kind or card.get("format") not in (1, FORMAT):
        raise DataError(f"{folder} is no store of {kind} of format {FORMAT}")
    if odd := next((name for name, fits in _CARDS[kind].items() if not fits(card.get(name))), None):
        raise DataError(f"{path} is damaged ({odd} is {card.get(odd)!r:.40}); build the folder again")
    return card


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 1 << 24


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_scale(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value < math.inf)


_CARDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "photos": {"size": _is_count},
    "features": {
        "tower": _is_text,
        "fingerprint": _is_text,
        **dict.fromkeys(("views", "grid", "dim", "rows_per_shard"), _is_count),
        "scale": _is_scale,
    },
}  # what a reader needs of each kind of card


def read_entries(folder: Path) -> tuple[list[Entry], list[tuple[str, str]]]:
    """(the stored entries in row order, the skipped samples as (key, error))."""
    entries, skipped = [], []
    for line in read_index(folder):
        if line["row"] is None:
            skipped.append((line["key"], line.get("error", "")))
        else:
            captions, meta = tuple(line.get("captions", ())), line.get("meta", {})
            entries.append(Entry(line["key"], captions, meta, line.get("digest", "")))
    return entries, skipped
