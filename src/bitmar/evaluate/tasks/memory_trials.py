"""One set of weights with its memory on, off, and as the paper's equations have it: on long documents, captions and
grammar, where nothing has to be recalled, and what the memory costs. `memory` asks what it recalls.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bitmar.api import BitMar
from bitmar.core.container import Container, open_container
from bitmar.core.errors import ConfigError, DependencyError
from bitmar.core.ternary import F32
from bitmar.data.text import clean_text
from bitmar.evaluate.coco_metrics import cider_by_photo, tokenize
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.passages import SENTENCES
from bitmar.evaluate.tasks._first_token import peak_bytes
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.layers import log_softmax
from bitmar.runtime.memory import MemoryState, Write
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.text import encode

if TYPE_CHECKING:
    from bitmar.evaluate.tasks.babylm.choices import Choice

ON, OFF, LITERAL = "on", "off", "literal"
# The weights of ON, with something else in the memory or nothing made of it.
UNWRITTEN, OTHERS, UNRECITED = "unwritten", "others", "unrecited"
MEANING = {
    OFF: "the same weights, no read and no write; they were trained beside a memory, so that part of what is lost "
    "here another training would have put elsewhere",
    ON: "the memory as it was trained",
    LITERAL: "eq. 1 and 2 of the paper to the letter; W_w is the mean learned address, as long as one of them",
    UNWRITTEN: "as on, but nothing is written: what is left is M_0, trained like any other weight",
    OTHERS: "as on, with the episodes of other photos in the memory",
    UNRECITED: "as on, but what the session recalls is not copied: the slots alone speak",
}
"""A description of each variant."""

_WRITE_WEIGHTS, _READ_BETA, _STALE = (f"model.memory.{name}" for name in ("write_weights", "read_beta", "stale"))
_NO_USAGE = np.float32(-40)  # softplus of it is 0

COMPARED = (OFF, UNWRITTEN, OTHERS, UNRECITED, LITERAL)  # each is taken from ON
PERPLEXITY = "perplexity"

_CHUNK = 512  # tokens whose logits exist at the same time

Tick = Callable[[], None]

CONTEXT = 256
RUNS, STEPS = 20, 12  # a run's time is the median of its steps
_PROCESSES = 3
_GREEDY = GenerationOptions()


@dataclass(frozen=True)
class Measure:
    """A figure over units (documents, photos, pairs, runs) that all variants have in common.

    values: per variant a number for each unit (n,). weights: of each unit (n,), such as its number of tokens.
    The figure is the sum of the values by that of the weights, for the unit PERPLEXITY e to that. cost: of time or RAM.
    """

    task: str
    name: str
    unit: str
    better: Literal["lower", "higher"]
    values: Mapping[str, F64]
    weights: F64
    cost: bool = False

    @property
    def units(self) -> int:
        """n."""
        return len(self.weights)

    def figure(self, variant: str) -> float:
        """Of one variant."""
        mean = float(self.values[variant].sum() / self.weights.sum())
        return math.exp(mean) if self.unit == PERPLEXITY else mean

    def difference(self, first: str, second: str) -> Figure:
        """First less second with its 95 % interval over the units, which both get alike; of perplexities, the share.

        Fewer than two units say nothing about chance: their interval has no end.
        """
        found = Figure.bootstrap(self.values[first] - self.values[second], self.weights)
        if self.unit == PERPLEXITY:
            found = found.map(math.expm1)
        return found if self.units > 1 else Figure(found.value, -math.inf, math.inf)

    def verdict(self, first: str, second: str) -> str:
        """Whether having the first and not the second "helps", "hurts", or "no difference shown"."""
        return says(self.difference(first, second), self.better)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`. on_minus: ON less each of the other variants that it has."""
        differences = {name: self.difference(ON, name) for name in COMPARED if name in self.values}
        return {
            "task": self.task,
            "measure": self.name,
            "unit": self.unit,
            "better": self.better,
            "units": self.units,
            "figures": {name: self.figure(name) for name in self.values},
            "on_minus": plain(differences),
            "memory": says(differences[OFF], self.better),
        }


def says(difference: Figure, better: str) -> str:
    """The verdict on a difference: "helps", "hurts", or "no difference shown"."""
    sign = int(difference.low > 0) - int(difference.high < 0)
    return {1: "helps", -1: "hurts", 0: "no difference shown"}[sign * (1 if better == "higher" else -1)]


def variants(model: BitMar) -> dict[str, BitMar]:
    """ON, OFF and, unless the model was trained with the literal rule, LITERAL; all on the engine of `model`.

    Everything but the memory is the same to the bit. Raises ConfigError for a model without a memory, and for one
    whose integration ("concat") has a projection that would fall away with the memory.
    """
    config = model.config
    if config.memory_integration == "off":
        raise ConfigError("this model was built without a memory: there is nothing to switch off")
    if config.memory_integration == "concat":
        raise ConfigError(
            'memory_integration "concat" sends the text through the memory\'s projection: it has no "off"'
        )
    container, engine = model.container, model.engine.name
    off = replace(container, config=replace(config, memory_integration="off"))
    found = {ON: model, OFF: BitMar(off, engine=engine)}
    if config.write_rule != "literal":
        found[LITERAL] = BitMar(literal(container, write_weights(model)), engine=engine)
    return found


def literal(container: Container, weights: F32) -> Container:
    """The same model under M <- M + alpha W_w q^T (eq. 1) and softmax(M q) (eq. 2), with W_w = `weights` (K,).

    The paper's rule has neither usage nor a temperature, so beta is 1 and the usage is left out of the read.
    """
    paper = {
        _WRITE_WEIGHTS: np.ascontiguousarray(weights, np.float32),
        _READ_BETA: np.ones((), np.float32),
        _STALE: np.full((), _NO_USAGE),
    }
    config = replace(container.config, write_rule="literal")
    return replace(container, config=config, tensors={**container.tensors, **paper})


def write_weights(model: BitMar) -> F32:
    """W_w (K,) for a model that never learned one: the mean of the addresses that it writes plain sentences to.

    Its length is the root mean square of theirs, so that a literal write changes the memory as much as a learned one
    does. That is a stand-in for the paper's learned vector: where "literal" is worse, training it might have
    helped. The sentences are `SENTENCES`, which belong to no test.
    """
    addresses = np.stack([_address(model, text) for kind in SENTENCES.values() for text in kind])
    mean = addresses.mean(axis=0)
    length = np.sqrt(np.mean(np.sum(addresses * addresses, axis=1)))
    weights: F32 = (mean * length / np.linalg.norm(mean)).astype(np.float32)
    return weights


def _address(model: BitMar, text: str) -> F32:
    """The address a (K,) that a write of `text` into M_0 used, read off from what it changed: alpha a_k (q - M_k)."""
    engine = model.engine
    prompt = np.array([model.config.bos_token_id, *encode(model.tokenizer, text)])
    before = model.container.tensors["model.memory.slots"].astype(np.float64)
    query = engine.start().query(prompt)
    change = model.remember(text).slots[0] - before
    toward = query - before
    alpha = max(model.config.memory_alpha, 1e-12)
    address: F32 = (np.sum(change * toward, axis=1) / (alpha * np.sum(toward * toward, axis=1))).astype(np.float32)
    return address


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


def speed(models: Mapping[str, BitMar], *, context: int = CONTEXT, runs: int = RUNS) -> list[Measure]:
    """Milliseconds of a decoding step after `context` tokens, and of a segment of prompt, its write included.

    Mean over runs of the median over STEPS; the variants take turns step by step, so that a slow spell of the machine
    hits all alike.
    """
    ids = np.random.default_rng(0).integers(0, models[ON].config.vocab_size, context)
    segment = np.resize(ids, models[ON].config.memory_segment)
    states = {}
    for name, model in models.items():
        states[name] = model.engine.start()
        states[name].read(ids)

    def step(name: str) -> None:
        states[name].next(5, _GREEDY, 0.0)

    def write(name: str) -> None:
        models[name].engine.start().forward(segment[None], Write.NEVER if name == OFF else Write.ALL)

    return [
        _interleaved(f"a token, context {context}", models, step, runs),
        _interleaved(f"a segment of {len(segment)} tokens, read and written", models, write, max(runs // 4, 1)),
    ]


def _interleaved(name: str, models: Mapping[str, BitMar], work: Callable[[str], None], runs: int) -> Measure:
    medians: dict[str, list[float]] = {variant: [] for variant in models}
    for _ in range(runs):
        times: dict[str, list[float]] = {variant: [] for variant in models}
        for _ in range(STEPS):
            for variant in models:
                begin = perf_counter()
                work(variant)
                times[variant].append(1e3 * (perf_counter() - begin))
        for variant, found in times.items():
            medians[variant].append(median(found))
    values = {variant: np.array(found) for variant, found in medians.items()}
    return Measure("speed", name, "ms", "lower", values, np.ones(runs), cost=True)


def peak_rss(models: Mapping[str, BitMar]) -> Measure:
    """Peak resident memory, MB, of processes that load the model so and write 32 tokens."""
    source, engine = str(models[ON].path.resolve()), models[ON].engine.name
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a pool is not the model's
    values: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_PROCESSES):
        for name in models:
            command = [sys.executable, "-m", __name__, json.dumps([source, engine, name])]
            done = subprocess.run(command, capture_output=True, check=True, env=environment)
            values[name].append(json.loads(done.stdout))
    found = {name: np.array(peaks) for name, peaks in values.items()}
    return Measure("RAM", "process that writes 32 tokens", "MB, peak", "lower", found, np.ones(_PROCESSES), cost=True)


def _child(source: str, engine: str, variant: str) -> float:
    """What `peak_rss` measures. W_w is uniform here, where its values do not matter."""
    container = open_container(source)
    if variant == OFF:
        container = replace(container, config=replace(container.config, memory_integration="off"))
    elif variant == LITERAL:
        slots = container.config.memory_slots
        container = literal(container, np.full(slots, 1 / slots, np.float32))
    BitMar(container, engine=engine).generate("The", max_tokens=32)
    return peak_bytes() / 1e6


if __name__ == "__main__":
    print(json.dumps(_child(*json.loads(sys.argv[1]))))
