"""A stream of a million tokens: its perplexity beside a sliding window that is read afresh, its speed, its memory.

python benchmarks/streams.py --json out/streams.json
python benchmarks/streams.py --tokens 50000 --documents 0
"""

from __future__ import annotations

import dataclasses
import lzma
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from _machine import SHARED, publish, resident_bytes, run, skip_without_shared_data

from bitmar.api import BitMar, load
from bitmar.console import progress
from bitmar.core.errors import DataError
from bitmar.evaluate.figure import Figure
from bitmar.evaluate.passages import heldout_documents
from bitmar.reading import pieces
from bitmar.runtime.text import encode

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

PASSAGE = 1024  # tokens over which time and memory are measured
ENDS = 0.1  # of the stream: what "start" and "end" mean
SHARE = 0.01  # of the documents, which the bundled model's recipe holds out


def main(
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    data: Annotated[Path, typer.Option(help="A text file, plain or .xz.")] = SHARED / "text/gutenberg_novels.txt.xz",
    tokens: Annotated[int, typer.Option(help="Of the text's beginning.")] = 1_000_000,
    step: Annotated[int, typer.Option(help="Tokens from one position that is read afresh to the next.")] = 1024,
    documents: Annotated[int, typer.Option(help="Held-out documents to read with and without writing; 0: none.")] = 100,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Read one stream with and without sinks; every `step` tokens read the window afresh and compare."""
    skip_without_shared_data(data)
    loaded = load(model)
    config = loaded.config
    reach = config.attention_sinks + config.attention_window
    models = {f"{config.attention_sinks} sinks": loaded, "no sinks": without_sinks(loaded)}
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "text.txt"  # a decompressor's own memory grows while it is read
        ids = first_tokens(loaded, data, tokens, plain)
        # The memory's query is a mean over the segment, so both readings must stand at the same place of theirs.
        step = max(1, round(step / config.memory_segment)) * config.memory_segment
        places = np.arange(reach - 1, len(ids) - 1, step)
        if len(places) < 30:
            raise DataError(f"{len(ids) - 1} tokens of {data} are too few to compare with a window of {reach}")
        streams = {name: read(one, plain, len(ids) - 1, name) for name, one in models.items()}
    afresh = dict(zip(models, (recomputed(loaded, ids, places, n) for n in (config.attention_sinks, 0)), strict=True))
    figures: dict[str, Any] = {
        "model": str(loaded.path),
        "engine": loaded.engine.name,
        "tokens": len(ids) - 1,
        "reach (sinks and window)": reach,
        **{name: stream.figures() for name, stream in streams.items()},
        "positions read afresh": {
            "count": len(places),
            **{
                f"perplexity, stream with {name}": perplexity(stream.scores[places]) for name, stream in streams.items()
            },
            **{f"perplexity, afresh with {name}": perplexity(scores) for name, scores in afresh.items()},
        },
        "stream / afresh": {
            f"{name} / {how}": comparison(stream.scores[places], scores)
            for name, stream in streams.items()
            for how, scores in afresh.items()
        },
    }
    details = {name: stream.passages() for name, stream in streams.items()}
    if documents:
        figures["held-out documents"] = remembering(loaded, data, documents)
    publish("streams", figures, data=f"the first {len(ids) - 1:,} tokens of {data}", out=json, details=details)


# The stream.


@dataclasses.dataclass(frozen=True)
class Stream:
    """scores: of each token. seconds, resident: of each passage; bytes, None where the system does not say."""

    scores: F32
    seconds: list[float]
    resident: list[int | None]

    def figures(self) -> dict[str, Any]:
        """Perplexity of the whole and of its thirds, milliseconds and resident memory at start and end.

        The first passages count for neither: the window fills, and the allocator takes what it will keep.
        """
        warm = self.seconds[4:]
        share = max(1, round(len(warm) * ENDS))
        start, end = (1e3 / PASSAGE * median(part) for part in (warm[:share], warm[-share:]))
        known = [size for size in self.resident[4:] if size is not None]
        return {
            "perplexity": perplexity(self.scores),
            "by thirds": [perplexity(third) for third in np.array_split(self.scores, 3)],
            "ms a token at the start": start,
            "at the end": end,
            "end / start": end / start,
            "RSS at the start, MB": known[0] / 1e6 if known else None,
            "its growth, MB": (known[-1] - known[0]) / 1e6 if known else None,
            "its largest growth, MB": (max(known) - known[0]) / 1e6 if known else None,
        }

    def passages(self) -> dict[str, Any]:
        """All of it by passages, for JSON."""
        cut = len(self.seconds) * PASSAGE
        return {
            "tokens each": PASSAGE,
            "perplexity": np.exp(-self.scores[:cut].reshape(-1, PASSAGE).mean(axis=1)).round(3).tolist(),
            "ms a token": [round(1e3 / PASSAGE * seconds, 5) for seconds in self.seconds],
            "resident, bytes": self.resident,
        }


def first_tokens(model: BitMar, data: Path, count: int, plain: Path) -> I64:
    """The begin token and what `read` makes of the text's first `count` tokens; their text goes to `plain`."""
    found = np.zeros(count + 1, np.int64)
    found[0], filled = model.config.bos_token_id, 1
    opener: Any = lzma.open if data.suffix == ".xz" else open
    with opener(data, "rt", encoding="utf-8", errors="replace") as text, plain.open("w", encoding="utf-8") as copy:
        for piece in pieces(text):
            new = encode(model.tokenizer, piece)[: len(found) - filled]
            found[filled : filled + len(new)] = new
            filled += len(new)
            copy.write(piece)
            if filled == len(found):
                break
    return found[:filled]


def read(model: BitMar, plain: Path, tokens: int, name: str) -> Stream:
    """The text's first tokens through `BitMar.read`, in whole passages."""
    scores = np.ones(tokens, np.float32)  # touched now, or it would grow with the stream
    seconds: list[float] = []
    resident: list[int | None] = []
    with plain.open(encoding="utf-8") as text, progress() as bar:
        task = bar.add_task(f"stream, {name}", total=tokens)
        done = 0
        for passage in model.read(text, every=PASSAGE):
            part = passage.scores[: tokens - done]
            scores[done : done + len(part)] = part
            done += len(part)
            bar.update(task, completed=done)
            if len(part) == PASSAGE:
                seconds.append(passage.seconds)
                resident.append(resident_bytes())
            if done == tokens:
                break
    return Stream(scores, seconds, resident)


def without_sinks(model: BitMar) -> BitMar:
    """The same weights, whose window has the room of the sinks as well."""
    config = model.config
    return changed(model, attention_sinks=0, attention_window=config.attention_sinks + config.attention_window)


def changed(model: BitMar, **config: Any) -> BitMar:
    """The same weights in another configuration."""
    container = dataclasses.replace(model.container, config=dataclasses.replace(model.config, **config))
    made = BitMar(container, engine=model.engine.name)
    made.tokenizer = model.tokenizer  # with its cache of words, which is full by now
    return made


# The oracle.


def recomputed(model: BitMar, ids: I64, places: npt.NDArray[np.int64], sinks: int) -> F32:
    """Log-probability of the token after each place by an empty state that reads afresh what the stream attends to.

    That is the last tokens up to the place, after the stream's first `sinks`, S + W together: rotary positions only
    know distances, and these are the stream's. What remains is that the stream computed the keys and values of its
    window when it still saw further back.
    """
    engine, reach = model.engine, model.config.attention_sinks + model.config.attention_window

    def one(place: int) -> float:
        window = ids[place - (reach - sinks) + 1 : place + 2]  # the last one is scored, not read
        return float(engine.start().score(np.concatenate([ids[:sinks], window]))[-1])

    found = np.zeros(len(places), np.float32)
    with ThreadPoolExecutor() as pool, progress() as bar:
        for i, score in enumerate(bar.track(pool.map(one, places.tolist()), len(places), description="read afresh")):
            found[i] = score
    return found


def comparison(ours: F32, theirs: F32) -> dict[str, Any]:
    """Ratio of perplexities over the same tokens (n,), 1 for equal, with its 95 % interval; and that of each third."""
    difference = theirs.astype(np.float64) - ours
    thirds = [float(np.exp(third.mean())) for third in np.array_split(difference, 3)]
    return {**Figure.bootstrap(difference).map(np.exp).to_dict(), "by thirds": thirds}


# Documents longer than the window, remembered segment by segment.


def remembering(model: BitMar, data: Path, count: int) -> dict[str, Any]:
    """Perplexity of the tokens from which attention no longer reaches the beginning, by what the memory then holds.

    The model reads M_0 at least, which it was trained with; "off" is the same weights without any read.
    """
    config = model.config
    reach = config.attention_sinks + config.attention_window
    off = changed(model, memory_integration="off")
    ways = {
        "off": lambda text: off.read([text]),
        "M_0": lambda text: model.read([text]),
        "written by eq. 1": lambda text: model.read([text], remember=True),
        "written as episodes": lambda text: model.read([text], memory=model.memory(), remember=True),
    }
    losses: dict[str, list[float]] = {name: [] for name in ways}
    tokens: list[int] = []
    with progress() as bar:
        for text in bar.track(list(islice(long_documents(model, data, reach), count)), description="documents"):
            for name, way in ways.items():
                scores = np.concatenate([passage.scores for passage in way(text)])[reach:]
                losses[name].append(-float(scores.sum(dtype=np.float64)))
            tokens.append(len(scores))
    if not tokens:
        return {"documents": 0}
    return {
        "documents": len(tokens),
        "tokens past the first window": sum(tokens),
        "perplexity": {name: float(np.exp(sum(found) / sum(tokens))) for name, found in losses.items()},
        "ratio": {
            f"{name} / {base}": Figure.bootstrap(np.subtract(losses[name], losses[base]), tokens).map(np.exp).to_dict()
            for base in ("off", "M_0")
            for name in ("written by eq. 1", "written as episodes")
        },
    }


def long_documents(model: BitMar, data: Path, reach: int) -> Iterator[str]:
    """Those of the held-out ones that have tokens past their first window and segment."""
    for _, document in heldout_documents([data], SHARE):
        if len(encode(model.tokenizer, document)) > reach + model.config.memory_segment:
            yield document


def perplexity(scores: F32) -> float:
    return float(np.exp(-scores.mean(dtype=np.float64)))


if __name__ == "__main__":
    run(main)
