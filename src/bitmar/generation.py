"""Writing: what a text begins with, how it goes on, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, Protocol

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.config import ModelConfig
from bitmar.core.ternary import F32
from bitmar.core.vocabulary import Vocabulary
from bitmar.runtime.backend import State
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.confidence import DOUBTFUL, Witness
from bitmar.runtime.generate import Beam, beam_search, sample
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.rerank import BEAMS, BEGINNINGS, plainer, worth
from bitmar.runtime.text import TextStream, encode
from bitmar.session.recite import as_sentence, rest_of, to_recite
from bitmar.session.session import Recalled, Session


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent on the picture (0 for prepared `ImageTokens`), on the prompt, and on the new tokens."""

    image: float
    prompt: float
    decode: float


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of generation: text and tokens without the prompt, and why it ended ("stop": by itself).

    recalled: the episode nearest to the picture, where a session and a picture were given. recited: how many characters
    at the beginning of the text are copied from it. confidence: of a caption, the chance that it is about the right
    thing; None for other texts and for models without concepts. general: what is sure of the photo in general.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    timings: Timings
    recalled: Recalled | None = None
    recited: int = 0
    confidence: float | None = None
    general: str | None = None


class Caption(str):
    """A sentence on a photo, and how far it can be trusted: `confidence` and `general` as in `Generation`."""

    confidence: float | None
    general: str | None

    def __new__(cls, text: str, confidence: float | None = None, general: str | None = None) -> Caption:
        self = super().__new__(cls, text)
        self.confidence, self.general = confidence, general
        return self

    @property
    def doubtful(self) -> bool:
        """Whether it is more likely wrong than right about what the photo shows."""
        return self.confidence is not None and self.confidence < DOUBTFUL


class Model(Protocol):
    """What writing needs of a model beside the state; `BitMar` is one."""

    config: ModelConfig
    tokenizer: Tokenizer

    @property
    def witness(self) -> Witness | None: ...

    def likelihood(self, tokens: Sequence[int], image: ImageTokens) -> float: ...


class Writing:
    """A text that has begun: its prompt is read, or there is something to recite in its place.

    start: gives an empty state about `image`, with the memory of the call. session: of the device, to recall the
    picture from. times: when the call began, and when its picture was encoded.
    """

    def __init__(
        self,
        model: Model,
        start: Callable[[], State],
        text: str,
        prompt: I64,
        image: ImageTokens | None,
        session: Session | None,
        recite: bool,
        options: GenerationOptions,
        times: tuple[float, float],
    ) -> None:
        self._model, self._start, self._prompt, self._options = model, start, prompt, options
        self._state = start()
        self._captioned = None if text else image  # the photo that the text describes, where it is a caption
        self._recalled: Recalled | None = None
        self._recital: list[int] = []  # tokens that are said in place of the model's own
        self._recited = 0  # characters of them that are remembered
        if image is not None and session is not None:
            self._recalled = next(iter(session.recall(image=image)), None)
            if recite:
                words, self._recited = as_sentence(rest_of(to_recite(self._recalled), text))
                self._recital = encode(model.tokenizer, words)
        if not self._recital:
            self._state.read(prompt)
        self._times = (*times, perf_counter())

    def at_once(self) -> Generation:
        """The whole text."""
        return self._result(tuple(self._tokens()))

    def pieces(self) -> Generator[str, None, Generation]:
        """The text piece by piece, never half a character; returns what `at_once` would."""
        written, tokens = TextStream(self._model.tokenizer), list[int]()
        for token in self._tokens():
            tokens.append(token)
            if piece := written.push(token):
                yield piece
        if rest := written.finish():
            yield rest
        return self._result(tuple(tokens))

    def _tokens(self) -> Iterator[int]:
        options, eos = self._options, self._model.config.eos_token_id
        if self._recital:
            return iter(self._recital[: options.max_tokens])
        if options.beams is not None and options.searches:
            return iter(_without_end(beam_search(self._state, eos, options.beams, options)[0]))
        image, witness = self._captioned, self._model.witness
        token_by_token = options.beams == 1 or options.temperature > 0
        if token_by_token or image is None or image.concepts is None or witness is None:
            return sample(self._state, eos, options)
        return iter(self._borne_out(image, image.concepts, witness.vocabulary))

    def _borne_out(self, image: ImageTokens, scores: F32, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Of several captions the one that the photo bears out (`rerank`)."""
        options, eos, decode = self._options, self._model.config.eos_token_id, self._model.tokenizer.decode
        beams = min(BEAMS, self._model.config.vocab_size // 2)
        candidates = [_without_end(beam) for beam in beam_search(self._state, eos, beams, options)]
        for beginning in BEGINNINGS:
            begun = encode(self._model.tokenizer, beginning)
            if (left := options.max_tokens - len(begun)) > 0:
                state = self._start()
                state.read(np.append(self._prompt, begun))
                candidates.append((*begun, *sample(state, eos, replace(options, max_tokens=left))))
        texts = (plainer(decode(list(tokens)), vocabulary) for tokens in candidates)
        candidates += [tuple(encode(self._model.tokenizer, text)) for text in list(texts) if text is not None]

        def value(tokens: tuple[int, ...]) -> float:
            log_probability = (len(tokens) + 1) * self._model.likelihood(tokens, image)
            return worth(decode(list(tokens)), log_probability, scores, vocabulary)

        return max(dict.fromkeys(candidates), key=value)

    def _result(self, tokens: tuple[int, ...]) -> Generation:
        start, seen, begun = self._times
        timings = Timings(seen - start, begun - seen, perf_counter() - begun)
        text = self._model.tokenizer.decode(list(tokens))
        # A recital ends where all of it is said; a text of the model's own with an end token, which is not in `tokens`.
        whole = len(tokens) == len(self._recital) if self._recital else len(tokens) < self._options.max_tokens
        confidence, general = (None, None) if self._recital else self._trust(text, tokens)
        recited = min(self._recited, len(text))
        reason: Literal["stop", "length"] = "stop" if whole else "length"
        return Generation(text, tokens, reason, timings, self._recalled, recited, confidence, general)

    def _trust(self, text: str, tokens: tuple[int, ...]) -> tuple[float | None, str | None]:
        image, witness = self._captioned, self._model.witness
        if image is None or image.concepts is None or witness is None or not tokens:
            return None, None
        likelihood = self._model.likelihood(tokens, image)
        return witness.confidence(text, likelihood, image.concepts), witness.general(image.concepts)


def _without_end(beam: Beam) -> tuple[int, ...]:
    return beam.tokens[:-1] if beam.ended else beam.tokens
