"""How to choose the next token: what a caller may ask for."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, TypedDict

from bitmar.core.errors import ConfigError, nearest, told

MAX_BEAMS = 64


def whole(name: str, value: object) -> int:
    """A whole number as an int; numpy's are welcome. Raises ConfigError for all else, True and False among it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ConfigError(f"{name} must be a whole number, not {value!r:.80}")
    return int(value)


def number(name: str, value: object) -> float:
    """A finite number as a float; numpy's are welcome. Raises ConfigError for all else, True and False among it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{name} must be a number, not {told(value)}")
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise ConfigError(f"{name} must be a finite number that fits a float")
    return converted


def searches(beams: int | None) -> bool:
    """Whether N beams, or none said, are a beam search, which knows its text only at the end."""
    return beams is not None and beams > 1


class Options(TypedDict, total=False):
    """`GenerationOptions` as keyword arguments."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None
    beams: int | None
    length_penalty: float


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to choose the next token. The names and their meaning are transformers'.

    max_tokens: stop after N tokens. temperature: 0 is greedy. top_k: sample from the k likeliest, 0 is all.
    top_p: from the likeliest that together reach this share. repetition_penalty: divides the logits of what
    already stands there (arXiv 1909.05858), 1 is none. seed: makes sampling repeatable. beams: 1 is none; None is
    none either, but for a caption: that is then the one of several that the photo bears out (`rerank`).
    length_penalty: a finished beam's score is its log-probability / length^this. Raises ConfigError for a
    value of another type or out of range.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    beams: int | None = None
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "seed", "beams"):
            value = getattr(self, name)
            if value is not None or name not in ("seed", "beams"):
                object.__setattr__(self, name, whole(name, value))
        for name in ("temperature", "top_p", "repetition_penalty", "length_penalty"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        allowed = {
            "max_tokens of at least 1": self.max_tokens >= 1,
            "temperature of at least 0 (0 is greedy)": self.temperature >= 0,
            "top_k of at least 0 (0 is all tokens)": self.top_k >= 0,
            "top_p above 0 and up to 1": 0 < self.top_p <= 1,
            # Beyond these a float32 logit, or a length to this power, overflows.
            "repetition_penalty from 0.001 to 1000": 0.001 <= self.repetition_penalty <= 1000,
            "length_penalty from -10 to 10": -10 <= self.length_penalty <= 10,
            "seed of at least 0": self.seed is None or self.seed >= 0,
            f"beams from 1 to {MAX_BEAMS}": self.beams is None or 1 <= self.beams <= MAX_BEAMS,
            "temperature 0 beside beams: beam search does not sample": not self.searches or self.temperature == 0,
        }
        for rule, met in allowed.items():
            if not met:
                raise ConfigError(f"generation needs {rule}")

    @property
    def searches(self) -> bool:
        """Whether beam search was asked for."""
        return searches(self.beams)

    @classmethod
    def of(cls, **values: Any) -> GenerationOptions:
        """From keyword arguments. Raises ConfigError for an unknown name, with the nearest known one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown generation option {name!r}{nearest(name, known)}")
        return cls(**values)
