"""A checkpoint folder: what is in it, what its processor does, and that the Auto classes find everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, processors
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from bitmar.model import checkpoint
from bitmar.model.checkpoint import save_checkpoint
from bitmar.model.modeling_bitmar import BitMarForCausalLM


@pytest.fixture
def folder(checkpoint_folder: Path) -> Path:
    return checkpoint_folder


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (30, 41, 3), dtype=np.uint8))


def test_files(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    sources = {path.name for path in Path(checkpoint.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert names >= sources | {"config.json", "model.safetensors", "generation_config.json"}
    assert names >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
    }
    assert not any(path.name.startswith(f".{folder.name}") for path in folder.parent.iterdir())
    for target in json.loads((folder / "config.json").read_text())["auto_map"].values():
        assert (folder / f"{target.split('.')[0]}.py").is_file()


def test_the_folder_imports_nothing_of_the_package() -> None:
    """It ships alone: its modules may import each other, torch, transformers and what comes with them."""
    for path in Path(checkpoint.__file__).parent.glob("*.py"):
        assert (
            "bitmar.core" not in path.read_text().replace("`bitmar.core", "")
            and "import bitmar" not in path.read_text()
        )


def test_models_load_with_the_same_weights(folder: Path, inputs: Any) -> None:
    batch = inputs()
    models = [
        auto.from_pretrained(folder, trust_remote_code=True).eval()
        for auto in (AutoModelForCausalLM, AutoModelForImageTextToText)
    ]
    local = BitMarForCausalLM.from_pretrained(folder).eval()
    for model in models:
        assert type(model).__module__.startswith("transformers_modules")
        assert torch.equal(model(**batch).logits, local(**batch).logits)
    base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert torch.equal(base(**batch).last_hidden_state, local.model(**batch).last_hidden_state)


def test_the_processor_loads_as_the_harnesses_load_it(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True, padding_side="right")
    assert type(processor).__name__ == "BitMarProcessor"
    tokenizer = processor.tokenizer
    assert tokenizer.padding_side == "right" and tokenizer.image_token == "<image>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    alone = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert alone.padding_side == "left" and alone("a dog")["input_ids"] == tokenizer("a dog")["input_ids"]
    image = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert image.size == 48 and image.tower == "bitvit"


def test_text(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    text = "a dog runs"
    out = processor(text=text, return_offsets_mapping=True)
    assert out["input_ids"][0] == 1 and out["offset_mapping"][0] == (0, 0)
    assert "".join(text[a:b] for a, b in out["offset_mapping"]) == text
    assert processor.decode(out["input_ids"], skip_special_tokens=True) == text
    batch = processor(text=[text, "two"], padding=True, return_tensors="pt")
    assert batch["input_ids"][1, 0] == 0 and batch["input_ids"][1, -1] != 0  # generation continues on the right
    assert set(batch) == {"input_ids", "attention_mask"}


def test_the_processor_stands_in_for_a_tokenizer(folder: Path, photo: Image.Image) -> None:
    """BabyLM's pipeline calls it as one in places: text without a name, pairs of texts, `decode`."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    plain = processor(text="a dog")
    assert processor("a dog")["input_ids"] == plain["input_ids"]
    assert processor("a dog", photo)["pixel_values"].shape == processor(photo, "a dog")["pixel_values"].shape
    assert processor(None, "a dog")["input_ids"] == plain["input_ids"]
    assert [processor.decode(token) for token in plain["input_ids"][1:]] == [
        processor.tokenizer.decode(token) for token in plain["input_ids"][1:]
    ]
    pairs = processor([("a dog", "runs"), ("two", "<image> children")], padding=True, return_tensors="pt")
    assert pairs.input_ids.shape == pairs.attention_mask.shape and 3 not in pairs.input_ids
    for wrong in (("a dog", "two"), (photo, photo)):
        with pytest.raises(ValueError, match="by name"):
            processor(*wrong)


def test_text_with_a_photo(folder: Path, photo: Image.Image) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    plain = processor(text="a dog", return_offsets_mapping=True)
    both = processor(text="<image> a dog", images=photo, return_offsets_mapping=True)
    assert both["input_ids"] == plain["input_ids"] and both["offset_mapping"] == plain["offset_mapping"]
    assert torch.FloatTensor(both["pixel_values"]).shape == (1, 3, 48, 48)
    assert set(processor(images=[photo, photo], return_tensors="pt")) == {"pixel_values"}
    with pytest.raises(ValueError, match="give text, images or both"):
        processor()


def test_from_photo_to_caption(folder: Path, photo: Image.Image) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    batch = processor(text=["", "a dog"], images=[photo, photo], padding=True, return_tensors="pt")
    captions = processor.batch_decode(model.generate(**batch, max_new_tokens=5), skip_special_tokens=True)
    assert len(captions) == 2 and captions[1].startswith("a dog")


def test_saving_again_keeps_strangers_and_replaces_its_own(folder: Path, tiny_model: Any, tokenizer_json: str) -> None:
    (folder / "optimizer.pt").write_bytes(b"state")
    model = tiny_model(image_token_id=3, vocab_size=300)
    vision = {"size": 16, "resize": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}
    # Saved with the BOS already in place: it must not come twice.
    save_checkpoint(folder, model, (folder / "tokenizer.json").read_text(), vision)
    assert (folder / "optimizer.pt").read_bytes() == b"state"
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == 16
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids.count(1) == 1


def test_a_full_disk_leaves_the_old_checkpoint(
    folder: Path, tiny_model: Any, tokenizer_json: str, monkeypatch: Any
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    model = tiny_model(image_token_id=3, vocab_size=300)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, model, tokenizer_json, {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3})
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert not any(path.name.startswith(f".{folder.name}") for path in folder.parent.iterdir())


def test_a_tokenizer_that_does_not_fit(tiny_model: Any, tokenizer_json: str, tmp_path: Path) -> None:
    vision = {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ValueError, match="300 entries, the model only 61"):
        save_checkpoint(tmp_path / "c", tiny_model(), tokenizer_json, vision)
    with pytest.raises(ValueError, match="eos_token_id is 350"):
        save_checkpoint(tmp_path / "c", tiny_model(vocab_size=400, eos_token_id=350), tokenizer_json, vision)
    assert not list((tmp_path / "c").iterdir())


def test_bos_joins_an_existing_post_processor(tiny_model: Any, tokenizer_json: str, tmp_path: Path) -> None:
    """GPT-2's tokenizer has one already, which trims the offsets."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    model = tiny_model(vocab_size=300)
    save_checkpoint(tmp_path, model, tokenizer.to_str(), {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3})
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a dog")
    assert encoding.ids[0] == 1 and encoding.offsets[2][0] == 2


def test_register_and_no_work_at_import(folder: Path) -> None:
    """In a process of its own: registering is for good, and importing the package must not do it."""
    script = f"""
import sys
import bitmar
assert "torch" not in sys.modules and "transformers" not in sys.modules
from transformers import AutoConfig, AutoImageProcessor, AutoModelForCausalLM, AutoProcessor
import bitmar.model.register as r
try:
    AutoConfig.for_model("bitmar")
    raise SystemExit("known before register()")
except ValueError:
    pass
r.register()
r.register()
assert type(AutoConfig.for_model("bitmar")) is r.BitMarConfig
assert type(AutoModelForCausalLM.from_pretrained({str(folder)!r})) is r.BitMarForCausalLM
assert type(AutoProcessor.from_pretrained({str(folder)!r})) is r.BitMarProcessor
assert type(AutoImageProcessor.from_pretrained({str(folder)!r})) is r.BitMarImageProcessor
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
