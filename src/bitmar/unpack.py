"""From a `.bitmar` file back to a training checkpoint: to fine-tune it, or to load it in transformers.

What quantisation rounded away stays away: the master weights are such that `export` gives the same codes and scales,
and with what the folder carries besides (`carried.py`) the same file, byte for byte.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitmar.carried import Carried
from bitmar.core.container import Container, open_container
from bitmar.core.errors import DependencyError, FormatError, pip_install
from bitmar.core.files import write_atomically
from bitmar.core.tensors import expected_tensors, linear_shapes, scale_name
from bitmar.core.ternary import F32, I8, absmean_of, unpack2

if TYPE_CHECKING:
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

_FEW_STEPS = 4  # with fewer, equal weights would differ by a quarter and more


def unpack(path: str | Path, folder: str | Path) -> Path:
    """Write the language model of a `.bitmar` file as a Hugging Face checkpoint into `folder`, and return the folder.

    The checkpoint reads patch features; the packed tower, recall's calibration and the captions' confidence lie beside
    it for `export`, the card in card.json. Raises FormatError for a damaged file, DependencyError without torch and
    transformers.
    """
    container = open_container(path)
    return save_like(container, unpacked(container), folder)


def save_like(container: Container, model: BitMarForCausalLM, folder: str | Path) -> Path:
    """Write `model`, the unpacked container's or one trained on from it, with all that `export` needs to pack it."""
    from bitmar.model.checkpoint import save_checkpoint

    vision = {**container.vision, "tower": "features"}
    folder = save_checkpoint(folder, model, container.tokenizer_json, vision, container.card)
    Carried.of(container).save(folder)
    write_atomically(folder / "card.json", json.dumps(container.card, indent=2).encode())
    return folder


def unpacked(container: Container) -> BitMarForCausalLM:
    """The language model of an open `.bitmar` file in PyTorch; its input are the packed tower's patch features.

    Raises FormatError where the file does not fit the model, DependencyError without torch and transformers.
    """
    try:
        import torch

        from bitmar.model.configuration_bitmar import BitMarConfig
        from bitmar.model.modeling_bitmar import BitMarForCausalLM
    except ModuleNotFoundError as error:
        raise DependencyError(f"unpacking needs {error.name}: {pip_install('train')}") from error
    model = BitMarForCausalLM(BitMarConfig(**container.config.to_dict() | {"vision_tower": None}))
    weights = {name: torch.from_numpy(value) for name, value in master_weights(container).items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or set(missing) != {"logit_scale"}:
        raise FormatError(f"{container.path}: does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
    return model


def master_weights(container: Container) -> dict[str, F32]:
    """The float32 weights of a checkpoint, by name, without those of the vision tower."""
    config = dataclasses.replace(container.config, vision_tower=None)
    matrices = linear_shapes(config)
    weights: dict[str, F32] = {}
    for name in expected_tensors(config):
        if name.endswith(".scale"):
            continue
        tensor = container.tensors[name]
        if tensor.dtype == np.int8:
            weights[name] = latent_rows(tensor, container.tensors[scale_name(name)])
        elif name in matrices and tensor.dtype == np.uint8:
            weights[name] = latent(unpack2(tensor, matrices[name][1]), container.tensors[scale_name(name)][0])
        else:
            weights[name] = np.array(tensor, np.float32)
    return weights


def latent(codes: I8, scale: np.float32) -> F32:
    """Master weights (out, in) whose absmean quantisation gives these codes and this scale.

    The scale is mean|W|, and a share of the weights is 0: the others stand as much farther out. They are multiples of
    the last place of their sum, as equal as these allow, so that the sum is exact in any order.
    """
    used = np.count_nonzero(codes)
    if not used:
        return np.zeros(codes.shape, np.float32)
    total = _neighbour(np.float32(np.float64(scale) * codes.size), lambda sums: absmean_of(sums, codes.size), scale)
    place = np.spacing(total)
    steps = np.diff(np.arange(used + 1) * int(total / place) // used)  # of each weight that is not 0
    weights: F32 = codes.astype(np.float32)
    if steps.min() < _FEW_STEPS:  # more weights than a float32 sum can count
        weights *= np.float32(total / used)
        return weights
    weights[codes != 0] *= steps.astype(np.float32) * place
    return weights


def latent_rows(codes: I8, scale: F32) -> F32:
    """Master weights (V, d) that `quantize_rows` gives these codes and scales (V, 1): max|w| is 127 scales."""
    weights = codes.astype(np.float32) * scale
    most = np.array([_neighbour(np.float32(127) * s, lambda m: m / np.float32(127), s) for s in scale[:, 0]])
    return np.where(np.abs(codes) == 127, np.sign(codes) * most[:, None], weights).astype(np.float32)


def _neighbour(near: np.float32, scale_of: Callable[[F32], F32], wanted: np.float32) -> np.float32:
    """The float32 nearest to `near` of which `scale_of` makes the wanted scale; `near` itself where there is none."""
    around = near + np.array([0, 1, -1, 2, -2], np.float32) * np.spacing(near)
    fitting = np.flatnonzero(scale_of(around) == wanted)
    return around[fitting[0]] if len(fitting) else near
