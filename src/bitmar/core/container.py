"""The `.bitmar` file: one safetensors container, memory-mapped and validated whole before anything uses it.

Ternary matrices are packed four weights a byte (see `ternary.pack2`), the embedding is int8, the rest
float32. The metadata holds the configuration, the tokenizer, the picture's preprocessing and the model card.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tokenizers import Tokenizer

from bitmar.core.config import ModelConfig
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.files import write_atomically
from bitmar.core.tensors import BACKGROUND_STRANGERS, background_tensors, expected_tensors, linear_shapes
from bitmar.core.ternary import check_codes

FORMAT_VERSION = 2
MAX_HEADER_BYTES = 32 << 20  # a tokenizer of 250,000 tokens fits; a lying length cannot claim gigabytes

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

_DTYPES: dict[str, np.dtype[Any]] = {"U8": np.dtype("u1"), "I8": np.dtype("i1"), "F32": np.dtype("<f4")}
_TYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA_KEYS = ("format", "format_version", "config", "tokenizer", "vision", "card", "checksum")
_VISION_TOWERS = ("bitvit", "features")


@dataclass(frozen=True)
class Container:
    """An open `.bitmar` file. `tensors` are read-only views into the file; nothing is copied."""

    path: Path
    config: ModelConfig
    tensors: Tensors
    tokenizer_json: str
    vision: dict[str, Any]  # size, mean, std, tower, ...: how a photo becomes the tower's input
    card: dict[str, Any]
    checksum: str  # of all the rest: which model this is
    mapping: mmap.mmap | None = None

    def release_pages(self) -> None:
        """Give the pages of the file that were read back to the system; a tensor read later fetches its own again."""
        if self.mapping is not None and hasattr(self.mapping, "madvise"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of this model. Raises FormatError if it is damaged or larger than the vocabulary."""
        try:
            tokenizer = Tokenizer.from_str(self.tokenizer_json)
        except Exception as error:  # the library raises a bare Exception
            raise FormatError(f"{self.path}: damaged tokenizer ({error})") from error
        if tokenizer.get_vocab_size() > self.config.vocab_size:
            sizes = f"{tokenizer.get_vocab_size()} tokens, the model {self.config.vocab_size}"
            raise FormatError(f"{self.path}: the tokenizer has {sizes}")
        return tokenizer


def write_container(
    path: str | Path,
    tensors: Tensors,
    *,
    config: ModelConfig,
    tokenizer_json: str,
    vision: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write a `.bitmar` file atomically: after a kill or on a full disk the old file is still there.

    `tensors` are as `expected_tensors(config)` names them. Raises FormatError for what `open_container` would
    refuse, and BitMarError if the file cannot be written.
    """
    # order="C": safetensors writes the buffer as it lies in memory.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {
        "format": "bitmar",
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(config.to_dict()),
        "tokenizer": tokenizer_json,
        "vision": json.dumps(dict(vision)),
        "card": json.dumps(dict(card)),
    }
    try:
        _check_vision(dict(vision), config)
        _check_tensors(tensors, config)
    except FormatError as error:
        raise FormatError(f"{path}: refusing to write: {error}") from None
    metadata["checksum"] = _checksum(metadata, tensors)
    write_atomically(path, save(tensors, metadata))


def open_container(path: str | Path, *, verify: bool = True) -> Container:
    """Open and validate a `.bitmar` file.

    Checked in this order: header, format and version, checksum, configuration, preprocessing, names, shapes,
    types and values of all tensors; `verify=False` leaves out the checksum alone. Raises FormatError naming
    the file and the fault.
    """
    path = Path(path)
    try:
        metadata, tensors, mapping = _read(path)
        if verify and _checksum(metadata, tensors) != metadata["checksum"]:
            raise FormatError("the checksum does not match: the file is damaged, get it again")
        config = ModelConfig.from_dict(_json_object(metadata, "config"))
        vision, card = _json_object(metadata, "vision"), _json_object(metadata, "card")
        _check_vision(vision, config)
        _check_tensors(tensors, config)
    except (FormatError, ConfigError) as error:
        raise FormatError(f"{path}: {error}") from error
    frozen, checksum = MappingProxyType(tensors), metadata["checksum"]
    container = Container(path, config, frozen, metadata["tokenizer"], vision, card, checksum, mapping)
    container.release_pages()  # checking has read them all; on a small device they would stand in the engine's way
    return container


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array], mmap.mmap]:
    """Metadata, memory-mapped tensors, their mapping; the safetensors library proves that they lie inside the file."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
        if len(prefix) < 8:
            raise FormatError("too short for a .bitmar file")
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > MAX_HEADER_BYTES:
            raise FormatError(f"not a .bitmar file, or damaged: its header claims {header_bytes} bytes")
        with safe_open(path, framework="numpy") as file:
            metadata = _check_metadata(file.metadata() or {})
            if path.stat().st_size == 8 + header_bytes:
                raise FormatError("holds no tensors")
            data = np.memmap(path, mode="r", offset=8 + header_bytes)
            tensors: dict[str, Array] = {}
            start = 0
            for name in file.offset_keys():  # in the order of the data, which has neither holes nor overlaps
                view = file.get_slice(name)
                tensors[name] = _view(data, start, name, view.get_dtype(), view.get_shape())
                start += tensors[name].nbytes
    except (SafetensorError, UnicodeDecodeError) as error:
        raise FormatError(f"not a .bitmar file, or damaged: {error}") from error
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}") from error
    mapping: mmap.mmap = data._mmap  # type: ignore[attr-defined]  # documented, not typed
    return metadata, tensors, mapping


def _view(data: npt.NDArray[np.uint8], start: int, name: str, dtype: str, shape: list[int]) -> Array:
    if dtype not in _DTYPES:
        raise FormatError(f"tensor {name!r} has the type {dtype}; a .bitmar file holds {', '.join(_DTYPES)}")
    if len(shape) > 4:
        raise FormatError(f"tensor {name!r} has {len(shape)} dimensions")
    array: Array = np.ndarray(tuple(shape), _DTYPES[dtype], buffer=data, offset=start)
    if not array.flags.aligned:
        raise FormatError(f"tensor {name!r} is not aligned to its {array.itemsize}-byte elements")
    return array


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if metadata.get("format") != "bitmar":
        raise FormatError("a safetensors file, but not a .bitmar file; make one with `bitmar export`")
    version = metadata.get("format_version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 6 and int(version) > 0):
        raise FormatError(f"unreadable format version {version!r:.40}")
    if int(version) > FORMAT_VERSION:
        raise FormatError(
            f"written by a later bitmar (format {version}, this one reads up to {FORMAT_VERSION}): "
            "run `pip install --upgrade bitmar`"
        )
    if set(metadata) != set(_METADATA_KEYS):
        odd = ", ".join(sorted(set(metadata) ^ set(_METADATA_KEYS)))
        raise FormatError(f"missing or unknown metadata: {odd:.200}")
    return metadata


def _json_object(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"damaged metadata {key!r}: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"metadata {key!r} is no JSON object")
    return value


def _check_vision(vision: dict[str, Any], config: ModelConfig) -> None:
    size, mean, std, tower = (vision.get(key) for key in ("size", "mean", "std", "tower"))
    if tower not in _VISION_TOWERS:
        raise FormatError(f"vision tower {tower!r:.40} is none of {', '.join(_VISION_TOWERS)}")
    if (tower == "bitvit") != (config.vision_tower is not None):
        has = "has a" if config.vision_tower else "has no"
        raise FormatError(f"vision says {tower!r}, but the configuration {has} vision_tower")
    if type(size) is not int or not 0 < size <= 4096:
        raise FormatError(f"vision size {size!r:.40} must be between 1 and 4096 pixels")
    if config.vision_tower and size != config.vision_tower.image_size:
        wanted = config.vision_tower.image_size
        raise FormatError(f"vision size {size} differs from the tower's image_size {wanted}")
    for name, triple, low in (("mean", mean, -1e3), ("std", std, 1e-6)):
        if (
            not isinstance(triple, (list, tuple))
            or len(triple) != 3
            or not all(type(value) in (int, float) and low <= value <= 1e3 for value in triple)
        ):
            raise FormatError(f"vision {name} must be three numbers, one a colour, not {triple!r:.80}")


def _check_tensors(tensors: Tensors, config: ModelConfig) -> None:
    expected = expected_tensors(config)
    background = background_tensors(config)
    if background.keys() & tensors.keys():
        expected |= background
    _check_names(set(tensors), set(expected))
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if tensor.dtype != _DTYPES[dtype] or tensor.shape != shape:
            raise FormatError(f"tensor {name!r} is {tensor.dtype} {tensor.shape}, not {dtype} {shape}")
        _check_values(name, tensor)
    for name, (_, in_features) in linear_shapes(config).items():
        if tensors[name].dtype == np.uint8:
            _check_packing(name, tensors[name], in_features)
    if BACKGROUND_STRANGERS in tensors and (np.diff(tensors[BACKGROUND_STRANGERS]) < 0).any():
        raise FormatError(f"tensor {BACKGROUND_STRANGERS!r} does not rise")


def _check_values(name: str, tensor: Array) -> None:
    if tensor.dtype == np.int8 and tensor.min() < -127:
        raise FormatError(f"tensor {name!r} holds -128, outside the symmetric range")
    if tensor.dtype == np.float32 and not np.isfinite(tensor).all():
        raise FormatError(f"tensor {name!r} holds values that are not finite")
    if name.endswith(".scale") and tensor.min() <= 0:
        raise FormatError(f"tensor {name!r} holds a scale that is not positive")


def _check_packing(name: str, packed: Array, in_features: int) -> None:
    try:
        check_codes(packed, in_features)
    except FormatError as error:
        raise FormatError(f"tensor {name!r}: {error}") from None


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


def _checksum(metadata: Mapping[str, str], tensors: Tensors) -> str:
    """sha256 over the metadata, less the checksum, then each tensor's name, type, shape, bytes, by name."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"checksum"}):
        digest.update(f"{key}\0{metadata[key]}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        shape = "x".join(map(str, tensor.shape))
        digest.update(f"{name}\0{_TYPE_NAMES[tensor.dtype]}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
