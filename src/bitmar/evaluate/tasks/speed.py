"""How fast a model runs here, and how near that is to what the machine allows. Medians, one thread."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bitmar.api import BitMar
from bitmar.core.container import Container
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.scorer import packed
from bitmar.evaluate.tables import Cell, Cells, Results, Table
from bitmar.evaluate.work import Work
from bitmar.runtime.backend import NUMPY, Backend, State
from bitmar.runtime.choose import choose_backend
from bitmar.runtime.options import GenerationOptions

CONTEXTS = (64, 256, 1024)
PREFILL = 512
GREEDY = GenerationOptions()
PROBE = 0.2  # seconds for each limit of the machine


STEPS = 100  # timed at each context in a report


def run(scorer: Scorer, work: Work, *, tokens: int = STEPS) -> dict[str, Any]:
    """The figures of `bitmar bench` on the engine that runs here, with a made-up photo."""
    model = packed(scorer)
    work.on_step("decoding", None, None)
    found = measure_path(model.container, model.engine, contexts=CONTEXTS, tokens=tokens)
    photo = sample_photo() if model.engine.tower is not None else None
    if photo is not None:
        work.on_step("captions", None, None)
        found |= measure_caption(model, photo)
    work.on_step("starts", None, None)
    found |= measure_start(str(model.path), model.engine.name, photo)
    return {"engine": model.engine.name, **found}


def tables(found: Results) -> Iterator[Table]:
    """The result of `bitmar bench` for our model."""
    yield from found.empty("speed", "Speed of the engine")
    if (speed := found.get("speed")) is not None:
        note = f"Engine: {speed['engine']}; one thread, medians; a made-up JPEG, 640 x 480."
        yield table("Speed of the engine", {"ours": speed}, note)


def table(title: str, paths: Mapping[str, dict[str, Any]], note: str) -> Table:
    """A column for the figures of each kernel path."""
    rows: list[Cells] = [
        [label, *(_cell(figures, *keys) for figures in paths.values())] for label, keys in _ROWS.items()
    ]
    return Table(title, ["", *paths], rows, note)


_ROWS = {
    **{f"decode, tokens/s, context {n}": ("tokens_per_second", str(n)) for n in CONTEXTS},
    f"prefill of {PREFILL}, tokens/s": ("prefill_tokens_per_second",),
    "vision tower, ms": ("photo_ms",),
    "photo to caption, warm, ms": ("caption_ms",),
    "the same, greedily, ms": ("greedy_ms",),
    "words of that caption": ("words",),
    "process to first token, s": ("first_token_s",),
    "peak RSS of that process, MB": ("peak_rss_mb",),
    "share of a token's time that the memory takes": ("memory_share",),
    "joules a token": ("joules_per_token",),
    "bytes read a token, context 64": ("limits", "64", "bytes_per_token"),
    "share of the reading limit, 64": ("limits", "64", "share_of_bandwidth"),
    "share of the product limit, 64": ("limits", "64", "share_of_products"),
    "share of the reading limit, 1024": ("limits", "1024", "share_of_bandwidth"),
}


def _cell(figures: Any, *keys: str) -> Cell:
    for key in keys:
        figures = (figures or {}).get(key)
    return Cell("" if figures is None else f"{figures:,.3g}" if figures < 100 else f"{figures:,.0f}", "number")


def measure_path(container: Container, engine: Backend, *, contexts: tuple[int, ...], tokens: int) -> dict[str, Any]:
    """Decode and prefill speed of one engine: the whole step, with picture and memory, called from Python.

    contexts: tokens in the cache when timing begins; `tokens` more are then timed one by one. Figures:
    tokens_per_second by context, prefill_tokens_per_second, photo_ms of the vision tower (None without one), and for
    the native engine memory_share (of a step at the first context, measured against the same weights with the memory
    off), joules_per_token where the processor's counter can be read (None elsewhere), and `limits`.
    """
    rng = np.random.default_rng(0)
    config = container.config
    features = rng.standard_normal((config.vision_grid**2, config.vision_dim)).astype(np.float32)
    image = engine.encode_features(features)

    def ids(count: int) -> np.ndarray:
        return rng.integers(0, config.vocab_size, count)

    def step_seconds(context: int, *engines: Backend) -> list[float]:
        """Median step of each engine; they take turns, so that a slow spell of the machine hits all alike."""
        prompt = ids(context)
        runs: list[tuple[State, list[float]]] = []
        for each in engines:
            state = each.start(image)
            state.read(prompt)
            runs.append((state, []))
        for _ in range(tokens):
            for state, times in runs:
                start = perf_counter()
                state.next(5, GREEDY, 0.0)
                times.append(perf_counter() - start)
        return [median(times) for _, times in runs]

    steps = {context: step_seconds(context, engine)[0] for context in contexts}
    prompt = ids(PREFILL)
    prefill = _median_seconds(lambda: engine.start(image).read(prompt), 5)
    figures: dict[str, Any] = {
        "tokens_per_second": {str(context): 1 / seconds for context, seconds in steps.items()},
        "prefill_tokens_per_second": PREFILL / prefill,
        "photo_ms": None,
    }
    if engine.tower is not None:
        assert config.vision_tower is not None
        side = config.vision_tower.image_size
        photo = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        tower = engine.tower
        figures["photo_ms"] = 1e3 * _median_seconds(lambda: tower(photo), 5)
    if engine.name != NUMPY:
        figures["memory_share"] = None
        if config.memory_integration != "off":
            off = replace(container, config=replace(config, memory_integration="off"))
            with_memory, without = step_seconds(contexts[0], engine, choose_backend(off, engine.name))
            figures["memory_share"] = 1 - without / with_memory
        figures["joules_per_token"] = _joules(lambda: step_seconds(contexts[0], engine), tokens)
        figures["limits"] = limits(engine, steps)
    return figures


def _joules(run: Callable[[], object], tokens: int) -> float | None:
    """Energy of the processor package while `run` decodes, by Linux's powercap counters; idle power is part of it."""
    counters = sorted(Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"))
    try:
        before = [int(counter.read_text()) for counter in counters]
        run()
        spent = sum(int(counter.read_text()) - start for counter, start in zip(counters, before, strict=True))
    except (OSError, ValueError):
        return None
    return spent / 1e6 / tokens if counters and spent > 0 else None  # a counter that wrapped around says nothing


def limits(engine: Any, steps: dict[int, float]) -> dict[str, Any]:
    """The most that one core of this machine could do, and the share of it reached at each context.

    A step cannot be faster than its bytes at the speed at which the core reads a block of that size, nor than its
    weights at the rate of the product in the first cache. Bytes: weights, head, memory, and the keys and values of the
    context; embedding rows, norms and the activations between layers are not counted.
    """
    from bitmar import _native

    config, model = engine.config, engine.model
    width = 2 if engine.kv_int16 else 1
    rate = _native.product_rate(engine.name, PROBE)
    found = {}
    for context, seconds in steps.items():
        kept = min(context, config.attention_sinks + config.attention_window)
        layers = config.encoder_layers + config.decoder_layers
        size = model.weight_bytes + layers * kept * 2 * (config.hidden_size * width + 4 * config.num_heads)
        bandwidth = _native.bandwidth(engine.name, size, PROBE)
        found[str(context)] = {
            "bytes_per_token": size,
            "read_gb_per_second": bandwidth / 1e9,
            "share_of_bandwidth": size / bandwidth / seconds,
            "share_of_products": model.weights / rate / seconds,
        }
    return {"products_g_per_second": rate / 1e9, **found}


def measure_start(model: str | None, engine: str | None, photo: bytes | None) -> dict[str, float]:
    """A fresh process that captions one photo (or completes a word): seconds to the first token, peak RSS in MB."""
    script = Path(__file__).with_name("_first_token.py")
    command = [sys.executable, str(script), json.dumps({"model": model, "engine": engine, "photo": photo is not None})]
    runs = []
    for _ in range(3):
        start = perf_counter()
        # One BLAS thread: a pool's buffers are not the model's.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, input=photo or b"", capture_output=True, check=True, env=environment)
        found = json.loads(done.stdout)
        runs.append({"first_token_s": found["first_token"] - found["began"], "peak_rss_mb": found["peak_rss_mb"],
                     "process_s": perf_counter() - start})  # fmt: skip
    return {name: median(run[name] for run in runs) for name in runs[0]}


def measure_caption(model: BitMar, photo: bytes) -> dict[str, float]:
    """JPEG in, caption out, warm: milliseconds, and how many of them the picture takes."""
    whole, greedy, pictures, words = [], [], [], 0
    for _ in range(7):
        start = perf_counter()
        image = model.encode_image(photo)
        pictures.append(perf_counter() - start)
        words = len(model.caption(image).split())
        whole.append(perf_counter() - start)
        start = perf_counter()
        model.caption(image, beams=1)
        greedy.append(pictures[-1] + perf_counter() - start)
    milliseconds = {"caption_ms": whole, "greedy_ms": greedy, "picture_ms": pictures}
    return {name: 1e3 * median(seconds) for name, seconds in milliseconds.items()} | {"words": words}


def sample_photo() -> bytes:
    """A JPEG of 640 x 480 for those who name none: soft random colours, which cost a decoder what a photo costs."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _median_seconds(call: Callable[[], object], times: int) -> float:
    call()
    seconds = []
    for _ in range(times):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return median(seconds)
