"""Fine-tuning on made data: what can be learned is learned, what cannot is not, and a stop changes nothing."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("sklearn", reason="fine-tuning needs bitmar[train]")


from bitmar.core.errors import ConfigError, DataError, FormatError
from bitmar.train import classifier
from bitmar.train import finetune as module
from bitmar.train.classifier import Classifier, load_classifier
from bitmar.train.finetune import PREDICTIONS, Protocol, ShuffledRows, finetune
from bitmar.train.finetune_report import FinetuneReport, read_report
from bitmar.train.runs import read_log
from bitmar.train.tasks import LineFile
from bitmar.train.trainer import BatchTrainer, checkpoints

from ._tiny import TASK, WORDS, save_tiny

QUICK = Protocol(learning_rate=3e-3, epochs=3, threads=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


def write_lines(path: Path, count: int, seed: int, *, shuffled: bool = False) -> Path:
    """Sentences with "good" or "bad" in them, somewhere; the label says which, or nothing if shuffled."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for i in range(count):
            words = rng.choices(WORDS, k=rng.randint(2, 6))
            words.insert(rng.randint(0, len(words)), "good" if i % 2 else "bad")
            label = rng.choice("+-") if shuffled else "+" if i % 2 else "-"
            file.write(json.dumps({"text": " ".join(words), "label": label}) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lines")
    counts = {"train": 320, "valid": 60, "test": 100}
    return {split: write_lines(folder / f"{split}.jsonl", n, seed=n) for split, n in counts.items()}


@pytest.fixture(scope="module")
def finished(checkpoint: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds on the task that can be learned."""
    out = tmp_path_factory.mktemp("finished") / "mood"
    finetune(TASK, checkpoint, out, **files, seeds=2, protocol=QUICK)
    return out


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / PREDICTIONS).read_text().splitlines()]


def test_what_can_be_learned_is_learned(finished: Path, files: dict[str, Path]) -> None:
    report = read_report(finished)
    assert (report.split, report.items, report.labels) == ("test", 100, ["+", "-"])
    assert report.mean["accuracy"].low > 0.9 and report.above_majority
    assert report.majority == {"accuracy": 0.5, "f1": 0.0, "mcc": 0.0} and report.majority_label == "+"
    assert [result.seed for result in report.seeds] == [42, 43] and report.over_seeds is not None
    assert set(report.files) == {"model", "train", "valid", "test"}
    for result in report.seeds:
        folder = finished / f"seed-{result.seed}"
        lines = predictions(folder)
        assert [line["id"] for line in lines] == [f"mood_{i}" for i in range(100)]
        assert np.mean([line["pred"] == line["label"] for line in lines]) == result.metrics["accuracy"].value
        assert result.epoch == 1 + int(np.argmax([entry["accuracy"] for entry in result.history]))
        assert [line["valid_accuracy"] for line in read_log(folder) if "loss" in line] == [
            pytest.approx(entry["accuracy"]) for entry in result.history
        ]
        assert not checkpoints(folder) and not (folder / module.BEST).exists()  # what only served resuming


def test_shuffled_labels_are_not_learned(checkpoint: Path, tmp_path: Path) -> None:
    made = {split: write_lines(tmp_path / f"{split}.jsonl", 200, i, shuffled=True) for i, split in
            enumerate(("train", "valid", "test"))}  # fmt: skip
    report = finetune(TASK, checkpoint, tmp_path / "out", **made, protocol=QUICK)
    accuracy = report.mean["accuracy"]
    assert accuracy.low < 0.5 < accuracy.high and not report.above_majority


def test_the_folder_is_a_model_again(finished: Path, files: dict[str, Path], tmp_path: Path) -> None:
    folder = finished / "seed-42"
    expected = [(line["pred"], line["probability"]) for line in predictions(folder)]
    model = load_classifier(folder)
    assert not model.training and model.body.vision_tower is None
    found = list(model.predict(files["test"]))
    assert [(line["pred"], line["probability"]) for line in found] == expected
    unlabelled = tmp_path / "new.jsonl"
    unlabelled.write_text('{"text": "a good dog"}\n{"txt": "?"}\n{"text": "a bad dog"}\n')
    skipped: dict[str, str] = {}
    assert [(line["line"], line["pred"]) for line in model.predict(unlabelled, skipped.__setitem__)] == [
        (1, "+"),
        (3, "-"),
    ]
    assert skipped == {f"{unlabelled}:2": "no field 'text' (did you mean 'txt'?)"}


def test_a_damaged_folder_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no fine-tuned model"):
        load_classifier(finished)
    for name, content in (("classifier.json", b"{"), ("model.safetensors", b"short"), ("tokenizer.json", b"[]")):
        copy = tmp_path / name.partition(".")[0]
        shutil.copytree(finished / "seed-42", copy)
        (copy / name).write_bytes(content)
        with pytest.raises(FormatError, match="cannot be read"):
            load_classifier(copy)


class Killed(Exception):
    pass


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    """In the middle of a step, after its backward pass."""
    once = BatchTrainer.training_step

    def training_step(self: BatchTrainer, *arguments: Any, **named: Any) -> Any:
        loss = once(self, *arguments, **named)
        if self.state.global_step == step:
            raise Killed
        return loss

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(BatchTrainer, "training_step", training_step)
        run()


def same_result(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    same_text = all((one / name).read_text() == (other / name).read_text() for name in (PREDICTIONS, module.RESULT))
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a) and same_text


def test_a_killed_run_goes_on_to_the_same_weights(
    checkpoint: Path, files: dict[str, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> FinetuneReport:
        return finetune(TASK, checkpoint, tmp_path, **files, protocol=QUICK)

    killed_at(16, monkeypatch, run)  # ten steps an epoch: once in the second, whose first is kept
    assert [path.name for path in checkpoints(tmp_path / "seed-42")] == ["checkpoint-10"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "_finish", lambda *_: (_ for _ in ()).throw(Killed))  # and once when all is trained
        run()
    run()
    assert same_result(tmp_path / "seed-42", finished / "seed-42")
    steps = [line["step"] for line in read_log(tmp_path / "seed-42") if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_finished_seed_is_not_run_again(
    checkpoint: Path, files: dict[str, Path], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "from_checkpoint", lambda *_, **__: pytest.fail("trained again"))
    before = read_report(finished)
    assert finetune(TASK, checkpoint, finished, **files, seeds=2, protocol=QUICK) == before


def test_another_run_does_not_mix_into_a_folder(
    checkpoint: Path, files: dict[str, Path], finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"whose learning_rate is not the same \(0\.003, now 0\.1\)"):
        finetune(TASK, checkpoint, finished, **files, protocol=Protocol(learning_rate=0.1, epochs=3))
    other = {**files, "train": write_lines(tmp_path / "other.jsonl", 40, 1)}
    with pytest.raises(ConfigError, match="whose files is not the same: choose another folder"):
        finetune(TASK, checkpoint, finished, **other, protocol=QUICK)
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name in (f"seed-42/{module.RESULT}", module.PROTOCOL):
        (copy / name).write_text("{")
        with pytest.raises(DataError, match=r"cannot be read .*: delete"):
            finetune(TASK, checkpoint, copy, **files, protocol=QUICK)


def test_bad_lines_are_counted_by_file(checkpoint: Path, files: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "valid.jsonl"
    broken.write_text("{\n" + files["valid"].read_text() + '{"text": "no label"}\n')
    seen: list[str] = []
    report = finetune(
        TASK, checkpoint, tmp_path / "out", train=files["train"], valid=broken,
        protocol=Protocol(epochs=1, threads=1), on_bad=lambda where, reason: seen.append(where),
    )  # fmt: skip
    assert seen == [f"{broken}:1", f"{broken}:62"]
    assert report.skipped == {"train": 0, "valid": 2} and report.items == 60
    assert predictions(tmp_path / "out" / "seed-42")[0]["id"] == "mood_1"  # its place in the file, as the pipeline has


def test_what_is_missing_is_said_before_anything_is_trained(
    checkpoint: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="did you mean 'rte'"):
        finetune("rtee", checkpoint, out, data=tmp_path)
    with pytest.raises(DataError, match=r"no file .*rte\.train\.jsonl.*glue_filtered"):
        finetune("rte", checkpoint, out, data=tmp_path)
    for given in ({}, {"train": files["train"]}, {"data": tmp_path, "train": files["train"], "valid": files["valid"]}):
        with pytest.raises(ConfigError, match="say where the lines are"):
            finetune("rte", checkpoint, out, **given)
    with pytest.raises(DataError, match="held-out data has labels that training data has not"):
        finetune(TASK, checkpoint, out, train=files["train"], valid=files["valid"], test=_label(tmp_path, "?"))
    with pytest.raises(DataError, match="nothing to tell apart"):
        finetune(TASK, checkpoint, out, train=_label(tmp_path, "+"), valid=files["valid"])
    with pytest.raises(ConfigError, match="epochs must be at least 1, not 0"):
        finetune(TASK, checkpoint, out, **files, protocol=Protocol(epochs=0))
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        finetune(TASK, checkpoint, out, **files, protocol=Protocol(pooling="means"))
    with pytest.raises(ConfigError, match="seeds is a number from 1"):
        finetune(TASK, checkpoint, out, **files, seeds=0)
    assert not list(out.glob("*/*"))


def _label(folder: Path, label: str) -> Path:
    path = folder / "labelled.jsonl"
    path.write_text(json.dumps({"text": "a dog", "label": label}) + "\n")
    return path


def test_only_a_whole_checkpoint_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    def load(folder: Path) -> Classifier:
        return Classifier.from_checkpoint(folder, TASK, ["+", "-"])

    with pytest.raises(FormatError, match="packed for use; fine-tuning needs the checkpoint folder"):
        load(tmp_path / "model.bitmar")
    with pytest.raises(FormatError, match=r"no checkpoint folder, it has no config\.json"):
        load(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    weights = load_file(copy / "model.safetensors")
    del weights[next(name for name in weights if name.startswith("model.encoder."))]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match="not whole: 1 tensors are missing, encoder"):
        load(copy)
    (copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(FormatError, match="cannot be read"):
        load(copy)


def test_a_batch_in_groups_of_like_length_teaches_the_same(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (1 << 30, 2):
        monkeypatch.setattr(classifier, "_GROUP", size)
        torch.manual_seed(0)
        model = Classifier.from_checkpoint(checkpoint, TASK, ["a", "b"])
        for part in model.body.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0  # the head keeps its own, which sees the batch in its order
        inputs = model.pad(model.encode([(" ".join(WORDS[:n]),) for n in (2, 9, 3, 8, 1)]))
        output = model(**inputs, labels=torch.tensor([0, 1, 0, 1, 1]))
        output["loss"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((output["logits"], gradients))
    (logits, gradients), (same, again) = found
    torch.testing.assert_close(same, logits)
    assert gradients.keys() == again.keys() and len(gradients) > 10
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


def test_so_many_of_the_training_lines(checkpoint: Path, files: dict[str, Path], tmp_path: Path) -> None:
    data = {"train": files["train"], "valid": files["valid"]}
    report = finetune(TASK, checkpoint, tmp_path, **data, protocol=Protocol(epochs=1, lines=40, threads=1))
    assert (report.trained, report.items, report.protocol["lines"]) == (40, 60, 40)
    lines = module.Lines.read(TASK, {split: LineFile(path) for split, path in data.items()})
    numbers = [example.number for example in lines.drawn(40).examples["train"]]
    assert numbers == sorted(set(numbers)) and len(numbers) == 40 and numbers != list(range(40))
    assert numbers == [example.number for example in lines.drawn(40).examples["train"]]
    assert lines.drawn(1000) is lines and len(lines.drawn(40).examples["valid"]) == 60
    with pytest.raises(ConfigError, match="1 lines have none of the label"):
        lines.drawn(1)
    with pytest.raises(ConfigError, match="whose lines is not the same"):
        finetune(TASK, checkpoint, tmp_path, **data, protocol=Protocol(epochs=1, lines=41, threads=1))
    with pytest.raises(ConfigError, match="lines must be at least 1, not 0"):
        finetune(TASK, checkpoint, tmp_path / "0", **data, protocol=Protocol(lines=0))


def test_of_a_frozen_body_the_states_are_computed_once(
    checkpoint: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    once = Classifier.states

    def states(self: Classifier, rows: Any, *more: Any) -> torch.Tensor:
        computed.append(len(rows))
        return once(self, rows, *more)

    monkeypatch.setattr(Classifier, "states", states)
    protocol = Protocol(learning_rate=3e-3, epochs=2, frozen=True, threads=1)
    killed_at(12, monkeypatch, lambda: finetune(TASK, checkpoint, tmp_path / "a", **files, protocol=protocol))
    with pytest.raises(ConfigError, match="whose max_length is not the same"):
        finetune(TASK, checkpoint, tmp_path / "a", **files, protocol=replace(protocol, max_length=3))
    report = finetune(TASK, checkpoint, tmp_path / "a", **files, seeds=2, protocol=protocol)
    assert computed == [320, 60, 100]
    assert report.training == "head alone, 2 epochs of 320 lines at 0.003"
    finetune(TASK, checkpoint, tmp_path / "b", **files, protocol=protocol)
    assert same_result(tmp_path / "a" / "seed-42", tmp_path / "b" / "seed-42")
    body, heads = Classifier.from_checkpoint(checkpoint, TASK, ["+", "-"]).body.state_dict(), []
    for seed in (42, 43):
        weights = load_file(tmp_path / "a" / f"seed-{seed}" / "model.safetensors")
        assert all(weights[f"body.{name}"].equal(tensor) for name, tensor in body.items())
        heads.append(weights["head.1.weight"])
    assert not heads[0].equal(heads[1])
    model = load_classifier(tmp_path / "a" / "seed-42")  # which reads texts as any other
    said = [line["pred"] for line in predictions(tmp_path / "a" / "seed-42")]
    assert [line["pred"] for line in model.predict(files["test"])] == said


def test_an_epoch_shows_every_line_once(checkpoint: Path) -> None:
    model = Classifier.from_checkpoint(checkpoint, TASK, ["a", "b"])
    rows = [[1, 10 + i] for i in range(11)]
    source = ShuffledRows(model, rows, np.arange(11) % 2, batch=4, seed=3)
    assert len(source) == 2
    epochs = [[source[2 * e + i]["input_ids"][:, 1].tolist() for i in range(2)] for e in range(3)]
    for epoch in epochs:
        assert max(Counter(token for batch in epoch for token in batch).values()) == 1
    assert epochs[0] != epochs[1]
    assert all(bool(((b["input_ids"][:, 1] - 10) % 2 == torch.as_tensor(b["labels"])).all()) for b in (source[0],))
    again = ShuffledRows(model, rows, np.arange(11) % 2, batch=4, seed=3)
    assert again[5]["input_ids"].equal(source[5]["input_ids"])  # batch 5 without the five before it
    assert len(ShuffledRows(model, rows, np.arange(11) % 2, batch=32, seed=3)) == 1
