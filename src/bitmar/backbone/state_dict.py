"""A network's tensors by name, out of a safetensors file or a PyTorch checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from bitmar.backbone.graph import F64, finite
from bitmar.core.errors import DataError, DependencyError, FormatError

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_STATISTICS = (".weight", ".bias", ".running_mean", ".running_var")  # of a batch norm


class StateDict:
    """Tensors as float64, each taken by its name; a missing one is an error that names it."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        """All names, in the file's order."""
        return list(self._tensors)

    def take(self, name: str, shape: tuple[int | None, ...] | None = None) -> F64:
        """A tensor. shape: what it must have, None for any number. Raises FormatError with its name."""
        if name not in self._tensors:
            raise FormatError(f"{name!r} is missing")
        tensor = self._tensors[name]
        if shape is not None and (
            tensor.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, tensor.shape, strict=True))
        ):
            wanted = "x".join("any" if s is None else str(s) for s in shape)
            turned = " (transposed?)" if sorted(tensor.shape) == sorted(s or 0 for s in shape) else ""
            raise FormatError(f"{name!r} has the shape {'x'.join(map(str, tensor.shape))}, not {wanted}{turned}")
        return finite(tensor.astype(np.float64), name)

    def folded(self, conv: str, norm: str, eps: float, shape: tuple[int | None, ...]) -> tuple[F64, F64]:
        """A convolution (out, in, kernel, kernel) without bias and the batch norm after it, as one: (weight, bias)."""
        weight = self.take(f"{conv}.weight", shape)
        if f"{conv}.bias" in self:
            raise FormatError(f"{conv!r} has a bias beside the batch norm {norm!r}; this architecture has none")
        gain, offset, mean, variance = (self.take(f"{norm}{part}", (len(weight),)) for part in _STATISTICS)
        if (variance < 0).any():
            raise FormatError(f"{norm!r} has a negative variance")
        factor = gain / np.sqrt(variance + eps)
        return weight * factor[:, None, None, None], offset - mean * factor


def read_state_dict(path: Path) -> StateDict:
    """Read a .safetensors file, or with torch a .pth, .pt or .bin that holds tensors alone.

    Raises DataError for a missing file, FormatError for a damaged one, DependencyError where torch is needed.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix not in _SUFFIXES:
        raise FormatError(f"{path}: not a state dict that bitmar reads ({', '.join(_SUFFIXES)})")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="numpy") as file:
                return StateDict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  (not a dict)
        except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type that numpy lacks, such as bfloat16
            raise FormatError(f"{path} cannot be read: {error}") from error
    try:
        import torch
    except ImportError as error:
        raise DependencyError(
            f"{path} is a PyTorch file: pip install 'bitmar[train]', or save it as safetensors"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise FormatError(f"{path} is damaged, or holds more than tensors ({type(error).__name__})") from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(t, torch.Tensor) for t in loaded.values()):
        raise FormatError(f"{path} holds no state dict, a mapping of names to tensors")
    return StateDict({str(name): tensor.float().numpy() for name, tensor in loaded.items()})
