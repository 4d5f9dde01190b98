"""Reading a text of any length: sinks and a window in both stacks, so that memory and time per token stay constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TextIO

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError, TokenizerError
from bitmar.core.ternary import F32
from bitmar.runtime.backend import State
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.options import whole
from bitmar.runtime.text import encode
from bitmar.session import session
from bitmar.session.session import Session

_PIECE = 1 << 12  # characters of a file that are taken at once, should its lines be longer


class Model(session.Model, Protocol):
    """The interface of a model to a reader, wider than a session's; `BitMar` has it."""

    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a stream.

    scores: natural log-probability of each of its tokens, float32 (T,). seconds: the engine's time for it, writing to
    the memory included. memory: what a stream that remembers without a session has written so far.
    """

    scores: F32
    seconds: float
    memory: MemoryState | None = None

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.scores)

    @property
    def log_probability(self) -> float:
        """The sum of the scores."""
        return float(self.scores.sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """e^(-log-probability per token)."""
        return float(np.exp(-self.log_probability / self.tokens))


class Reader:
    """One sequence, beginning with the begin token; where a segment ends it is remembered, if `remember` says so.

    state: of `model.engine.start`. Remembered is into the session, as an episode of the segment's text with its query,
    or without one into the state's own memory by the model's write rule (eq. 1). Either way the next segment reads it.
    """

    def __init__(self, model: Model, state: State, session: Session | None, remember: bool) -> None:
        self.model, self.state, self.session = model, state, session
        self.memory: MemoryState | None = None
        self._last = model.config.bos_token_id  # scored already, and read along with what follows it
        self._remember = remember
        self._segment: list[int] = []  # what was read of it

    def read(self, ids: list[int]) -> F32:
        """The score of each of these tokens (T,), T >= 1."""
        if not self._remember:
            return self._score(ids)
        scores = []
        while ids:
            room = self.model.config.memory_segment - len(self._segment)
            self._segment += [self._last, *ids[:room]][:-1]
            scores.append(self._score(ids[:room]))
            ids = ids[room:]
            if len(self._segment) == self.model.config.memory_segment:
                self._end_segment()
        return np.concatenate(scores)

    def finish(self) -> None:
        """The text is over, and with it its last segment."""
        if self._remember:
            self._segment.append(self._last)
            self.state.query(np.array([self._last]))
            self._end_segment()

    def _score(self, ids: list[int]) -> F32:
        scores = self.state.score(np.array([self._last, *ids]))
        self._last = ids[-1]
        return scores

    def _end_segment(self) -> None:
        segment, self._segment = self._segment, []
        if self.session is None:
            self.memory = self.state.write_memory()
            return
        begin = self.model.config.bos_token_id  # which no text contains
        text = self.model.tokenizer.decode([token for token in segment if token != begin])
        if text.strip():
            query = self.state.last_query()
            self.session.note(text, query)
            self.state.replace_memory(self.session.state_for(self.model, lambda: query))


def read_stream(reader: Reader, texts: str | TextIO | Iterable[str], every: int) -> Iterator[Passage]:
    """Reads the texts as one, in passages of `every` tokens; the last one is shorter.

    Raises ConfigError for `every` below 1, at once; while it reads TokenizerError for text that is not valid Unicode,
    MemoryFileError.
    """
    if whole("every", every) < 1:
        raise ConfigError(f"a passage needs at least one token, not {every}")
    waiting: list[int] = []

    def passage(count: int, *, last: bool = False) -> Passage:
        ids = waiting[:count]
        del waiting[:count]
        start = perf_counter()
        scores = reader.read(ids)
        if last:
            reader.finish()
        return Passage(scores, perf_counter() - start, reader.memory)

    def passages() -> Iterator[Passage]:
        for text in pieces(texts):
            waiting.extend(encode(reader.model.tokenizer, text))
            while len(waiting) > every:  # one more, so that the last passage is known to be the last
                yield passage(every)
        if waiting:
            yield passage(len(waiting), last=True)

    return passages()


def pieces(texts: str | TextIO | Iterable[str]) -> Iterator[str]:
    """A text as it is; an open file by lines, long ones in parts that end before a space, as tokens do."""
    if isinstance(texts, str):
        yield texts
        return
    readline = getattr(texts, "readline", None)
    if readline is None:
        yield from texts
        return
    rest = ""
    while read := readline(_PIECE):
        if not isinstance(read, str):
            raise TokenizerError("this file was opened as binary: open it as text, with its encoding")
        line = rest + read
        space = -1 if line.endswith("\n") else line.rfind(" ")
        cut = space if space > 0 else len(line)
        yield line[:cut]
        rest = line[cut:]
    if rest:
        yield rest
