"""Common to all `.bitmar` files, models and towers: safetensors with checked metadata and a checksum."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitmar.core.errors import FormatError
from bitmar.core.files import write_atomically
from bitmar.core.layout import DTYPES, TYPE_NAMES, Array, map_file, serialize, tensors_of
from bitmar.core.tensors import TensorSpec

Tensors = Mapping[str, Array]

_LARGEST = 1e6  # of a weight; trained ones stay below a hundred, and up to here no layer overflows float32


class Form(NamedTuple):
    """One kind of file: its name in the metadata, the newest version that is read, the keys, who makes it."""

    name: str
    version: int
    keys: tuple[str, ...]
    maker: str


MODEL = Form(
    "bitmar",
    3,
    ("format", "format_version", "config", "tokenizer", "vision", "card", "checksum"),
    "`bitmar export`",
)
TOWER = Form(
    "bitmar-tower",
    1,
    ("format", "format_version", "config", "vision", "card", "checksum"),
    "`bitmar tower import`",
)
FORMS = (MODEL, TOWER)


def form_of(path: str | Path) -> Form | None:
    """Which kind of file this says it is; None for another, a damaged or a missing file."""
    try:
        name = map_file(Path(path)).metadata.get("format")
    except FormatError:
        return None
    return next((form for form in FORMS if form.name == name), None)


def write_sealed(path: str | Path, form: Form, metadata: Mapping[str, str], tensors: Tensors) -> None:
    """Write a file of this form atomically: after a kill or on a full disk the old file is still there.

    metadata: all but the format, its version and the checksum. Raises BitMarError if the file cannot be written.
    """
    metadata = {"format": form.name, "format_version": str(form.version), **metadata}
    metadata["checksum"] = checksum(metadata, tensors)
    write_atomically(path, serialize(tensors, metadata))


def read_sealed(path: Path, form: Form) -> tuple[dict[str, str], dict[str, Array], mmap.mmap]:
    """Metadata, memory-mapped tensors, and their mapping, all of one opening of the file.

    Raises FormatError for a file that is no such file, of another form, or of a later version.
    """
    mapped = map_file(path)
    return _check_metadata(mapped.metadata, form), tensors_of(mapped), mapped.mapping


def _check_metadata(metadata: dict[str, str], form: Form) -> dict[str, str]:
    if metadata.get("format") != form.name:
        raise FormatError(_other_format(metadata.get("format"), form))
    version = metadata.get("format_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 6 and int(version) > 0):
        raise FormatError(f"unreadable format version {version!r:.40}")
    if int(version) > form.version:
        raise FormatError(
            f"written by a later bitmar (format {version}, this one reads up to {form.version}): "
            "run `pip install --upgrade bitmar`"
        )
    if set(metadata) != set(form.keys):
        odd = ", ".join(sorted(set(metadata) ^ set(form.keys)))
        raise FormatError(f"missing or unknown metadata: {odd:.200}")
    return metadata


def _other_format(found: str | None, wanted: Form) -> str:
    if wanted is MODEL and found == TOWER.name:
        return "a vision tower alone, not a model; pack it into one with `bitmar export CHECKPOINT OUT --tower FILE`"
    if wanted is TOWER and found == MODEL.name:
        return "a whole model, not a vision tower alone; make one with `bitmar tower import`"
    return f"a safetensors file, but not a .bitmar file; make one with {wanted.maker}"


def json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """The JSON object that a metadata value holds. Raises FormatError for anything else."""
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"damaged metadata {key!r}: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"metadata {key!r} is no JSON object")
    return value


def check_tensors(tensors: Tensors, expected: Mapping[str, TensorSpec]) -> None:
    """Raise FormatError for a tensor that is missing, unexpected, of another type or shape, or not finite."""
    _check_names(set(tensors), set(expected))
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != DTYPES[dtype] or tensor.shape != shape:
            raise FormatError(f"tensor {name!r} is {tensor.dtype} {tensor.shape}, not {dtype} {shape}")
        _check_values(name, tensor)


def _check_values(name: str, tensor: Array) -> None:
    if not tensor.size:  # a bank of concepts without classes
        return
    if tensor.dtype == np.int8 and tensor.min() < -127:
        raise FormatError(f"tensor {name!r} holds -128, outside the symmetric range")
    if tensor.dtype == np.float32 and not np.isfinite(tensor).all():
        raise FormatError(f"tensor {name!r} holds values that are not finite")
    if tensor.dtype == np.float32 and max(-tensor.min(), tensor.max()) > _LARGEST:
        raise FormatError(f"tensor {name!r} holds values beyond {_LARGEST:,.0f}, which no trained model has")
    if name.endswith(".scale") and tensor.min() <= 0:
        raise FormatError(f"tensor {name!r} holds a scale that is not positive")


def _check_names(found: set[str], wanted: set[str]) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    if missing or extra:
        raise FormatError(
            "the tensors do not fit the configuration: "
            + "; ".join(
                f"{len(names)} {what}, such as {names[0]!r:.120}"
                for what, names in (("missing", missing), ("unexpected", extra))
                if names
            )
        )


def checksum(metadata: Mapping[str, str], tensors: Tensors) -> str:
    """sha256 over the metadata, less the checksum, then each tensor's name, type, shape, bytes, by name."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"checksum"}):
        digest.update(f"{key}\0{metadata[key]}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = "x".join(map(str, tensor.shape))
        digest.update(f"{name}\0{TYPE_NAMES[tensor.dtype]}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
