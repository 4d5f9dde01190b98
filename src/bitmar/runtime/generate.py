"""Choosing tokens: greedy, sampling and beam search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bitmar.core.errors import ConfigError, nearest
from bitmar.core.ternary import F32
from bitmar.runtime.cache import DecodingState
from bitmar.runtime.engine import Engine, Ids
from bitmar.runtime.layers import log_softmax, softmax

MAX_BEAMS = 64


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How to choose the next token. The names and their meaning are transformers'.

    max_tokens: stop after so many. temperature: 0 is greedy. top_k: sample from the k likeliest, 0 is all.
    top_p: from the likeliest that together reach this share. repetition_penalty: divides the logits of what
    already stands there (arXiv 1909.05858), 1 is none. seed: makes sampling repeatable. beams: 1 is none;
    length_penalty: a finished beam's score is its log-probability / length^this. Raises ConfigError for a
    value out of range.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_tokens", "top_k", "seed", "beams"):
            value = getattr(self, name)
            if type(value) is not int and not (name == "seed" and value is None):
                raise ConfigError(f"{name} must be a whole number, not {value!r:.80}")
        for name in ("temperature", "top_p", "repetition_penalty", "length_penalty"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not np.isfinite(value):
                raise ConfigError(f"{name} must be a number, not {value!r:.80}")
        allowed = {
            "max_tokens of at least 1": self.max_tokens >= 1,
            "temperature of at least 0 (0 is greedy)": self.temperature >= 0,
            "top_k of at least 0 (0 is all tokens)": self.top_k >= 0,
            "top_p above 0 and up to 1": 0 < self.top_p <= 1,
            "repetition_penalty above 0": self.repetition_penalty > 0,
            "seed of at least 0": self.seed is None or self.seed >= 0,
            f"beams from 1 to {MAX_BEAMS}": 1 <= self.beams <= MAX_BEAMS,
            "temperature 0 beside beams: beam search does not sample": self.beams == 1 or self.temperature == 0,
        }
        for rule, met in allowed.items():
            if not met:
                raise ConfigError(f"generation needs {rule}")

    @classmethod
    def of(cls, **values: Any) -> GenerationOptions:
        """From keyword arguments. Raises ConfigError for an unknown name, with the nearest known one."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"unknown generation option {name!r}{nearest(name, known)}")
        return cls(**values)


def prefill(engine: Engine, state: DecodingState, prompt: Ids) -> F32:
    """Run the prompt (T,), T >= 1, and return the logits (1, V) behind its last token."""
    *_, hidden = engine.stream(prompt, state)
    return engine.head(hidden[-1:])


def sample(
    engine: Engine, state: DecodingState, logits: F32, prompt: Ids, eos: int, options: GenerationOptions
) -> Iterator[int]:
    """Tokens one by one, from the logits (1, V) behind the prompt on; the end token itself is not given."""
    rng = np.random.default_rng(options.seed)
    history = prompt.tolist()
    for count in range(options.max_tokens):
        if count:
            logits = engine.head(engine.forward(np.array([history[-1:]]), state)[:, -1])
        token = choose(penalize(logits, [history], options.repetition_penalty)[0], options, rng)
        if token == eos:
            return
        history.append(token)
        yield token


def choose(logits: F32, options: GenerationOptions, rng: np.random.Generator) -> int:
    """The next token from logits (V,)."""
    if options.temperature == 0:
        return int(logits.argmax())
    logits = logits / np.float32(options.temperature)
    order = np.argsort(-logits, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    probabilities = softmax(logits[order].astype(np.float64))
    # A token stays if the ones before it have not reached top_p yet; the likeliest always does.
    before = np.cumsum(probabilities) - probabilities
    keep = before < options.top_p
    order, probabilities = order[keep], probabilities[keep]
    return int(rng.choice(order, p=probabilities / probabilities.sum()))


def penalize(scores: F32, histories: Sequence[Sequence[int]], penalty: float) -> F32:
    """Lower the scores (B, V) of each history's tokens: divided if positive, multiplied if negative."""
    if penalty == 1:
        return scores
    scores = scores.copy()
    for row, history in zip(scores, histories, strict=True):
        seen = np.unique(history)
        row[seen] = np.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return scores


@dataclass(frozen=True, slots=True)
class Beam:
    """A hypothesis. score: log-probability, once finished divided by length^penalty."""

    score: float
    tokens: tuple[int, ...]
    ended: bool = False


def beam_search(
    engine: Engine, state: DecodingState, logits: F32, prompt: Ids, eos: int, options: GenerationOptions
) -> Beam:
    """The best hypothesis from the logits (1, V) behind the prompt on, by the rules of transformers.

    Of the 2 * beams best continuations, one that ends is kept as finished if it is among the first `beams`;
    the others go on. The search stops when no running beam can, at its present length, beat the worst
    finished one (`early_stopping=False` there).
    """
    beams, vocabulary = options.beams, logits.shape[-1]
    running, finished = [Beam(0.0, ())], list[Beam]()
    for length in range(1, options.max_tokens + 1):
        histories = [[*prompt.tolist(), *beam.tokens] for beam in running]
        scores = penalize(log_softmax(logits), histories, options.repetition_penalty)
        scores = scores + np.array([[beam.score] for beam in running], np.float32)
        best = np.argsort(-scores.reshape(-1), kind="stable")[: 2 * beams]
        alive: list[tuple[int, Beam]] = []
        for rank, place in enumerate(best.tolist()):
            source, token = divmod(place, vocabulary)
            score = float(scores[source, token])
            tokens = (*running[source].tokens, token)
            if token == eos or length == options.max_tokens:
                if rank < beams:
                    finished.append(Beam(score / length**options.length_penalty, tokens, token == eos))
            elif len(alive) < beams:
                alive.append((source, Beam(score, tokens)))
        finished = sorted(finished, key=lambda beam: -beam.score)[:beams]
        if not alive:
            break
        if len(finished) == beams and alive[0][1].score / length**options.length_penalty <= finished[-1].score:
            break
        running = [beam for _, beam in alive]
        state.select(np.array([source for source, _ in alive]))
        newest = np.array([[beam.tokens[-1]] for beam in running])
        logits = engine.head(engine.forward(newest, state)[:, -1])
    return finished[0]
