"""Moving episodes between memories: from one file into another, or through a file of JSON lines.

The first line says what the file is and of which model its vectors are; each other line is an episode.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitmar.core.errors import BitMarError, MemoryFileError
from bitmar.core.files import write_atomically
from bitmar.core.ternary import F32
from bitmar.session.file import MemoryFile
from bitmar.session.keep import keep, same
from bitmar.session.layout import COLUMNS, MAX_TIME, Episode, Vectors

FORMAT, VERSION = "bitmar memory", 1
_OWNER_ONLY = 0o600
_MAX_LINE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{16}")
_MODEL = re.compile(r"[0-9a-f]{64}")

Encode = Callable[[str], Vectors]
"""The function that encodes a text without a photo."""


class Parcel(NamedTuple):
    """An episode on its way, with the vectors of the model that made it."""

    episode: Episode
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Moved:
    """added: episodes; updated: corrected one of the same photo; known: were there already; text_only: of those taken
    over, without their photo, because another model wrote them; left_out: could not be taken over, for they were of
    another model and had no text; lost: overwritten.
    """

    added: int
    updated: int
    known: int
    text_only: int
    left_out: int
    lost: int


def export_memory(file: MemoryFile, path: str | Path) -> tuple[int, int]:
    """Write all episodes, the least used first, for their owner alone: how many were written, and how many were too
    damaged to be.

    Only a file opened with `salvage` leaves damaged ones out; else they are a MemoryFileError.
    """
    header = {"format": FORMAT, "version": VERSION, "model": file.model}
    parcels, damaged = file.consistently(lambda: pack(file))
    lines = [json.dumps(header), *(json.dumps(_to_json(parcel), ensure_ascii=False) for parcel in parcels)]
    write_atomically(path, "\n".join([*lines, ""]).encode(), mode=_OWNER_ONLY)
    return len(parcels), damaged


def import_memory(file: MemoryFile, path: str | Path, encode: Encode) -> Moved:
    """Take over what `export_memory` wrote, all of it or nothing. Episodes of another model come without their photos:
    their texts are remembered anew. Raises MemoryFileError.
    """
    model, parcels = _read(Path(path))
    same_model = model == file.model
    for number, (_, vectors) in enumerate(parcels, 2):
        widths = [None if vector is None else len(vector) for vector in vectors]
        if same_model and any(n not in (None, width) for n, width in zip(widths, file.shape[1:], strict=True)):
            raise MemoryFileError(f"{path}: line {number} holds vectors of another width: export it again")
    return take(file, parcels, None if same_model else encode)


def take(file: MemoryFile, parcels: Iterable[Parcel], encode: Encode | None) -> Moved:
    """Take these over, all of them or none. encode: for another model's, whose vectors mean nothing here.

    Of one photo the later episode stands.
    """
    ready, text_only, left_out = [], 0, 0
    for episode, vectors in parcels:
        if encode is None:
            ready.append((episode, episode.photo, vectors))
        elif episode.text:
            text_only += vectors.image is not None
            ready.append((episode, None, encode(episode.text)))
        else:
            left_out += 1
    counts = {"new": 0, "updated": 0, "unchanged": 0}
    lost = 0
    with file.at_once():
        known = {(episode.text, episode.time, episode.photo) for episode in _episodes(file)}
        for episode, photo, vectors in ready:
            older = same(file, vectors, episode.text, photo)
            if (episode.text, episode.time, photo) in known or (older and older.time >= episode.time):
                counts["unchanged"] += 1
                continue
            before = len(file.live())
            change = keep(file, vectors, episode.text, photo=photo, when=episode.time).change
            counts[change or "new"] += 1
            lost += change == "new" and len(file.live()) == before
    return Moved(counts["new"], counts["updated"], counts["unchanged"], text_only, left_out, lost)


def _episodes(file: MemoryFile) -> list[Episode]:
    return [file.episode(int(slot)) for slot in file.live()]


def pack(file: MemoryFile) -> tuple[list[Parcel], int]:
    """Everything, the least used first, so that a smaller memory keeps the most used; and how many are damaged."""
    parcels, damaged = [], file.damaged
    has = {name: file.has(name) for name in ("image", "text")}
    live = file.live()
    for slot in live[np.argsort(file.usage()[live], kind="stable")]:
        one = np.array([slot])
        try:
            episode = file.episode(int(slot))
            value = file.column("value", one)[0]
            keys = [file.column(name, one)[0] if has[name][slot] else None for name in ("image", "text")]
        except MemoryFileError:
            if not file.salvage:
                raise
            damaged += 1
            continue
        parcels.append(Parcel(episode, Vectors(value, *keys)))
    return parcels, damaged


def _to_json(parcel: Parcel) -> dict[str, Any]:
    vectors = {
        name: None if vector is None else base64.b64encode(vector.astype("<f2").tobytes()).decode()
        for name, vector in zip(COLUMNS, parcel.vectors, strict=False)
    }
    episode = parcel.episode
    return {"text": episode.text, "time": episode.time, "photo": episode.photo, "vectors": vectors}


def _read(path: Path) -> tuple[str, list[Parcel]]:
    try:
        lines = list(_lines(path))
        header = lines[0] if lines else {}
        if header.get("format") != FORMAT or not _MODEL.fullmatch(str(header.get("model"))):
            raise MemoryFileError("not what `bitmar memory export` writes")
        if header.get("version") != VERSION:
            raise MemoryFileError("written by a later bitmar: run `pip install --upgrade bitmar`")
        model = str(header["model"])
        return model, [_from_json(line, number) for number, line in enumerate(lines[1:], 2)]
    except BitMarError as error:
        raise MemoryFileError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise MemoryFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        while data := file.readline(_MAX_LINE):
            try:
                line = json.loads(data)
            except (ValueError, RecursionError):
                line = None
            if not isinstance(line, dict):
                raise MemoryFileError("not what `bitmar memory export` writes, or damaged: export it again")
            yield line


def _from_json(line: dict[str, Any], number: int) -> Parcel:
    text, time, photo, vectors = (line.get(key) for key in ("text", "time", "photo", "vectors"))
    damaged = MemoryFileError(f"line {number} is damaged: export it again")
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not 0 <= time < MAX_TIME:
        raise damaged
    if not isinstance(text, str):
        raise damaged
    if not isinstance(vectors, dict) or not (photo is None or (isinstance(photo, str) and _HASH.fullmatch(photo))):
        raise damaged
    try:
        text.encode()  # half a character (a lone surrogate) is no text
        value, image, key = (_vector(vectors.get(name)) for name in COLUMNS[:3])
    except ValueError:
        raise damaged from None
    if value is None:
        raise damaged
    return Parcel(Episode(-1, text, float(time), photo), Vectors(value, image, key))


def _vector(text: object) -> F32 | None:
    """Any width: vectors of another model are not used. Raises ValueError."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError("not base64")
    vector: F32 = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("not finite")
    return vector
