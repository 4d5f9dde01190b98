"""A concept bank: keys that find concepts in a photo's pooled patch features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bitmar.core.errors import FormatError
from bitmar.core.files import write_atomically

_FLOATS = ("keys", "bias", "class_keys", "class_bias")

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConceptBank:
    """names: K concepts, of which the first k have keys of their own: keys (k, D_v), bias (k,).

    class_keys (n, D_c), which read the last D_c channels; class_bias (n,), class_concepts (n,). prior (K,): log-odds of
    every concept in any photo, where that was measured.
    """

    names: tuple[str, ...]
    keys: F32
    bias: F32
    class_keys: F32
    class_bias: F32
    class_concepts: npt.NDArray[np.int64]
    prior: F32 | None = None

    def class_scores(self, pooled: F32) -> F32:
        """Mean patch features (n, D_v) -> what the classes say of every concept (n, K)."""
        scores = np.zeros((len(pooled), len(self.names)), np.float32)
        if not len(self.class_bias):
            return scores
        logits = pooled[:, -self.class_keys.shape[1] :] @ self.class_keys.T + self.class_bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        known = self.class_concepts >= 0
        np.add.at(scores.T, self.class_concepts[known], p.T[known])
        return scores

    def scores(self, pooled: F32) -> F32:
        """Mean patch features (n, D_v) -> scores in [0, 1] (n, K)."""
        scores = self.class_scores(pooled)
        own = scores[:, : len(self.bias)]
        np.maximum(own, 1 / (1 + np.exp(-(pooled @ self.keys.T + self.bias))), out=own)
        return scores

    def save(self, path: str | Path) -> None:
        """As safetensors; the names stand in the metadata."""
        tensors = {name: getattr(self, name) for name in _FLOATS}
        tensors["class_concepts"] = self.class_concepts.astype(np.int32)
        if self.prior is not None:
            tensors["prior"] = self.prior
        write_atomically(Path(path), save(tensors, {"names": "\n".join(self.names)}))

    @classmethod
    def load(cls, path: str | Path) -> ConceptBank:
        """Read what `save` wrote. Raises FormatError for anything else."""
        try:
            with safe_open(path, "numpy") as file:
                names = tuple((file.metadata() or {})["names"].split("\n"))
                floats = {name: file.get_tensor(name) for name in _FLOATS}
                classes = file.get_tensor("class_concepts").astype(np.int64)
                prior = file.get_tensor("prior") if "prior" in file.keys() else None  # noqa: SIM118
        except (OSError, KeyError, SafetensorError) as error:
            raise FormatError(f"{path} is no concept bank ({error}): run the stage that fits it again") from error
        bank = cls(names, **floats, class_concepts=classes, prior=prior)
        if len(bank.keys) > len(names) or bank.keys.shape[1] < bank.class_keys.shape[1]:
            raise FormatError(f"{path}: {len(names)} concepts, but keys {bank.keys.shape}: run its stage again")
        return bank
