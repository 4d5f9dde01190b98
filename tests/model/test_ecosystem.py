"""A checkpoint in transformers' hands: saved again, in pipelines, as a chat, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

V5 = int(transformers.__version__.split(".")[0]) >= 5
CODE = {"modeling_bitmar.py", "configuration_bitmar.py", "cache.py", "memory.py", "attention.py"}
SHORT = {"max_new_tokens": 4}


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (30, 41, 3), dtype=np.uint8))


def test_what_was_loaded_is_saved_with_its_code(checkpoint_folder: Path, inputs: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint_folder, trust_remote_code=True).eval()
    model.save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(checkpoint_folder, trust_remote_code=True).save_pretrained(tmp_path / "again")
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names >= CODE | {"processing_bitmar.py", "image_processing_bitmar.py"}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    ids = inputs()["input_ids"]
    assert torch.equal(again(ids).logits, model(ids).logits)
    processor = AutoProcessor.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert processor(text="a dog")["input_ids"][0] == 1


def test_a_model_made_here_is_saved_with_its_code(tiny_model: Any, inputs: Any, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= CODE
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert torch.equal(again(**inputs()).logits, model(**inputs()).logits)


def test_pipelines(checkpoint_folder: Path, photo: Image.Image) -> None:
    """By the folder's name alone."""
    options = {"model": str(checkpoint_folder), "trust_remote_code": True}
    assert pipeline("text-generation", **options)("a dog", **SHORT)[0]["generated_text"].startswith("a dog")
    describe = pipeline("image-text-to-text", **options)
    assert isinstance(describe(images=photo, text="a dog", **SHORT)[0]["generated_text"], str)
    asked = [{"role": "user", "content": [{"type": "image", "image": photo}, {"type": "text", "text": "What is it?"}]}]
    found = describe(text=asked, **SHORT)[0]["generated_text"]
    assert found[-1]["role"] == "assistant"
    if not V5:
        caption = pipeline(
            "image-to-text", **options
        )  # its own way without a prompt knows no model of text and picture
        assert isinstance(caption(photo, prompt="", generate_kwargs=SHORT)[0]["generated_text"], str)


def test_chat_template(checkpoint_folder: Path, photo: Image.Image) -> None:
    """A chat is text that goes on: BOS once, no markup that the model never saw."""
    chat = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "a dog"}]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(checkpoint_folder, trust_remote_code=True)
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<bos>What is it? a dog"
    asked = processor.apply_chat_template(parts, add_generation_prompt=True)
    assert asked == "<bos>What is it?"
    plain = processor(text="What is it?")["input_ids"]
    assert processor(text=asked, images=photo)["input_ids"] == plain
    ids = tokenizer.apply_chat_template(chat[:1], tokenize=True)
    assert (ids["input_ids"] if hasattr(ids, "keys") else ids) == plain


def test_model_card(checkpoint_folder: Path) -> None:
    card = ModelCard.load(checkpoint_folder / "README.md", ignore_metadata_errors=False)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert (card.data.license, card.data.language) == ("other", "en")
    assert "million parameters" in card.text and "trust_remote_code" in card.text
