"""Do the engines write the same? Greedy captions of photos and continuations of prompts, and their logits.

    python benchmarks/parity.py --json out/parity.json
    python benchmarks/parity.py --model runs/default/model.bitmar --checkpoint runs/default/joint

Every engine is compared with numpy's, the oracle. A network whose activations are rounded to int8 turns a change in the
last bit into whole steps, so the oracle is also compared with itself after a change of one part in a million of its
embedding: what that moves is the least that any other order of additions can move.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _machine import SHARED, publish, run, skip_without_shared_data

from bitmar.api import BitMar
from bitmar.core.container import open_container
from bitmar.core.image import load_photo
from bitmar.data.sources import iter_webdataset
from bitmar.runtime.locate import find_model

TOKENS = 24


def main(
    model: Annotated[str | None, typer.Option(help="A .bitmar file or a folder with one.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The checkpoint it was made of: PyTorch joins in.")] = None,
    data: Annotated[str, typer.Option(help="Shards of photos.")] = str(SHARED / "captions/flickr8k-val-*.tar"),
    count: Annotated[int, typer.Option(help="Number of photos, and of prompts.")] = 200,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Compare the engines on photos and prompts."""
    skip_without_shared_data(data)
    container = open_container(find_model(model))
    engines: dict[str, BitMar] = {"numpy": BitMar(container, engine="numpy")}
    engines["numpy, embedding changed by 1e-6"] = disturbed(BitMar(container, engine="numpy"))
    from bitmar.runtime.native import NativeEngine

    for kv_int16 in (True, False):
        native = BitMar(container)
        native.engine = NativeEngine(container, kv_int16=kv_int16)
        engines[f"native, {'int16' if kv_int16 else 'int8'} keys and values"] = native
    photos = [
        (load_photo(sample.image), sample.captions[0]) for _, sample in zip(range(count), samples(data), strict=False)
    ]
    written: dict[str, list[str]] = {name: [] for name in engines}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    for photo, caption in photos:
        prompt = " ".join(caption.split()[:4])
        for name, engine in engines.items():
            image = engine.encode_image(photo)
            written[name].append(engine.caption(image, max_tokens=TOKENS))
            written[name].append(engine.complete(prompt, max_tokens=TOKENS))
            ids = [container.config.bos_token_id, *engine.tokenizer.encode(caption, add_special_tokens=False).ids]
            logits[name].append(engine.logits(ids, image))
    if checkpoint is not None:
        written["PyTorch"], logits["PyTorch"] = from_torch(checkpoint, photos)
    figures = {
        name: compare(written["numpy"], written[name], logits["numpy"], logits[name])
        for name in written
        if name != "numpy"
    }
    publish("parity with the numpy engine", figures, data=f"{len(photos)} photos of {data}", out=out)


def samples(data: str) -> Iterator[Any]:
    """Photos with captions."""
    return iter_webdataset([data], lambda key, reason: print(f"skipped {key}: {reason}"))


def disturbed(model: BitMar) -> BitMar:
    """The oracle with its embedding changed where floats hardly notice."""
    engine: Any = model.engine
    noise = np.random.default_rng(0).standard_normal(engine.embedding_scale.shape).astype(np.float32)
    engine.embedding_scale = engine.embedding_scale * (1 + np.float32(1e-6) * noise)
    return model


def from_torch(checkpoint: Path, photos: list[tuple[Any, str]]) -> tuple[list[str], list[np.ndarray]]:
    """The same texts and logits from the training half."""
    import torch
    from transformers import AutoModelForCausalLM, AutoProcessor

    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    texts, logits = [], []
    for photo, caption in photos:
        prompt = " ".join(caption.split()[:4])
        for text, image in (("", photo), (prompt, None)):
            inputs = processor(text=[text], images=None if image is None else [image], return_tensors="pt")
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            new = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            texts.append(new.strip() if image is not None else new)
        inputs = processor(text=[caption], images=[photo], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0].numpy())
    return texts, logits


def compare(texts: list[str], others: list[str], logits: list[np.ndarray], found: list[np.ndarray]) -> dict[str, float]:
    """Share of equal texts, and how far the logits lie apart."""
    apart = np.concatenate([np.abs(a - b[-len(a) :]).ravel() for a, b in zip(logits, found, strict=True)])
    best = np.concatenate([a.argmax(-1) == b[-len(a) :].argmax(-1) for a, b in zip(logits, found, strict=True)])
    captions, continuations = ([a == b for a, b in zip(texts[i::2], others[i::2], strict=True)] for i in (0, 1))
    return {
        "equal captions": float(np.mean(captions)),
        "equal continuations": float(np.mean(continuations)),
        "equal likeliest token": float(best.mean()),
        "median difference of logits": float(np.median(apart)),
        "largest difference of logits": float(apart.max()),
    }


if __name__ == "__main__":
    run(main)
