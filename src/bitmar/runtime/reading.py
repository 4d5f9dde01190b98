"""Reading a text of any length: sinks and a window in both stacks, so that memory and time per token stay constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bitmar.core.errors import ConfigError
from bitmar.runtime.text import encode

if TYPE_CHECKING:
    from bitmar.runtime.api import BitMar


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a stream. tokens: in it; log_probability: their sum, natural; seconds: the engine's time for it."""

    tokens: int
    log_probability: float
    seconds: float

    @property
    def perplexity(self) -> float:
        """e^(-log-probability per token)."""
        return float(np.exp(-self.log_probability / self.tokens))


def read_stream(model: BitMar, state: Any, texts: Iterable[str], every: int) -> Iterator[Passage]:
    """Scores the texts as one sequence behind the begin token, `every` tokens at a time; the last passage is shorter.

    state: of `model.engine.start`. The texts are cut where the caller cut them, so a caller cuts at line ends.
    Raises TokenizerError for text that is not valid Unicode, ConfigError for `every` below 1.
    """
    if every < 1:
        raise ConfigError(f"a passage needs at least one token, not {every}")
    last = model.config.bos_token_id
    waiting: list[int] = []

    def passage(count: int) -> Passage:
        nonlocal last
        ids = np.array([last, *waiting[:count]])
        del waiting[:count]
        start = perf_counter()
        scores = model.engine.score(ids, state)
        seconds = perf_counter() - start
        last = int(ids[-1])
        return Passage(count, float(scores.sum(dtype=np.float64)), seconds)

    for text in texts:
        waiting.extend(encode(model.tokenizer, text))
        while len(waiting) >= every:
            yield passage(every)
    if waiting:
        yield passage(len(waiting))
