"""Patch features from DINOv2 (arXiv:2304.07193), with or without registers, through transformers."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import numpy as np
import torch
from transformers import AutoModel
from transformers.image_processing_base import ImageProcessingMixin

from bitmar.core.errors import DataError

HUB_NAMES = {size: f"facebook/dinov2-{size}" for size in ("small", "base", "large", "giant")}
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIZE = 224  # 16 x 16 patches of 14 pixels, as in the paper


class DINOv2Tower:
    """The last layer's patch tokens; CLS and register tokens are left out.

    `source` is a size (small, base, large, giant), a local folder, or a Hub name. Float features: `scale`
    is None.
    """

    scale = None

    def __init__(self, source: str) -> None:
        path = HUB_NAMES.get(source, source)
        try:
            self._model = AutoModel.from_pretrained(path).float()
        except (OSError, ValueError) as error:
            raise DataError(
                f"DINOv2 {path!r} could not be loaded ({_first_line(error)}); "
                "give small, base, large, a local folder, or a Hub name that can be reached"
            ) from error
        config = self._model.config
        if not hasattr(config, "patch_size") or not hasattr(config, "hidden_size"):
            raise DataError(f"{path!r} is a {config.model_type} model, not a vision transformer")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.eval().requires_grad_(False).to(self._device)
        self._extra = 1 + getattr(config, "num_register_tokens", 0)
        self.mean, self.std, self.size = _preprocessing(path)
        self.grid, self.dim = self.size // config.patch_size, config.hidden_size
        self.name = f"dinov2:{source}"
        self.fingerprint = self._fingerprint()

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        with torch.inference_mode():
            pixels = torch.from_numpy(photos).to(self._device).permute(0, 3, 1, 2).float() / 255
            shape = (1, 3, 1, 1)
            mean, std = (torch.tensor(v, device=self._device).view(shape) for v in (self.mean, self.std))
            tokens = self._model(pixel_values=(pixels - mean) / std).last_hidden_state
            features: np.ndarray = tokens[:, self._extra :].float().cpu().numpy()
        return features

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(("squash", self.size, self.mean, self.std)).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _preprocessing(path: str) -> tuple[tuple[float, float, float], tuple[float, float, float], int]:
    """(mean, std, size) of the checkpoint's image processor; if it has none, ImageNet's, as DINOv2 uses."""
    card: dict[str, Any] = {}
    with contextlib.suppress(OSError):
        card, _ = ImageProcessingMixin.get_image_processor_dict(path)
    crop = card.get("crop_size", _SIZE)
    size = int(crop["height"] if isinstance(crop, dict) else crop)
    mean, std = (
        tuple(float(v) for v in card.get(key, default))
        for key, default in (("image_mean", _IMAGENET_MEAN), ("image_std", _IMAGENET_STD))
    )
    return mean, std, size  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
