"""Patch features from our own ternary tower, out of a training checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from bitmar.core.config import VisionTowerConfig
from bitmar.core.errors import ConfigError, DataError, FormatError
from bitmar.model.vision import BitViT, BitViTConfig

_PREFIXES = ("model.vision_tower.", "vision_tower.", "")  # of a captioner, of its body, of a tower alone


class BitViTTower:
    """`BitViT` from a checkpoint folder: config.json, model.safetensors and preprocessor_config.json.

    The folder holds a whole captioner (its config.json has "vision_tower") or a distilled tower on its own.
    """

    scale = None

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        if folder.suffix == ".bitmar":
            raise ConfigError(f"{folder} is a packed model, not a tower to train on; give its checkpoint folder")
        config = _read_json(folder / "config.json")
        shape = VisionTowerConfig.from_dict(config.get("vision_tower") or _tower_only(config))
        self._model = BitViT(BitViTConfig.from_dict(shape.to_dict()))
        card = _read_json(folder / "preprocessor_config.json")
        try:
            self.mean, self.std = (_triple(card[key]) for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder}/preprocessor_config.json has no image_mean and image_std") from error
        weights_path = folder / "model.safetensors"
        if not weights_path.is_file():
            raise DataError(f"{folder} has no model.safetensors; give the folder of a finished checkpoint")
        weights = load_file(weights_path)
        prefix = next(p for p in _PREFIXES if not p or any(name.startswith(p) for name in weights))
        own = {name.removeprefix(prefix): v for name, v in weights.items() if name.startswith(prefix)}
        try:
            self._model.load_state_dict(own)
        except RuntimeError as error:
            raise FormatError(f"{weights_path} does not fit {folder}/config.json ({error})") from error
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.eval().requires_grad_(False).to(self._device)
        self.size, self.grid, self.dim = shape.image_size, shape.grid, shape.out_dim
        self.name = f"bitvit:{folder.name}"
        digest = hashlib.sha256(repr(("squash", shape, self.mean, self.std)).encode())
        for name, tensor in sorted(own.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(photos).to(self._device).permute(0, 3, 1, 2).float() / 255
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (self.mean, self.std))
            features: np.ndarray = self._model((pixels - mean) / std).float().cpu().numpy()
        return features


def _tower_only(config: dict[str, Any]) -> dict[str, Any]:
    """A distilled tower's config.json is BitViTConfig's fields, beside what transformers may have added."""
    return {key: v for key, v in config.items() if key not in ("model_type", "architectures", "transformers_version")}


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} has no {path.name}; give the folder of a finished checkpoint") from error
    except ValueError as error:
        raise FormatError(f"{path} is not JSON") from error
    return values
