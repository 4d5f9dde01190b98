"""Loads a checkpoint by its own code alone and writes down what the model answers; run by `test_compat.py`.

python compat_probe.py CHECKPOINT OUT.npz
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)


def main(folder: str, out: str) -> None:
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, padding_side="right")
    assert processor.tokenizer.padding_side == "right"
    processor.tokenizer.padding_side = "left"
    photos = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (33, 50, 3), dtype=np.uint8)) for i in range(2)]
    texts = ["a dog", "two children play on the beach near"]
    batch = processor(text=texts, images=photos, padding=True, return_tensors="pt")
    offsets = processor(text=texts[1], return_offsets_mapping=True)["offset_mapping"]

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    twin = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    options = {**batch, "max_new_tokens": 20, "eos_token_id": None, "pad_token_id": 0}
    found = {}
    with torch.no_grad():
        found["logits"] = model(**batch).logits
        found["twin_logits"] = twin(**batch).logits
        found["text_logits"] = model(batch["input_ids"], batch["attention_mask"], write_memory=True).logits
        found["hidden"] = base(**batch).last_hidden_state
        found["greedy"] = model.generate(**options, do_sample=False)
        found["greedy_uncached"] = model.generate(**options, do_sample=False, use_cache=False)
        found["beams"] = model.generate(**options, do_sample=False, num_beams=3)
        torch.manual_seed(0)
        found["sample"] = model.generate(**options, do_sample=True, top_k=20)
        torch.manual_seed(0)
        found["sample_uncached"] = model.generate(**options, do_sample=True, top_k=20, use_cache=False)
        found["caption"] = model.generate(pixel_values=batch["pixel_values"], max_new_tokens=8, do_sample=False)
    model.train()
    model.gradient_checkpointing_enable()
    out_train = model(**batch, labels=batch["input_ids"])
    out_train.loss.backward()
    found["gradient"] = model.model.embed_tokens.weight.grad
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    np.savez(
        out,
        versions=json.dumps({"transformers": transformers.__version__, "torch": torch.__version__}),
        ids=np.array(tokenizer(texts[1])["input_ids"]),
        offsets=np.array(offsets),
        **{name: value.detach().numpy() for name, value in {**batch, **found}.items()},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
