"""Patch features from a LiteRT (.tflite) image classifier: the map that its average pooling reads."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.core.errors import DataError, DependencyError, FormatError, pip_install


class LiteRTTower:
    """A uint8 .tflite classifier run by LiteRT itself, photo by photo: exact, and the reference for
    `LiteRTTorch`.

    The features are integers 0..255 times `scale`, so uint8 stores them without loss.
    """

    mean = (0.0, 0.0, 0.0)  # the file quantises raw pixels itself
    std = (1.0, 1.0, 1.0)

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        self._interpreter = open_interpreter(path, threads)
        self._input = self._interpreter.get_input_details()[0]
        self._target = patch_tensor(self._interpreter)
        detail = tensor_detail(self._interpreter, self._target)
        scale, zero = detail["quantization"]
        if zero != 0:
            raise FormatError(f"{path}: the patch features have zero point {zero}, expected 0 (after a ReLU)")
        self.scale = float(np.float32(scale))
        _, self.grid, _, self.dim = (int(n) for n in detail["shape"])
        self.size = int(self._input["shape"][1])
        self.name = f"litert:{Path(path).name}"
        self.fingerprint = hashlib.sha256(b"litert squash raw\0" + Path(path).read_bytes()).hexdigest()[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        rows = np.empty((len(photos), self.grid * self.grid, self.dim), np.float32)
        for row, photo in zip(rows, photos, strict=True):
            self._interpreter.set_tensor(self._input["index"], photo[None])
            self._interpreter.invoke()
            row[:] = self._interpreter.get_tensor(self._target)[0].reshape(row.shape)
        rows *= np.float32(self.scale)
        return rows


def open_interpreter(path: str | Path, threads: int | None = None) -> Any:
    """A LiteRT interpreter that keeps its intermediate tensors."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise DependencyError(f"a LiteRT tower needs ai-edge-litert: {pip_install('vision')}") from error
    if not Path(path).is_file():
        raise DataError(f"{path}: no such .tflite file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "for debugging purposes only": the inner map is what we are after
            interpreter = Interpreter(str(path), experimental_preserve_all_tensors=True, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no readable .tflite model ({error})") from error
    source = interpreter.get_input_details()[0]
    if len(source["shape"]) != 4 or source["shape"][3] != 3 or source["dtype"] is not np.uint8:
        raise FormatError(f"{path}: the input is not uint8 RGB of shape (1, size, size, 3)")
    return interpreter


def patch_tensor(interpreter: Any) -> int:
    """Index of the map before the (last) average pooling: uint8 (1, grid, grid, dim)."""
    index = -1
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("AVERAGE_POOL_2D", "MEAN"):
            index = int(op["inputs"][0])
    if index < 0 or tensor_detail(interpreter, index)["dtype"] is not np.uint8:
        raise FormatError("the .tflite model has no average pooling over a uint8 map, so no patch features")
    return index


def tensor_detail(interpreter: Any, index: int) -> dict[str, Any]:
    return next(d for d in interpreter.get_tensor_details() if d["index"] == index)
