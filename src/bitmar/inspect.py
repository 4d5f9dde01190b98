"""Parameters, bits and zeros of a model, counted from its tensors: a `.bitmar` file, a checkpoint folder, a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import FORMAT_VERSION, open_container
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.conv_weights import kernel_shapes, layer_name, multiplications
from bitmar.core.errors import FormatError
from bitmar.core.sealed import TOWER, form_of
from bitmar.core.tensors import is_packed, linear_shapes
from bitmar.core.ternary import absmean, unpack2
from bitmar.core.tower_file import TowerFile, open_tower
from bitmar.export import read_config
from bitmar.runtime.locate import find_model
from bitmar.train.runs import is_run, last_model, read_json, stages

PARTS = {
    "model.vision_tower.": "vision tower",
    "model.vision.": "vision projector",
    "model.embed_tokens.": "embedding",
    "model.encoder.": "text encoder",
    "model.fusion.": "fusion",
    "model.memory": "memory",
    "model.decoder.": "decoder",
    "lm_head.": "head",
    "logit_scale": "contrastive temperature",
}
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")  # of batch norms: no parameters


@dataclass(slots=True)
class Part:
    """Counts of one part of the network. ternary: weights of three values; zeros: those of them that are 0."""

    parameters: int = 0
    bytes: int = 0
    ternary: int = 0
    zeros: int = 0

    def add(self, other: Part) -> None:
        """Count another part's in."""
        self.parameters += other.parameters
        self.bytes += other.bytes
        self.ternary += other.ternary
        self.zeros += other.zeros

    def figures(self) -> dict[str, Any]:
        """For people and JSON; zero_fraction (E_q of the paper's Figure 3) is None where nothing is ternary."""
        return {
            "parameters": self.parameters,
            "bytes": self.bytes,
            "bits_per_weight": round(8 * self.bytes / self.parameters, 3) if self.parameters else 0.0,
            "zero_fraction": round(self.zeros / self.ternary, 5) if self.ternary else None,
        }


def summarize(source: str | Path | None = None) -> dict[str, Any]:
    """Everything that `bitmar info` says about a `.bitmar` file, a checkpoint, a tower or a run; JSON-able.

    Raises FormatError for what is none of these or damaged.
    """
    folder = Path(source) if source is not None else None
    if folder is not None and (folder / "model.safetensors").is_file():
        return _checkpoint(folder)
    if folder is not None and is_run(folder):
        return _run(folder)
    if folder is not None and folder.is_file() and form_of(folder) is TOWER:
        return _tower(folder)
    return _packed(find_model(source))


def _tower(path: Path) -> dict[str, Any]:
    file = open_tower(path)
    config = file.config
    conv = config if isinstance(config, ConvTowerConfig) else None
    parts = _tower_parts(file)
    total = Part()
    for part in parts.values():
        total.add(part)
    rest = path.stat().st_size - total.bytes
    total.bytes += rest
    return {
        "path": str(path),
        "kind": f"vision tower, {'convolutions in integers' if conv else 'vision transformer in int8'}",
        "checksum": "ok",
        **total.figures(),
        "parts": {name: part.figures() for name, part in {**parts, "metadata": Part(bytes=rest)}.items()},
        "layers": _conv_layers(config) if isinstance(config, ConvTowerConfig) else config.depth,
        "weights": conv.weights if conv else "int8",
        "multiplications": multiplications(conv) if conv else None,
        "tokenizer": None,
        "vision": {**file.vision, "grid": config.grid, "features": config.out_dim, "fingerprint": file.fingerprint},
        "licence": file.card.get("licence"),
        "training_data": file.card.get("training_data"),
        "card": file.card,
        "config": config.to_dict(),
    }


def _tower_parts(file: TowerFile) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    if isinstance(file.config, ConvTowerConfig):
        kernels = {layer_name(i): (file.config.layers[i - 1].op, r * c) for i, r, c in kernel_shapes(file.config)}
        for name, tensor in file.tensors.items():
            layer, _, kind = name.rpartition(".")
            op, count = kernels[layer]
            part = parts.setdefault(f"{op} layers", Part())
            part.bytes += tensor.nbytes
            part.parameters += {"weight": count, "bias": tensor.size, "scale": 0}[kind]
        return parts
    for name, tensor in file.tensors.items():
        part = parts.setdefault("blocks" if ".layers." in name else "patches, positions, norm", Part())
        part.bytes += tensor.nbytes
        part.parameters += 0 if name.endswith(".scale") else tensor.size
    return parts


def _conv_layers(config: ConvTowerConfig) -> list[dict[str, Any]]:
    return [
        {"number": i, "op": layer.op, "from": list(layer.inputs), "side": shape.side, "channels": shape.channels}
        for i, (layer, shape) in enumerate(zip(config.layers, config.shapes()[1:], strict=True), 1)
    ]


def _packed(path: Path) -> dict[str, Any]:
    container = open_container(path)
    config, matrices = container.config, linear_shapes(container.config)
    conv = config.vision_tower if isinstance(config.vision_tower, ConvTowerConfig) else None
    kernels = {f"{layer_name(i)}.weight": rows * columns for i, rows, columns in kernel_shapes(conv)} if conv else {}
    parts: dict[str, Part] = {}
    for name, tensor in container.tensors.items():
        part = parts.setdefault(part_of(name), Part())
        part.bytes += tensor.nbytes
        if name in matrices and tensor.dtype == np.uint8:
            codes = unpack2(tensor, matrices[name][1])
            part.add(Part(codes.size, 0, codes.size, int((codes == 0).sum())))
        elif name in kernels:
            part.parameters += kernels[name]  # several to a byte, perhaps
        elif not name.endswith(".scale"):
            part.parameters += tensor.size
    return {
        "path": str(path),
        "kind": f"packed model, format {FORMAT_VERSION}",
        "checksum": "ok",  # opening has verified it
        **_figures(parts, extra=("tokenizer and metadata", path.stat().st_size)),
        "tokenizer": {"entries": container.load_tokenizer().get_vocab_size()},
        "vision": container.vision,
        "licence": container.card.get("licence"),
        "training_data": container.card.get("training_data"),
        "card": container.card,
        "config": config.to_dict(),
    }


def _checkpoint(folder: Path) -> dict[str, Any]:
    values = read_json(folder / "config.json")
    alone = values.get("model_type") == "bitvit"
    config = _tower_config(values) if alone else read_config(folder)
    matrices = linear_shapes(config)
    parts: dict[str, Part] = {}
    for name, tensor in _tensors(folder / "model.safetensors"):
        name = f"model.vision_tower.{name}" if alone else name
        part = parts.setdefault(part_of(name), Part())
        part.bytes += tensor.nbytes
        part.parameters += 0 if name.endswith(STATISTICS) else tensor.size
        if name in matrices and is_packed(name, config):
            codes, _ = absmean(tensor.reshape(len(tensor), -1).astype(np.float32))
            part.ternary += codes.size
            part.zeros += int((codes == 0).sum())
    card = read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    return {
        "path": str(folder),
        "kind": "vision tower" if alone else "training checkpoint",
        "checksum": "none in a checkpoint",
        **_figures(parts),
        "tokenizer": None if alone else {"entries": config.vocab_size},
        "vision": _preprocessing(folder),
        "licence": card.get("licence"),
        "training_data": card.get("training_data"),
        "card": card,
        "config": config.vision_tower.to_dict() if alone and config.vision_tower else config.to_dict(),
    }


def _run(folder: Path) -> dict[str, Any]:
    begun = stages(folder)
    packed = folder / "model.bitmar"
    model: dict[str, Any] | None = None
    if packed.is_file():
        model = _packed(packed)
    elif any(stage.finished and stage.is_model for stage in begun):
        model = _checkpoint(last_model(folder))
    return {
        "path": str(folder),
        "kind": "training run",
        "stages": [
            {"name": stage.folder.name, "finished": stage.finished, "step": stage.step, "loss": stage.loss}
            for stage in begun
        ],
        "model": model,
    }


def part_of(name: str) -> str:
    """Which part of the network a tensor belongs to."""
    return next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "other")


def _figures(parts: dict[str, Part], extra: tuple[str, int] | None = None) -> dict[str, Any]:
    """Part by part and in all. extra: a name for what a file of N bytes holds besides tensors."""
    total, order = Part(), [*PARTS.values(), "other"]
    parts = {name: parts[name] for name in order if name in parts}
    for part in parts.values():
        total.add(part)
    if extra:
        name, size = extra
        parts = {**parts, name: Part(bytes=size - total.bytes)}
        total.bytes = size
    return {**total.figures(), "parts": {name: part.figures() for name, part in parts.items()}}


def _tower_config(values: dict[str, Any]) -> ModelConfig:
    """A tower's config.json as the configuration of a model that has it."""
    names = VisionTowerConfig.__dataclass_fields__
    tower = VisionTowerConfig.from_dict({name: value for name, value in values.items() if name in names})
    return ModelConfig(vision_tower=tower, vision_grid=tower.grid, vision_dim=tower.out_dim, vision_pool=1)


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type that numpy lacks, such as bfloat16
        raise FormatError(f"{path} cannot be read: {error}") from error


def _preprocessing(folder: Path) -> dict[str, Any] | None:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    names = ("size", "resize", "image_mean", "image_std", "teacher", "feature_hash")
    return {name: value for name, value in read_json(path).items() if name in names}
