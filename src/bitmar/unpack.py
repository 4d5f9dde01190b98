"""From a `.bitmar` file back to a training checkpoint: to fine-tune it, or to load it in transformers.

What quantisation rounded away stays away: the master weights are such that `export` gives the same codes and scales.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container, open_container
from bitmar.core.errors import DependencyError, FormatError
from bitmar.core.tensors import linear_shapes, scale_name
from bitmar.core.ternary import F32, unpack2


def unpack(path: str | Path, folder: str | Path) -> Path:
    """Write the language model of a `.bitmar` file as a Hugging Face checkpoint into `folder`, and return the folder.

    A pretrained tower does not come along: the checkpoint reads its patch features. Raises FormatError for a damaged
    file, DependencyError without torch and transformers.
    """
    try:
        import torch

        from bitmar.model.checkpoint import save_checkpoint
        from bitmar.model.configuration_bitmar import BitMarConfig
        from bitmar.model.modeling_bitmar import BitMarForCausalLM
    except ModuleNotFoundError as error:
        raise DependencyError(f"unpack needs {error.name}: pip install 'bitmar[train]'") from error
    container = open_container(path)
    config = container.config.to_dict() | {"vision_tower": None}
    model = BitMarForCausalLM(BitMarConfig(**config))
    weights = {name: torch.from_numpy(value) for name, value in master_weights(container).items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or set(missing) != {"logit_scale"}:
        raise FormatError(f"{path}: does not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
    vision = {**container.vision, "tower": "features"}
    return save_checkpoint(folder, model, container.tokenizer_json, vision)


def master_weights(container: Container) -> dict[str, F32]:
    """The float32 weights of a checkpoint, by name, without those of the vision tower."""
    config: ModelConfig = container.config
    matrices = linear_shapes(config)
    weights: dict[str, F32] = {}
    for name, tensor in container.tensors.items():
        if name.endswith(".scale") or name.startswith(("model.vision_tower.", "recall.")):
            continue
        if tensor.dtype == np.int8:
            weights[name] = tensor.astype(np.float32) * container.tensors[scale_name(name)]
        elif name in matrices and tensor.dtype == np.uint8:
            weights[name] = latent(unpack2(tensor, matrices[name][1]), float(container.tensors[scale_name(name)][0]))
        else:
            weights[name] = np.array(tensor, np.float32)
    return weights


def latent(codes: np.ndarray, scale: float) -> F32:
    """Master weights (out, in) whose absmean quantisation gives these codes and this scale.

    The scale is mean|W|, and a share of the weights is 0: the others stand as much farther out.
    """
    share = np.count_nonzero(codes) / codes.size
    return codes.astype(np.float32) * np.float32(scale / share if share else 0.0)
