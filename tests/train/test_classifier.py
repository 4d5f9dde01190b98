"""The classifier on top of a checkpoint: a line is encoded, padded and judged as alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="fine-tuning needs bitmar[train]")

from bitmar.train.classifier import Classifier
from bitmar.train.tasks import TASKS

from ._tiny import TASK, TINY, WORDS, save_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_line_is_judged_alone(checkpoint: Path, pooling: str) -> None:
    """Neither what stands beside it in a batch, nor the order, nor padding, nor what was seen before, matters."""
    model = Classifier.from_checkpoint(checkpoint, TASK, ["a", "b", "c"], pooling=pooling).eval()
    rows = model.encode([(" ".join(WORDS[:n]),) for n in (1, 9, 3, 5, 2)])
    together = model.probabilities(rows)
    alone = torch.cat([model.probabilities([row]) for row in rows])
    backwards = model.probabilities(rows[::-1]).flip(0)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together, backwards, rtol=0, atol=1e-6)
    assert (together.sum(1) - 1).abs().max() < 1e-6


def test_the_last_token_has_seen_all_and_padding_is_not_it(checkpoint: Path) -> None:
    model = Classifier.from_checkpoint(checkpoint, TASK, ["a", "b"]).eval()
    row = model.encode([("the dog runs",)])[0]
    inputs = model.pad([row, [*row, *row]])  # the first is padded
    state = model.body(input_ids=torch.tensor([row]), write_memory=False).last_hidden_state[0, -1]
    torch.testing.assert_close(model(**inputs)["logits"][0], model.head(state))
    changed = model.probabilities([[row[0], 5, *row[2:]]])  # the first token behind BOS
    assert not torch.allclose(changed, model.probabilities([row]))


def test_training_sees_the_memory_that_use_will_see(checkpoint: Path) -> None:
    """A body in training mode would write at segment ends, which in use it does not."""
    model = Classifier.from_checkpoint(checkpoint, TASK, ["a", "b"])
    model.body.config.dropout = 0.0
    inputs = model.pad(model.encode([(" ".join(WORDS * 2),)]))
    assert inputs["input_ids"].shape[1] > 2 * TINY["memory_segment"]
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    torch.testing.assert_close(model.train()(**inputs)["logits"], model.eval()(**inputs)["logits"], rtol=0, atol=0)


def test_pairs_are_encoded_as_the_checkpoint_writes_them(checkpoint: Path) -> None:
    model = Classifier.from_checkpoint(checkpoint, TASKS["rte"], (0, 1), max_length=8)
    (one,), (two,) = model.encode([("the dog",)]), model.encode([("a man",)])
    assert model.encode([("the dog", "a man")]) == [one + two[1:]] and one[0] == TINY["bos_token_id"]
    (cut,) = model.encode([("the dog", " ".join(WORDS * 5))])
    assert len(cut) == 8 and cut[: len(one)] == one  # of the two, the longer is cut
    assert 2 not in model.encode([("<eos>",)])[0]  # a text writes no special token
