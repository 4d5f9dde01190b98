"""Attention of a model while it captions a photo: one row of weights for each word."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError, ImageError
from bitmar.core.image import PhotoSource, load_photo
from bitmar.core.ternary import F32
from bitmar.plots.trace import Tracer
from bitmar.runtime.text import encode
from bitmar.session.session import Session

BEGIN = "(begin)"


@dataclass(frozen=True)
class WordTrace:
    """A caption word by word; a word of several tokens has the mean of their steps. Every row of weights sums to 1.

    photo: as it was read. words: (n,). vision: (n, side, side), patches by row and column. text: (n, n + 1), on the
    begin token and each word so far, mean over the decoder's layers and heads. reads: (n, K), None without a memory.
    log_probabilities: (n,), of the whole word. slots: what remembered slots hold.
    sinks: S, the first tokens that attention never loses.
    """

    photo: Image.Image
    words: list[str]
    vision: F32
    text: F32
    reads: F32 | None
    log_probabilities: F32
    slots: dict[int, str]
    sinks: int

    @property
    def caption(self) -> str:
        """The words as one text."""
        return " ".join(self.words)


def trace_caption(
    model: BitMar, photo: PhotoSource, *, text: str | None = None, session: Session | None = None, max_tokens: int = 24
) -> WordTrace:
    """Trace the caption that the model writes, or `text` as if it had written it.

    Raises ImageError for a model without a vision tower, ConfigError for a text without words.
    """
    if model.engine.tower is None:
        raise ImageError("this model has no vision tower, so there is no photo that it could look at")
    picture = load_photo(photo)
    image = model.encode_image(picture)
    memory = session.state_for(model, lambda: model.query("", image)) if session else None
    if text is None:
        written = list(model.generate("", image, memory=memory, max_tokens=max_tokens).tokens)
    else:
        written = encode(model.tokenizer, text)[:max_tokens]
    words, spans = group_words([model.tokenizer.decode([token]) for token in written])
    if not words:
        raise ConfigError("there is no word to trace: the model wrote nothing" if text is None else "the text is empty")
    ids = np.array([model.config.bos_token_id, *written])
    trace = Tracer(model.container).run(ids[:-1], image, memory)  # the step that wrote token t stands at t - 1
    assert trace.vision is not None  # there is an image
    side = round(trace.vision.shape[1] ** 0.5)
    scores = model.score_ids(ids, image, memory=memory)
    decoder = np.mean(trace.decoder, axis=0)  # (T, T)
    return WordTrace(
        photo=picture,
        words=words,
        vision=_by_word(trace.vision, spans).reshape(len(words), side, side),
        text=_on_words(_by_word(decoder, spans), spans),
        reads=None if trace.reads is None else _by_word(trace.reads, spans),
        log_probabilities=np.array([scores[a:b].sum() for a, b in spans], np.float32),
        slots={episode.slot: episode.text for episode in session.inspect()} if session else {},
        sinks=model.config.attention_sinks,
    )


def group_words(pieces: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Words from the text of each token, and which tokens (from, to) each of them is."""
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    for i, piece in enumerate(pieces):
        starts = piece[:1].isspace() or not piece[:1].isalnum()
        if words and not starts:
            words[-1] += piece
            spans[-1] = (spans[-1][0], i + 1)
        else:
            words.append(piece.strip())
            spans.append((i, i + 1))
    kept = [(word, span) for word, span in zip(words, spans, strict=True) if word]
    return [word for word, _ in kept], [span for _, span in kept]


def _by_word(weights: F32, spans: list[tuple[int, int]]) -> F32:
    """Rows of tokens (T, m) -> rows of words (n, m)."""
    return np.stack([weights[a:b].mean(axis=0) for a, b in spans])


def _on_words(weights: F32, spans: list[tuple[int, int]]) -> F32:
    """Columns of tokens, the begin token first (n, T) -> columns begin and words (n, n + 1)."""
    columns = [weights[:, 0], *(weights[:, a + 1 : b + 1].sum(axis=1) for a, b in spans)]
    return np.stack(columns, axis=1)
