"""Concept tokens: what the backbone's classes and the captions' words say is in a photo, told to the text in words.

A bank of frozen keys is read with the mean patch feature, as eq. 2 reads the memory: of K concepts the `tokens` best
become vision tokens. What they hold are the concepts' values, which begin such that what passes the fusion raises the
logit of the concept's own word: so a word that was learned from text alone can be said of a photo.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor
from transformers import LogitsProcessor

from .bitlinear import quantize_activation
from .configuration_bitmar import BitMarConfig

HEARD, SUREST = 0.15, 0.99  # concepts that score less are no evidence; log-odds go no farther
WORD_IDS = 6  # token ids of a concept's word, at most


class ConceptBank(nn.Module):
    """K concepts found by frozen keys in patch features of width D_v.

    The score of a concept is the larger of sigmoid(key . p + bias) and the probability of its classes in the softmax
    over all class keys; p is the mean patch feature, in int8.
    """

    keys: Tensor
    bias: Tensor
    class_keys: Tensor
    class_bias: Tensor
    class_concepts: Tensor
    words: Tensor
    prior: Tensor

    def __init__(self, config: BitMarConfig) -> None:
        super().__init__()
        k, n, d = config.concepts, config.concept_classes, config.hidden_size
        self.tokens, self.weight = config.concept_tokens, config.concept_evidence
        own, width = config.concept_keys or k, config.concept_class_width or config.vision_dim
        self.register_buffer("keys", torch.zeros(own, config.vision_dim))
        self.register_buffer("bias", torch.zeros(own))
        self.register_buffer("class_keys", torch.zeros(n, width))
        self.register_buffer("class_bias", torch.zeros(n))
        self.register_buffer("class_concepts", torch.full((n,), -1.0))  # -1: no concept
        self.register_buffer("words", torch.full((k, WORD_IDS), -1.0))  # -1: padding
        self.register_buffer("prior", torch.zeros(k))  # log-odds of every concept in any photo
        self.values = nn.Parameter(torch.zeros(k, d))
        self.strength = nn.Parameter(torch.zeros(d))
        self.offset = nn.Parameter(torch.zeros(d))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConceptBank:
        """Numbers stay numbers where weights become shorter: bfloat16 holds integers up to 256 only."""
        before = {name: getattr(self, name) for name in ("words", "class_concepts")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            if getattr(self, name).dtype != value.dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Patch features (B, N_p, D_v) -> scores in [0, 1] (B, K)."""
        codes, scale = quantize_activation(features.float().mean(1))  # a device reads int8 keys with an int8 feature
        p = codes * scale
        own = p.new_zeros(len(p), len(self.values))
        own[:, : len(self.bias)] = torch.sigmoid(p @ self.keys.float().T + self.bias.float())
        if not len(self.class_bias):
            return own
        if self.class_concepts.dtype != torch.float32:
            raise TypeError(
                f"the concepts' numbers became {self.class_concepts.dtype} on loading, as transformers 4 does; "
                "load in float32, and convert the model afterwards"
            )
        seen = p[:, -self.class_keys.shape[1] :]
        shares = (seen @ self.class_keys.float().T + self.class_bias.float()).softmax(-1)
        known = self.class_concepts >= 0
        of_class = torch.zeros_like(own).index_add_(1, self.class_concepts[known].long(), shares[:, known])
        return torch.maximum(own, of_class)

    def find(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features (B, N_p, D_v) -> the best concepts, best first: numbers and scores (B, k)."""
        scores, ids = self.scores(features).topk(self.tokens, dim=-1)
        return ids, scores

    def forward(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Concepts (B, k) with their scores -> vision tokens (B, k, d)."""
        return self.values[ids] + scores.unsqueeze(-1).to(self.values.dtype) * self.strength + self.offset

    @torch.no_grad()
    def begin_values(self, passed: Tensor, wanted: Tensor, size: float) -> None:
        """Start the values where the fusion passes what says their words.

        passed (d, d): from a vision token to what attention to it adds. wanted (V, d): by token id, what must be added
        to raise its logit. size: root mean square of a value. By least squares with a ridge.
        """
        target = wanted[self.words[:, 0].long().clamp(min=0)]
        target = target - target.mean(0)
        ridge = 0.05 * passed.square().sum() / len(passed) * torch.eye(len(passed))
        values = target @ passed @ torch.linalg.inv(passed.T @ passed + ridge)
        self.values.copy_(size * values / values.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6))

    def evidence(self, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Concepts (B, k) with their scores -> tokens, the bonus of each, and the token that it must follow (B, n).

        The bonus is the weight of the evidence: log-odds here less log-odds in any photo, at least 0; a concept that is
        hardly heard has none. -1 in place of a token that must be followed: the first of a word.
        """
        heard = scores.float().clamp(max=SUREST)
        bonus = self.weight * ((heard / (1 - heard)).log() - self.prior[ids]).clamp(min=0) * (scores >= HEARD)
        words = self.words[ids].long()  # (B, k, L)
        after = nn.functional.pad(words[..., :-1], (1, 0), value=-1)
        bonus = bonus.unsqueeze(-1) * (words >= 0)
        return words.clamp(min=0).flatten(1), bonus.flatten(1), after.flatten(1)

    @torch.no_grad()
    def bonus(self, input_ids: Tensor, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Written tokens (B, T) beside concepts (B, k): tokens (B, n), and what each gains at every place (B, T, n)."""
        evidence = ConceptEvidence(*self.evidence(ids, scores))
        return evidence.ids, evidence.over(input_ids)


class ConceptEvidence(LogitsProcessor):
    """Raises the logits of what a photo speaks for: a word's first token until it is written, the others in their turn.

    ids, bonus, after (B, n); of equal ids after equal ones the first counts.
    """

    def __init__(self, ids: Tensor, bonus: Tensor, after: Tensor) -> None:
        same = (ids.unsqueeze(2) == ids.unsqueeze(1)) & (after.unsqueeze(2) == after.unsqueeze(1))
        counts = (bonus > 0).unsqueeze(1)
        again = (same & counts).tril(-1).any(2)
        self.ids, self.bonus, self.after = ids, bonus.masked_fill(again, 0.0), after

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Written tokens (B, T) and logits (B, V) -> logits (B, V)."""
        if input_ids.shape[1] < 2:  # a sentence begins as sentences do
            return scores
        times = len(scores) // len(self.ids)  # beams, or several sequences of one photo
        ids, bonus, after = (x.repeat_interleave(times, 0) for x in (self.ids, self.bonus, self.after))
        said = (input_ids.unsqueeze(1) == ids.unsqueeze(2)).any(2)
        due = torch.where(after < 0, ~said, after == input_ids[:, -1:])
        return scores.scatter_add(1, ids, bonus.masked_fill(~due, 0.0).to(scores.dtype))

    def over(self, input_ids: Tensor) -> Tensor:
        """The bonus of `ids` after every prefix of (B, T) tokens, as calls on each would give it: (B, T, n)."""
        here = input_ids.unsqueeze(2) == self.ids.unsqueeze(1)
        said = here.cummax(1).values
        after = self.after.unsqueeze(1)
        due = torch.where(after < 0, ~said, after == input_ids.unsqueeze(2))
        due[:, 0] = False  # a sentence begins as sentences do
        return self.bonus.unsqueeze(1) * due
