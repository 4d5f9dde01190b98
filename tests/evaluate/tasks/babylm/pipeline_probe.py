"""Asks a checkpoint as BabyLM's 2025 pipeline does, by its own code alone; run by `test_conformance.py`.

python pipeline_probe.py ITEMS.json

ITEMS: {"out": .npz, "models": {name: [folder or Hub id, revision or null], ...},
"texts": [[[options], [completions]], ...], "pictures": [[[options], [completions], file], ...],
"words": [[context, word], ...]}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

BATCH = 3


def encode(processor: Any, text: str, completion: str, image: Image.Image | None) -> dict[str, torch.Tensor]:
    """Token ids, their mask, the mask of the completion's tokens, and pixels."""
    seen = {} if image is None else {"images": image}
    out = processor(text=text, return_offsets_mapping=True, **seen)
    start = len(text) - len(completion)
    return {
        "ids": torch.LongTensor(out["input_ids"]),
        "mask": torch.LongTensor(out["attention_mask"]),
        "counts": torch.LongTensor([int(end > start) for _, end in out["offset_mapping"]]),
        **({"pixels": torch.FloatTensor(out["pixel_values"])} if seen else {}),
    }


def score(model: Any, pad: int, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Log-probability (B,) of the completions of a batch, padded on the right."""
    ids = pad_sequence([row["ids"] for row in rows], batch_first=True, padding_value=pad)
    mask = pad_sequence([row["mask"] for row in rows], batch_first=True)
    counts = pad_sequence([row["counts"] for row in rows], batch_first=True)
    seen = {"pixel_values": torch.cat([row["pixels"] for row in rows])} if "pixels" in rows[0] else {}
    logits = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], **seen)["logits"]
    logits = logits[:, -(ids.shape[1] - 1) :]  # where a model puts its picture before the text
    found = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (found * counts[:, 1:]).sum(1)


def surprisal(model: Any, processor: Any, context: str, word: str) -> float:
    """-log of a word's probability, its tokens one by one; the processor is called as if it were a tokenizer."""

    def probability(text: str, token: int) -> float:
        logits = model(**processor(text, return_tensors="pt").to("cpu"))["logits"][0, -1]
        return float(logits.softmax(-1)[token])

    total = 0.0
    for i, token in enumerate(processor(word, add_special_tokens=False)["input_ids"]):
        piece = processor.decode(token)
        target = token if i == 0 else processor(piece, add_special_tokens=False)["input_ids"][0]
        total -= float(np.log(probability(context, target)))
        context += piece
    return total


def check_fine_tuning(model: str, processor: Any, options: dict[str, Any]) -> None:
    """What the pipeline's classifier needs: hidden states, no logits, masks of every shape, pairs of texts."""
    config, body = AutoConfig.from_pretrained(model, **options), AutoModel.from_pretrained(model, **options).eval()
    pairs = [("a dog", "the man runs over the grass " * 2), ("dog", "man")]
    batch = processor(pairs, return_tensors="pt", padding=True, truncation=True, max_length=9)
    ids, mask = batch.input_ids, batch.attention_mask
    assert ids.shape[1] == 9 and not mask.all()
    length = ids.shape[1]
    square = mask.unsqueeze(1).repeat(1, length, 1).tril(diagonal=0)
    additive = torch.zeros(square.shape).masked_fill(square == 0, torch.finfo(torch.float32).min).unsqueeze(1)
    plain = body(input_ids=ids, attention_mask=mask)
    assert not hasattr(plain, "logits") and not isinstance(plain, tuple)
    hidden = plain.last_hidden_state
    assert hidden.shape == (2, length, config.hidden_size)
    for other in (square, square.unsqueeze(1), square.unsqueeze(1).bool(), additive):
        found = body(input_ids=ids, attention_mask=other).last_hidden_state
        assert torch.equal(found[mask.bool()], hidden[mask.bool()]), other.shape


def answers(items: dict[str, Any], model: str, revision: str | None) -> dict[str, list[float]]:
    """The score of every option, in order, and the surprisal of every word."""
    options: dict[str, Any] = {"trust_remote_code": True, "revision": revision}
    processor = AutoProcessor.from_pretrained(model, padding_side="right", **options)
    tokenizer = processor.tokenizer
    assert tokenizer.padding_side == "right" and tokenizer.pad_token_id is not None
    language = AutoModelForCausalLM.from_pretrained(model, **options).eval()
    found: dict[str, list[float]] = {"texts": [], "pictures": []}
    with torch.no_grad():
        for start in range(0, len(items["texts"]), BATCH):
            batch = items["texts"][start : start + BATCH]
            columns = []
            for option in range(len(batch[0][0])):
                rows = [encode(processor, texts[option], ends[option], None) for texts, ends in batch]
                columns.append(score(language, tokenizer.pad_token_id, rows))
            found["texts"] += torch.stack(columns, 1).flatten().tolist()
        for texts, ends, path in items["pictures"]:
            image = Image.open(path).convert("RGB")
            for text, end in zip(texts, ends, strict=True):
                row = encode(processor, text, end, image)
                found["pictures"] += score(language, tokenizer.pad_token_id, [row]).tolist()
        found["words"] = [surprisal(language, processor, context, word) for context, word in items["words"]]
        check_fine_tuning(model, processor, options)
    return found


def main(items_file: str) -> None:
    torch.set_num_threads(1)
    with open(items_file, encoding="utf-8") as file:
        items = json.load(file)
    found: dict[str, Any] = {"version": transformers.__version__}
    for name, (model, revision) in items["models"].items():
        found |= {f"{name}/{part}": np.array(values) for part, values in answers(items, model, revision).items()}
    np.savez(items["out"], **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
