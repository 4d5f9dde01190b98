"""Other people's models: run on the same files, or shown to be out of reach."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bitmar.evaluate.peer import Peer, Unreachable
from bitmar.evaluate.tasks.zero_shot.run import evaluate_tasks
from bitmar.evaluate.work import Work

pytest.importorskip("lm_eval", reason="peers need bitmar[eval]")
pytest.importorskip("torch", reason="peers need bitmar[train]")
transformers = pytest.importorskip("transformers", reason="peers need bitmar[train]")


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A random GPT-2 of bytes, in a folder as the Hub has them."""
    folder = tmp_path / "gpt2"
    vocabulary = {text: i for i, text in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    config = transformers.GPT2Config(
        vocab_size=len(vocabulary), n_positions=128, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_the_same_files(gpt2: Path, tmp_path: Path) -> None:
    lines = [{"query": f"Is {i} even?", "choices": ["no", "yes"], "gold": 1 - i % 2} for i in range(6)]
    with zipfile.ZipFile(tmp_path / "boolq.jsonl.zip", "w") as archive:
        archive.writestr("boolq.jsonl", "\n".join(map(json.dumps, lines)))
    found = evaluate_tasks(Peer(str(gpt2)), None, Work(4), data=tmp_path)
    boolq = found["bitmar_boolq"]
    assert boolq["status"] == "done" and boolq["n"] == 4
    assert boolq["acc"]["low"] < boolq["acc"]["value"] < boolq["acc"]["high"] and boolq["chance"]["uniform"] == 0.5
    assert "arc_easy.jsonl.zip is not there" in found["bitmar_arc_easy"]["message"]


def test_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="nobody/nothing cannot be had"):
        evaluate_tasks(Peer("nobody/nothing"), None, Work(), data=tmp_path)
