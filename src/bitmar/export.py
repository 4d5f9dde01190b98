"""From a training checkpoint to a `.bitmar` file, without torch: the checkpoint is safetensors and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from bitmar.carried import CARRIED, read_carried
from bitmar.core.config import ModelConfig
from bitmar.core.container import write_container
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.tensors import expected_tensors, is_packed, linear_shapes, scale_name
from bitmar.core.ternary import F32, absmean, pack2, quantize_rows
from bitmar.core.tokenizer import check_tokenizer
from bitmar.core.tower_file import TowerFile, open_tower

_BATCH_NORM_EPS = np.float32(1e-5)  # torch's default, which the tower uses
# In the checkpoint, but of no use for inference: the contrastive temperature and batch norm's counter.
_LEFT_BEHIND = ("logit_scale", ".num_batches_tracked")
_KEPT_PREPROCESSING = ("resize", "teacher", "feature_hash")


def export_checkpoint(
    folder: str | Path,
    out: str | Path,
    *,
    card: Mapping[str, Any] | None = None,
    tower: str | Path | None = None,
) -> Path:
    """Quantise the checkpoint in `folder` and write it to `out`, atomically.

    Ternary matrices by absmean (arXiv 2402.17764, section 2), the embedding to int8 row by row, batch norms
    folded into a factor and an offset per channel; a model trained with `quantization="none"` keeps float32
    matrices.

    folder: config.json, model.safetensors, tokenizer.json, preprocessor_config.json. card: the model card
    (licence, training data, figures); by default that of card.json in the folder, if there is one. tower: a tower
    file to pack in, for a model that was trained on that tower's features, so that it reads photos by itself; by
    default the one that `unpack` left in the folder. Returns `out`. Raises FormatError for a checkpoint that is
    incomplete, damaged or not BitMar's, and for a tower of other features.
    """
    folder, out = Path(folder), Path(out)
    config = read_config(folder)
    vision = _read_preprocessing(folder / "preprocessor_config.json", config)
    weights = _read_weights(folder / "model.safetensors")
    if card is None:
        card = _read_json(folder / "card.json") if (folder / "card.json").is_file() else {"name": folder.resolve().name}
    try:
        tensors = quantize_checkpoint(weights, config)
    except FormatError as error:
        raise FormatError(f"{folder / 'model.safetensors'}: {error}") from error
    if (carried := read_carried(folder)) is not None:
        carried.check(vision, folder / CARRIED)
        tensors |= carried.without_tower()
        if tower is None and carried.tower is not None:
            config, vision = dataclasses.replace(config, vision_tower=carried.tower), carried.vision
            tensors |= carried.tensors
    if tower is not None:
        file = open_tower(tower)
        config, vision = _with_tower(config, vision, file)
        tensors, card = {**tensors, **file.tensors}, {**card, "vision_tower": file.card}
    write_container(
        out,
        tensors,
        config=config,
        tokenizer_json=_read_tokenizer(folder / "tokenizer.json", config),
        vision=vision,
        card=card,
    )
    return out


def _with_tower(config: ModelConfig, vision: Mapping[str, Any], tower: TowerFile) -> tuple[ModelConfig, dict[str, Any]]:
    """The configuration and the preprocessing of a model with this tower. Raises FormatError where it is another's."""
    if config.vision_tower is not None:
        raise FormatError(f"{tower.path}: the checkpoint has a vision tower of its own; export it without --tower")
    asked, given = (config.vision_grid, config.vision_dim), (tower.config.grid, tower.config.out_dim)
    if asked != given:
        raise FormatError(
            f"{tower.path} gives {given[0]}x{given[0]} patches of {given[1]}, "
            f"the checkpoint was trained on {asked[0]}x{asked[0]} of {asked[1]}"
        )
    trained_on = vision.get("feature_hash")
    if trained_on is not None and trained_on not in (tower.fingerprint, *tower.card.get("stands_for", ())):
        raise FormatError(
            f"{tower.path}: the checkpoint was trained on the features of {vision.get('teacher', 'another tower')} "
            f"({trained_on}), not of this tower; train it on --tower bitmar:{tower.path.name}, or import the other"
        )
    return dataclasses.replace(config, vision_tower=tower.config), {
        **vision,
        **tower.vision,
        "tower": tower.config.kind,
    }


def read_config(folder: Path) -> ModelConfig:
    """The architecture in a checkpoint's config.json, without what transformers keeps there for itself."""
    path = folder / "config.json"
    values = _read_json(path)
    if values.get("model_type") != "bitmar":
        raise FormatError(
            f"{path}: the configuration of a {values.get('model_type')!r:.40} model, not of a bitmar model"
        )
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    try:
        return ModelConfig.from_dict({name: value for name, value in values.items() if name in names})
    except ConfigError as error:
        raise FormatError(f"{path}: {error}") from error


def quantize_checkpoint(weights: Mapping[str, F32], config: ModelConfig) -> dict[str, np.ndarray]:
    """A checkpoint's float32 tensors -> those of a `.bitmar` file, as `expected_tensors(config)` names them.

    Raises FormatError for a tensor that is missing, not expected, of another shape or not finite.
    """
    tensors: dict[str, np.ndarray] = {}
    used: set[str] = set()

    def take(name: str) -> F32:
        if name not in weights:
            raise FormatError(f"tensor {name!r} is missing, though the configuration asks for it")
        if not np.isfinite(weights[name]).all():
            raise FormatError(f"tensor {name!r} holds values that are not finite: the training diverged")
        used.add(name)
        return weights[name]

    matrices = linear_shapes(config)
    for name, (dtype, shape) in expected_tensors(config).items():
        if name in tensors or name.endswith(".scale"):  # comes with its matrix
            continue
        if dtype == "I8":
            tensors[name], tensors[scale_name(name)] = quantize_rows(take(name))
        elif dtype == "I32":
            tensors[name] = take(name).astype(np.int32)
        elif name in matrices:
            matrix = take(name)
            matrix = matrix.reshape(len(matrix), -1)  # a convolution's kernel by (channel, row, column)
            if matrix.shape != matrices[name]:
                raise FormatError(f"tensor {name!r} is {matrix.shape}, the configuration asks for {matrices[name]}")
            if is_packed(name, config):
                codes, scale = absmean(matrix)
                tensors[name], tensors[scale_name(name)] = pack2(codes), np.array([scale], np.float32)
            else:
                tensors[name] = matrix
        elif f"{name.removesuffix('weight')}running_var" in weights:
            norm = name.removesuffix(".weight")
            mean, variance = take(f"{norm}.running_mean"), take(f"{norm}.running_var")
            factor = take(f"{norm}.weight") / np.sqrt(variance + _BATCH_NORM_EPS)
            tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = factor, take(f"{norm}.bias") - mean * factor
        else:
            tensors[name] = take(name).reshape(shape) if shape == () else take(name)
    extra = sorted(name for name in set(weights) - used if not name.endswith(_LEFT_BEHIND))
    if extra:
        raise FormatError(f"{len(extra)} tensors that the configuration does not know, such as {extra[0]!r}")
    return tensors


def _read_weights(path: Path) -> dict[str, F32]:
    if not path.is_file():
        raise FormatError(f"{path} is missing: name the folder of a checkpoint that has finished writing")
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if (dtype := file.get_slice(name).get_dtype()) not in ("F64", "F32", "F16", "I64"):
                    raise FormatError(f"{path}: tensor {name!r} is {dtype}; save the master weights as float32")
            return {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error


def _read_preprocessing(path: Path, config: ModelConfig) -> dict[str, Any]:
    values = _read_json(path)
    try:
        vision = {"size": values["size"], "mean": values["image_mean"], "std": values["image_std"]}
    except KeyError as error:
        raise FormatError(f"{path}: {error} is missing") from error
    kept = {name: values[name] for name in _KEPT_PREPROCESSING if name in values}
    return {**vision, **kept, "tower": "bitvit" if config.vision_tower else "features"}


def _read_tokenizer(path: Path, config: ModelConfig) -> str:
    text = _read_text(path)
    try:
        check_tokenizer(text, config)
        Tokenizer.from_str(text)
    except Exception as error:  # the library raises a bare Exception
        raise FormatError(f"{path} is damaged or another model's: {error}") from error
    return text


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is no JSON object")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}): it belongs to a checkpoint") from error
