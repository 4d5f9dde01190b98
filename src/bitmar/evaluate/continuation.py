"""Continuations of a text in the runtime, for tasks that compare answers or let the model write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError
from bitmar.core.ternary import F32
from bitmar.runtime.backend import Backend
from bitmar.runtime.cache import I64
from bitmar.runtime.generate import sample
from bitmar.runtime.layers import log_softmax
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.text import TextStream

_PIECE = 256  # tokens of one forward over all options, so that attention's T x T stays small


class Continuation(NamedTuple):
    """The end of a text, given its beginning.

    log_probability: natural, of all its tokens together. greedy: whether each of them is the likeliest one there.
    """

    log_probability: float
    greedy: bool


def compare(engine: Backend, prefix: I64, options: Sequence[Sequence[int]]) -> list[Continuation]:
    """Each of the options (token ids) after one prefix (T,), T >= 1, which is read once for all of them."""
    state = engine.start()
    if len(prefix) > 1:
        state.read(prefix[:-1])
    first = log_softmax(state.logits(prefix[-1:]))  # (1, V): a single-token option needs nothing else
    totals, greedy = np.zeros(len(options)), np.ones(len(options), bool)

    def count(option: int, scores: F32, tokens: Sequence[int]) -> None:
        totals[option] += scores[np.arange(len(tokens)), tokens].sum(dtype=np.float64)
        greedy[option] &= bool((scores.argmax(axis=-1) == tokens).all())

    for i, option in enumerate(options):
        if option:
            count(i, first, option[:1])
    longer = [i for i, option in enumerate(options) if len(option) > 1]
    if longer:
        # All at once, padded on the right: what follows a token does not change it.
        inputs = np.zeros((len(longer), max(len(options[i]) for i in longer) - 1), np.int64)
        for row, i in enumerate(longer):
            inputs[row, : len(options[i]) - 1] = options[i][:-1]
        state.select(np.zeros(len(longer), np.int64))
        for start in range(0, inputs.shape[1], _PIECE):
            hidden = state.forward(inputs[:, start : start + _PIECE])
            for row, i in enumerate(longer):
                tokens = options[i][start + 1 : start + 1 + _PIECE]
                if tokens:
                    count(i, log_softmax(engine.head(hidden[row, : len(tokens)])), tokens)
    return [Continuation(float(total), bool(flag)) for total, flag in zip(totals, greedy, strict=True)]


def write(
    engine: Backend, tokenizer: Tokenizer, prefix: I64, eos: int, options: GenerationOptions, until: Sequence[str]
) -> str:
    """The continuation of a prefix (T,), T >= 1, up to the first of the texts `until`, which is left out."""
    state, text, stream = engine.start(), "", TextStream(tokenizer)
    state.read(prefix)
    for token in sample(state, eos, options):
        text += stream.push(token)
        if any(stop in text for stop in until):
            return cut(text, until)
    return cut(text + stream.finish(), until)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first place where one of `until` begins."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]


def check_write(options: GenerationOptions) -> None:
    """Writing up to a stop text follows one hypothesis at a time. Beams: ConfigError."""
    if options.searches:
        raise ConfigError("texts with stop sequences are written without beams")
