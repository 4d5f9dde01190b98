"""Moving episodes between memories: from one session into another, or through a file of JSON lines.

The first line says what the file is and of which model its vectors are; each other line is an episode.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.core.errors import BitMarError, MemoryFileError
from bitmar.core.files import write_atomically
from bitmar.core.ternary import F32
from bitmar.session.layout import COLUMNS, MAX_TIME, Vectors
from bitmar.session.session import Session

FORMAT, VERSION = "bitmar memory", 1
_MAX_LINE = 1 << 20
_HASH = re.compile(r"[0-9a-f]{16}")
_MODEL = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Parcel:
    """An episode on its way, with the vectors of the model that made it."""

    text: str
    time: float
    photo: str | None
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Moved:
    """added: episodes; known: were there already; text_only: of these added, without their photo, because another model
    wrote them; left_out: could not be taken over, for they were of another model and had no text; lost: overwritten.
    """

    added: int
    known: int
    text_only: int
    left_out: int
    lost: int


def export_memory(session: Session, path: str | Path) -> tuple[int, int]:
    """Write all episodes, the least used first: how many were written, and how many were too damaged to be.

    Only a session opened with `salvage` leaves damaged ones out; else they are a MemoryFileError.
    """
    header = {"format": FORMAT, "version": VERSION, "model": session.file.model}
    parcels, damaged = session.file.consistently(lambda: _pack(session))
    lines = [json.dumps(header), *(json.dumps(_to_json(parcel), ensure_ascii=False) for parcel in parcels)]
    write_atomically(path, "\n".join([*lines, ""]).encode())
    return len(parcels), damaged


def import_memory(session: Session, path: str | Path) -> Moved:
    """Take over what `export_memory` wrote. Episodes of another model come without their photos: their texts are
    remembered anew. The whole file is checked before the first is written. Raises MemoryFileError.
    """
    model, parcels = _read(Path(path))
    same = model == session.file.model
    widths = session.file.shape[1:]
    if same and any(
        x is not None and len(x) != n for parcel in parcels for x, n in zip(parcel.vectors, widths, strict=True)
    ):
        raise MemoryFileError(f"{path}: holds vectors of another width: export it again")
    return _take(session, parcels, same_model=same)


def merge_memory(session: Session, other: Session) -> Moved:
    """Take over another session's episodes. Raises MemoryFileError."""
    parcels, _ = other.file.consistently(lambda: _pack(other))
    return _take(session, parcels, same_model=other.file.model == session.file.model)


def _take(session: Session, parcels: Iterable[Parcel], *, same_model: bool) -> Moved:
    file = session.file
    file.begin()
    known = {(episode.text, episode.time, episode.photo) for episode in session.inspect()}
    before = len(session)
    added = repeated = text_only = left_out = 0
    for parcel in parcels:
        if (parcel.text, parcel.time, parcel.photo) in known:
            repeated += 1
            continue
        vectors, photo = parcel.vectors, parcel.photo
        if not same_model:
            if not parcel.text:
                left_out += 1
                continue
            text_only += vectors.image is not None
            vectors, photo = session.encode(parcel.text, None), None
        known.add((parcel.text, parcel.time, parcel.photo))
        file.write(vectors, parcel.text, photo=None if photo is None else int(photo, 16), when=parcel.time)
        added += 1
    return Moved(added, repeated, text_only, left_out, before + added - len(session))


def _pack(session: Session) -> tuple[list[Parcel], int]:
    """Everything, the least used first, so that a smaller memory keeps the most used; and how many are damaged."""
    file, parcels, damaged = session.file, [], session.file.damaged
    has = {name: file.has(name) for name in ("image", "text")}
    live = file.live()
    for slot in live[np.argsort(file.usage(session.model.config.memory_decay)[live], kind="stable")]:
        one = np.array([slot])
        try:
            record = file.record(int(slot))
            value = file.column("value", one)[0]
            keys = [file.column(name, one)[0] if has[name][slot] else None for name in ("image", "text")]
        except MemoryFileError:
            if not file.salvage:
                raise
            damaged += 1
            continue
        photo = None if record.photo is None else f"{record.photo:016x}"
        parcels.append(Parcel(record.text, record.time, photo, Vectors(value, *keys)))
    return parcels, damaged


def _to_json(parcel: Parcel) -> dict[str, Any]:
    vectors = {
        name: None if vector is None else base64.b64encode(vector.astype("<f2").tobytes()).decode()
        for name, vector in zip(COLUMNS, parcel.vectors, strict=False)
    }
    return {"text": parcel.text, "time": parcel.time, "photo": parcel.photo, "vectors": vectors}


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
    except OSError as error:
        raise MemoryFileError(f"{path}: cannot be read: {error.strerror or error}") from error


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
    if not isinstance(text, str) or not isinstance(time, (int, float)) or not 0 <= time < MAX_TIME:
        raise damaged
    if not isinstance(vectors, dict) or not (photo is None or _HASH.fullmatch(str(photo))):
        raise damaged
    try:
        value, image, key = (_vector(vectors.get(name)) for name in COLUMNS[:3])
    except ValueError:
        raise damaged from None
    if value is None:
        raise damaged
    return Parcel(text, float(time), photo, Vectors(value, image, key))


def _vector(text: object) -> F32 | None:
    """Any width: vectors of another model are not used. Raises ValueError."""
    if text is None:
        return None
    vector: F32 = np.frombuffer(base64.b64decode(str(text), validate=True), "<f2").astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("not finite")
    return vector
