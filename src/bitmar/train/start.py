"""The start of a stage: weights of an earlier stage or of a packed model, and a concept bank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bitmar.core.container import open_container
from bitmar.core.errors import FormatError
from bitmar.data.concepts.bank import ConceptBank
from bitmar.model.bitlinear import BitLinear, quantize_weight
from bitmar.model.concepts import WORD_IDS
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.unpack import master_weights

TOWER, PROJECTION, CONCEPTS = "model.vision_tower.", "model.vision.", "model.concepts."
VALUES = CONCEPTS + "values"


def load_weights(module: torch.nn.Module, folder: Path, optional: tuple[str, ...] = (), inside: str = "") -> set[str]:
    """Loads `folder`'s checkpoint and returns what it lacked.

    optional: prefixes of what either side may lack. inside: of what is wanted, where the folder holds more.
    """
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        wanted = {name.removeprefix(inside): value for name, value in weights.items() if name.startswith(inside)}
        found = module.load_state_dict(wanted or weights, strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise FormatError(f"cannot start from {path}: {error}") from error
    return _checked(path, found, optional)


def load_packed(model: BitMarForCausalLM, path: Path) -> list[str]:
    """Loads a `.bitmar` file and returns the tensors that have another shape there, and so begin anew.

    These can be of the vision MLP and of the concepts: features may come from another tower than the packed one, which
    stays behind.
    """
    container = open_container(path)
    own = model.state_dict()
    weights, anew = {}, []
    for name, value in master_weights(container).items():
        tensor, wanted = torch.from_numpy(value), own.get(name)
        if wanted is not None and wanted.shape != tensor.shape and name.startswith((PROJECTION, CONCEPTS)):
            anew.append(name)
            continue
        weights[name] = tensor
    try:
        found = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # other sizes
        raise FormatError(f"cannot start from {path}: {error}") from error
    _checked(path, found, (TOWER, CONCEPTS, "logit_scale", *anew))
    return anew


def _checked(path: Path, found: Any, optional: tuple[str, ...]) -> set[str]:
    missing, unknown = (
        [name for name in names if not name.startswith(optional)]
        for names in (found.missing_keys, found.unexpected_keys)
    )
    if missing or unknown:
        raise FormatError(
            f"{path} does not fit this model: {len(missing)} tensors missing ({missing[:3]}), "
            f"{len(unknown)} unknown ({unknown[:3]}); start from one of the same sizes"
        )
    return set(found.missing_keys)


def bank_sizes(bank: ConceptBank, tokens: int) -> dict[str, int]:
    """The fields of a model's configuration for a bank."""
    own, width = len(bank.keys), bank.class_keys.shape[1]
    return {
        "concepts": len(bank.names),
        "concept_classes": len(bank.class_bias),
        "concept_keys": own if own < len(bank.names) else 0,
        "concept_class_width": width if width < bank.keys.shape[1] else 0,
        "concept_tokens": tokens,
    }


@torch.no_grad()
def put_concepts(model: BitMarForCausalLM, bank: ConceptBank, tokenizer: Any, features: Tensor) -> None:
    """Gives the model a bank, its words, and values that begin where the fusion passes what says the words.

    features: patch features of some photos (n, N_p, D_v); a value is as large as their vision tokens.
    """
    concepts = model.model.concepts
    assert concepts is not None
    for name in ("keys", "bias", "class_keys", "class_bias", "class_concepts"):
        getattr(concepts, name).copy_(torch.from_numpy(getattr(bank, name)))
    if bank.prior is not None:
        concepts.prior.copy_(torch.from_numpy(bank.prior))
    concepts.words.fill_(-1)
    for row, word in enumerate(bank.names):
        ids = tokenizer.encode(" " + word, add_special_tokens=False).ids[:WORD_IDS]
        concepts.words[row, : len(ids)] = torch.tensor(ids, dtype=torch.float32)
    width, fusion = model.config.hidden_size, model.model.fusion
    passed = _effective(fusion.o_proj) @ _effective(fusion.kv_proj)[width:]
    wanted = _effective(model.lm_head) * model.model.decoder.norm.weight
    was_training = model.training
    model.eval()
    size = float(model.model.vision(features).square().mean().sqrt())
    model.train(was_training)
    concepts.begin_values(passed, wanted, size)


def _effective(layer: BitLinear) -> Tensor:
    """The weights as the layer multiplies them."""
    if layer.quantization == "none":
        return layer.weight
    codes, scale = quantize_weight(layer.weight)
    return codes * scale
