"""Writing token after token: greedily, by chance, or by beam search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bitmar.runtime.backend import State
from bitmar.runtime.options import GenerationOptions


def sample(state: State, eos: int, options: GenerationOptions) -> Iterator[int]:
    """Tokens one by one after the prompt that `state` has read; the end token itself is not given."""
    rng = np.random.default_rng(options.seed) if options.temperature else None
    token = None
    for _ in range(options.max_tokens):
        token = state.next(token, options, rng.random() if rng else 0.0)
        if token == eos:
            return
        yield token


@dataclass(frozen=True, slots=True)
class Beam:
    """A hypothesis. score: log-probability, once finished divided by length^penalty."""

    score: float
    tokens: tuple[int, ...]
    ended: bool = False


def beam_search(state: State, eos: int, beams: int, options: GenerationOptions) -> list[Beam]:
    """The finished hypotheses after the prompt that `state` has read, best first, by the rules of transformers.

    Of the 2 * beams best continuations, one that ends is kept as finished if it is among the first `beams`;
    the others go on. The search stops when no running beam can, at its present length, beat the worst
    finished one (`early_stopping=False` there).
    """
    running, finished = [Beam(0.0, ())], list[Beam]()
    for length in range(1, options.max_tokens + 1):
        ids, scores = state.candidates(2 * beams, options.repetition_penalty)
        scores = scores + np.array([[beam.score] for beam in running], np.float32)
        best = np.argsort(-scores.reshape(-1), kind="stable")[: 2 * beams]
        alive: list[tuple[int, Beam]] = []
        for rank, place in enumerate(best.tolist()):
            source, choice = divmod(place, scores.shape[1])
            token, score = int(ids[source, choice]), float(scores[source, choice])
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
        sources = np.array([source for source, _ in alive])
        state.branch(sources, np.array([beam.tokens[-1] for beam in running]))
    return finished
