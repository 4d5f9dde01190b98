"""Tasks of the memory ablation in which nothing has to be recalled: long documents, captions, grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from bitmar.api import BitMar
from bitmar.core.errors import DependencyError
from bitmar.data.text import clean_text
from bitmar.evaluate.ablation_measure import PERPLEXITY, Measure
from bitmar.evaluate.ablation_variants import ON, UNWRITTEN
from bitmar.evaluate.coco_metrics import cider_by_photo, tokenize
from bitmar.evaluate.figure import F64
from bitmar.evaluate.tasks.babylm.choices import Choice
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.layers import log_softmax
from bitmar.runtime.memory import MemoryState, Write
from bitmar.runtime.text import encode

_CHUNK = 512  # tokens whose logits exist at the same time

Tick = Callable[[], None]


def document_ids(model: BitMar, documents: Sequence[str], most: int) -> list[I64]:
    """The first `most` of the documents that exceed the window by a segment, and are two pieces: ids, begin first."""
    config = model.config
    window = config.attention_sinks + config.attention_window
    least = 1 + max(window + config.memory_segment, 2 * config.sequence_length)
    long: list[I64] = []
    for document in documents:
        if len(long) == most:
            break
        ids = np.array([config.bos_token_id, *encode(model.tokenizer, document)])
        if len(ids) >= least:
            long.append(ids)
    return long


def documents(models: Mapping[str, BitMar], texts: Sequence[I64], tick: Tick) -> list[Measure]:
    """Perplexity of long documents (T,), read in two ways; the memory begins at M_0 with each of them.

    As one stream: attention reaches back over sinks and window, every segment is written when it ends, and what it
    wrote is read from then on. In pieces: each piece of `sequence_length` tokens is read without those before it, and
    the memory, written after each, is the only way from one to the next; the first piece does not count.
    """
    config = models[ON].config
    reach = config.attention_sinks + config.attention_window
    streams: dict[str, list[F64]] = {}
    pieces: dict[str, list[F64]] = {}
    for ids in texts:
        for name, model, write in _ways(models):
            streams.setdefault(name, []).append(-_stream(model, ids, write))
            pieces.setdefault(name, []).append(-_in_pieces(model, ids, write, config.sequence_length))
        tick()

    def measure(name: str, losses: Mapping[str, list[F64]], first: int) -> Measure:
        values = {way: np.array([loss[first:].sum() for loss in found]) for way, found in losses.items()}
        weights = np.array([len(loss) - first for loss in losses[ON]], np.float64)
        return Measure("long documents", name, PERPLEXITY, "lower", values, weights)

    return [
        measure("one stream", streams, 0),
        measure(f"one stream, tokens past the first {reach}", streams, reach),
        measure(f"pieces of {config.sequence_length} tokens, read alone", pieces, 0),
    ]


def _ways(models: Mapping[str, BitMar]) -> Iterator[tuple[str, BitMar, Write]]:
    yield UNWRITTEN, models[ON], Write.NEVER
    for name, model in models.items():
        has_memory = model.config.memory_integration != "off"
        yield name, model, Write.ENDED if has_memory else Write.NEVER


def _stream(model: BitMar, ids: I64, write: Write) -> F64:
    """Log-probability (T - 1,) of each id but the first."""
    engine = model.engine
    state = engine.start()
    found = []
    for start in range(0, len(ids) - 1, _CHUNK):
        piece = ids[start : min(start + _CHUNK, len(ids) - 1)]
        hidden = state.forward(piece[None], write)[0]
        scores = log_softmax(engine.head(hidden))
        found.append(scores[np.arange(len(piece)), ids[start + 1 : start + 1 + len(piece)]])
    return np.concatenate(found).astype(np.float64)


def _in_pieces(model: BitMar, ids: I64, write: Write, length: int) -> F64:
    """Log-probability of each id from the second piece on, every piece after a begin token of its own."""
    engine, begin, text = model.engine, ids[:1], ids[1:]
    memory: MemoryState | None = None
    found = []
    for start in range(0, len(text), length):
        piece = np.concatenate((begin, text[start : start + length]))
        if start:
            found.append(engine.start(None, memory).score(piece))
        if write is not Write.NEVER:
            memory = engine.start(None, memory).remember(piece)
    return np.concatenate(found).astype(np.float64)


def captions(
    models: Mapping[str, BitMar], images: Sequence[ImageTokens], references: Sequence[Sequence[str]], tick: Tick
) -> tuple[list[Measure], str | None]:
    """How likely people's captions are, and how good the model's own are, with M_0 to read: nothing is written.

    Returns the measures, and why CIDEr is missing where it is.
    """
    texts = [[clean_text(text, "caption") for text in group] for group in references]
    likelihood: dict[str, list[float]] = {name: [] for name in models}
    written: dict[str, list[str]] = {name: [] for name in models}
    tokens = []
    for image, group in zip(images, texts, strict=True):
        for name, model in models.items():
            scores = np.concatenate([model.score(text, image) for text in group])
            likelihood[name].append(float(scores.sum(dtype=np.float64)))
            written[name].append(model.caption(image))
        tokens.append(len(scores))
        tick()
    values = {name: np.array(found) for name, found in likelihood.items()}
    measures = [
        Measure(
            "captions", "people's captions", "log-probability a token", "higher", values, np.array(tokens, np.float64)
        )
    ]
    try:
        cider = _cider(written, references)
    except DependencyError as error:
        return measures, str(error)
    ones = np.ones(len(images))
    return [*measures, Measure("captions", "the model's own", "CIDEr", "higher", cider, ones)], None


def _cider(written: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, F64]:
    """CIDEr of every photo's caption (n,), by variant."""
    gold = tokenize(references)
    return {name: cider_by_photo(tokenize([[text] for text in texts]), gold) for name, texts in written.items()}


def grammar(models: Mapping[str, BitMar], pairs: Sequence[Choice], tick: Tick) -> list[Measure]:
    """Share of minimal pairs (BLiMP) whose good sentence is the likelier; a tie counts half."""
    values: dict[str, list[float]] = {name: [] for name in models}
    for pair in pairs:
        for name, model in models.items():
            good, bad = (float(model.score(text).sum(dtype=np.float64)) for text in pair.options)
            values[name].append(0.5 if good == bad else float(good > bad))
        tick()
    found = {name: np.array(points) for name, points in values.items()}
    return [Measure("grammar", "minimal pairs (BLiMP)", "share right", "higher", found, np.ones(len(pairs)))]
