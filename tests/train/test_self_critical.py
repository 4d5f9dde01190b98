"""The batch is what was drawn, and what is rewarded becomes likelier."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

from bitmar.core.errors import ConfigError
from bitmar.model.arguments import Rows
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.train.recipe import load_recipe
from bitmar.train.run import run
from bitmar.train.self_critical import Critic, self_critical_inputs


@pytest.fixture
def model() -> BitMarForCausalLM:
    torch.manual_seed(0)
    config = BitMarConfig(
        vocab_size=12, hidden_size=16, num_heads=2, intermediate_size=24, encoder_layers=1, decoder_layers=1,
        vision_dim=6, vision_grid=2, vision_pool=1, vision_hidden=8, memory_slots=4, memory_dim=8, memory_segment=20,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return BitMarForCausalLM(config).train()


@pytest.fixture
def tokenizer() -> Tokenizer:
    words = ["<pad>", "<bos>", "<eos>", *"abcdefghi"]
    return Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))


def batch(images: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "input_ids": torch.ones(images, 8, dtype=torch.long),
        "image_ids": torch.arange(images),
        "vision_features": torch.from_numpy(rng.standard_normal((images, 4, 6)).astype(np.float32)),
    }


class Counting:
    """In CIDEr's place: how many words of a caption are "b"."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], list[str], list[bool]]] = []

    def __call__(self, images: Sequence[int], captions: Sequence[str], ended: Sequence[bool]) -> torch.Tensor:
        self.asked.append((list(images), list(captions), list(ended)))
        return torch.tensor([float(text.split().count("b")) for text in captions])


def test_the_batch_is_what_was_drawn(model: BitMarForCausalLM, tokenizer: Tokenizer) -> None:
    torch.manual_seed(1)
    reward = Counting()
    drawn, mean = self_critical_inputs(model, batch(4), reward, tokenizer, samples=6)  # type: ignore[arg-type]
    ((images, captions, ended),) = reward.asked
    assert images == [i for i in range(4) for _ in range(6)] and len(set(captions)) > 5
    assert drawn["input_ids"].shape == (24, 8) and model.training
    for ids, labels, mask, text, end in zip(
        *(drawn[k].tolist() for k in ("input_ids", "labels", "attention_mask")), captions, ended, strict=True
    ):
        length = sum(mask)
        assert mask == [1] * length + [0] * (8 - length) and ids[0] == 1
        assert (ids[length - 1] == 2) == end and 2 not in ids[1 : length - 1]
        assert labels[:length] == ids[:length] and set(labels[length:]) <= {-100}
        letters = [tokenizer.id_to_token(i) for i in ids[1:length] if i > 2]
        assert [word for word in text.split() if not word.startswith("<")] == letters
    weights = drawn["rows"].weights.view(4, 6)
    assert torch.allclose(weights.sum(1), torch.zeros(4), atol=1e-5) and weights.abs().max() > 0
    assert mean == pytest.approx(sum(text.split().count("b") for text in captions) / 24)


def test_row_weights_scale_each_row(model: BitMarForCausalLM) -> None:
    ids = torch.randint(3, 12, (3, 6), generator=torch.Generator().manual_seed(0))
    model.contrastive_weight = model.memory_weight = 0

    def gradient(**options: Any) -> torch.Tensor:
        model.zero_grad()
        model(ids, labels=ids, write_memory=False, **options).loss.backward()
        return model.model.embed_tokens.weight.grad.clone()

    rows = [gradient(rows=Rows(weights=torch.eye(3)[i])) for i in range(3)]
    torch.testing.assert_close(sum(rows), gradient(), atol=1e-5, rtol=1e-3)
    weighted = gradient(rows=Rows(weights=torch.tensor([0.5, 0.0, -2.0])))
    torch.testing.assert_close(weighted, 0.5 * rows[0] - 2 * rows[2], atol=1e-5, rtol=1e-3)


def test_what_is_rewarded_becomes_likelier(model: BitMarForCausalLM, tokenizer: Tokenizer) -> None:
    torch.manual_seed(2)
    model.contrastive_weight = model.memory_weight = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    means = []
    for _ in range(40):
        drawn, mean = self_critical_inputs(model, batch(8), Counting(), tokenizer, samples=4)  # type: ignore[arg-type]
        means.append(float(mean))
        optimizer.zero_grad()
        model(**drawn).loss.backward()
        optimizer.step()
    assert np.mean(means[-5:]) > 2 * np.mean(means[:5])


def test_a_stage_with_this_objective(recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> None:
    """A fit stage over photos: it logs the reward, and its tower stands still."""
    pytest.importorskip("pycocoevalcap", reason="the reward needs bitmar[eval]")
    stage = recipe["stages"][0]
    training = {**stage["training"], "steps": 2, "accumulation": 1, "save_words": False}
    recipe["stages"] = [
        {**stage, "name": "first", "controller": False, "training": training},
        {**stage, "name": "reward", "start": "first", "objective": "cider", "samples": 2, "episodes": 1,
         "controller": False, "contrastive": 0.0, "memory": 0.0, "text_share": 0.0, "training": training},
    ]  # fmt: skip
    run(load_recipe(write(recipe)))
    folders = [tmp_path / "run" / name for name in ("first", "reward")]
    log = [json.loads(line) for line in (folders[1] / "log.jsonl").read_text().splitlines()]
    assert any("reward" in row for row in log)
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any("vision_tower" in name for name in moved)
    assert any("decoder" in name for name in moved)


def test_the_weight_of_the_reward(model: BitMarForCausalLM, tokenizer: Tokenizer) -> None:
    captions: Any = SimpleNamespace(references=lambda: {3: ("A red dog runs.", "The red dog is running fast.")})
    losses = []
    for weight in (1.0, 6.0):
        stage: Any = SimpleNamespace(samples=4, reward=weight, naming=0.0)
        critic = Critic(model, captions, tokenizer, stage)
        critic.reward = Counting()  # type: ignore[assignment]
        torch.manual_seed(3)
        losses.append(critic(model, **batch(4))["loss"].item())
    assert losses[0] != 0 and losses[1] == pytest.approx(6 * losses[0])


@pytest.mark.parametrize(
    "change, message",
    [({"objective": "cidr"}, "did you mean 'cider'"), ({"objective": "cider", "samples": 1}, "2 samples")],
)
def test_wrong_objectives_are_refused(
    recipe: dict[str, Any], write: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    recipe["stages"][0] |= change
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(recipe))


def test_captions_are_drawn_without_dropout(model: BitMarForCausalLM, tokenizer: Tokenizer) -> None:
    draw, training = model.generate, []

    def generate(*args: Any, **options: Any) -> Any:
        training.append([module.training for module in model.modules()])
        return draw(*args, **options)

    model.generate = generate  # type: ignore[method-assign]
    self_critical_inputs(model, batch(2), Counting(), tokenizer, samples=2)  # type: ignore[arg-type]
    assert len(training) == 1 and not any(training[0]) and model.training
