"""The safetensors layout: read from one mapping of one open file, and written so that equal contents are equal bytes.

The format is an 8-byte length, a JSON header of that length, and the tensors, without holes or overlaps
(https://github.com/huggingface/safetensors). The stock library opens a path, not an open file: a file replaced between
two openings would be read half old, half new.
"""

from __future__ import annotations

import json
import math
import mmap
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import FormatError
from bitmar.core.strict_json import parse_json

MAX_HEADER_BYTES = 32 << 20  # a tokenizer of 250,000 tokens fits; a lying length cannot claim gigabytes
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
}
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Array = npt.NDArray[Any]


class Mapped(NamedTuple):
    """A mapped file: its text metadata, the tensors' entries as the header has them, and where their data begins."""

    metadata: dict[str, str]
    entries: dict[str, Any]
    mapping: mmap.mmap
    start: int


def map_file(path: Path) -> Mapped:
    """Open and map a file once, and parse its header; the entries are not checked. Raises FormatError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, for ever
            raise FormatError("is a folder, name a file" if path.is_dir() else "is no file, name one")
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise FormatError("too short for a .bitmar file")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: emptied since, or a name with a zero byte
        raise FormatError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > MAX_HEADER_BYTES:
        raise FormatError(f"not a .bitmar file, or damaged: its header claims {header_bytes} bytes")
    start = 8 + header_bytes
    try:
        if len(mapping) < start or mapping[8:9] != b"{":
            raise ValueError("its header is cut off or no JSON object")
        header = parse_json(mapping[8:start])
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is no object of strings")
    except ValueError as error:
        raise FormatError(f"not a .bitmar file, or damaged: {error}") from error
    return Mapped(metadata, header, mapping, start)


def tensors_of(mapped: Mapped) -> dict[str, Array]:
    """Read-only views (name -> array) into a mapped file, which lie inside it and fill it.

    Raises FormatError for any other file.
    """
    size = len(mapped.mapping) - mapped.start
    if not size:
        raise FormatError("holds no tensors")
    data = np.frombuffer(mapped.mapping, np.uint8, offset=mapped.start)
    shapes = {name: _entry(name, entry) for name, entry in mapped.entries.items()}
    tensors: dict[str, Array] = {}
    end = 0
    for name, (dtype, shape, first, last) in sorted(shapes.items(), key=lambda item: item[1][2:]):
        if first != end or last > size or last - first != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"damaged: tensor {name!r:.120} does not fill its place in the file")
        end = last
        array: Array = np.ndarray(shape, dtype, buffer=data, offset=first)
        if not array.flags.aligned:
            raise FormatError(f"tensor {name!r:.120} is not aligned to its {array.itemsize}-byte elements")
        tensors[name] = array
    if end != size:
        raise FormatError(f"damaged: {size - end} bytes after the last tensor")
    return tensors


def _entry(name: str, entry: object) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """Type, shape, first and last byte of a tensor, by its entry in the header."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"damaged: the entry of tensor {name!r:.120} is none")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or any(type(number) is not int or number < 0 for number in numbers):
            raise FormatError(f"damaged: the shape or the place of tensor {name!r:.120} is no list of whole numbers")
    if len(offsets) != 2:
        raise FormatError(f"damaged: the place of tensor {name!r:.120} is no pair")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"tensor {name!r:.120} has the type {dtype!s:.40}; a .bitmar file holds {', '.join(DTYPES)}")
    if len(shape) > 4:
        raise FormatError(f"tensor {name!r:.120} has {len(shape)} dimensions")
    return DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def serialize(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file: metadata and tensors sorted, those of wide elements first, so that all are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        header[name] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
        parts.append(tensor.tobytes())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])
