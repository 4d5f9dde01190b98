"""`bitmar info` and `bitmar export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.container import open_container
from bitmar.core.tensors import linear_shapes
from bitmar.core.ternary import unpack2

Cli = Callable[..., Any]


def about(cli: Cli, path: Path) -> dict[str, Any]:
    result = cli("info", path, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_info_counts_a_packed_model(cli: Cli, model: Path, card: dict[str, Any]) -> None:
    found, container = about(cli, model), open_container(model)
    shapes = linear_shapes(container.config)
    codes = [unpack2(container.tensors[name], shape[1]) for name, shape in shapes.items()]
    zeros = sum(int((code == 0).sum()) for code in codes) / sum(code.size for code in codes)
    assert found["zero_fraction"] == pytest.approx(zeros, abs=1e-5)
    assert found["bytes"] == model.stat().st_size == sum(part["bytes"] for part in found["parts"].values())
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"].values())
    head = found["parts"]["head"]
    assert head["parameters"] == 260 * 12 and head["bits_per_weight"] == pytest.approx(2, abs=0.02)
    assert found["parts"]["embedding"]["zero_fraction"] is None
    assert (found["checksum"], found["licence"]) == ("ok", card["licence"])
    assert found["training_data"] == card["training_data"] and found["tokenizer"] == {"entries": 260}


def test_info_in_words(cli: Cli, model: Path) -> None:
    text = cli("info", model).stdout
    for word in ("vision tower", "bits/weight", "checksum: ok", "licence: research only", "two shards, a book"):
        assert word in text


def test_info_refuses_a_damaged_model(fails: Callable[..., str], model: Path, tmp_path: Path) -> None:
    whole, path = model.read_bytes(), tmp_path / "m.bitmar"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "checksum" in fails("info", path)


def test_a_run_its_checkpoint_and_its_model_agree(cli: Cli, trained: Path) -> None:
    run, checkpoint, packed = (about(cli, path) for path in (trained, trained / "joint", trained / "model.bitmar"))
    assert run["stages"] == [{"name": "joint", "finished": True, "step": 2, "loss": pytest.approx(6, abs=4)}]
    assert run["model"] == packed
    assert checkpoint["kind"] == "training checkpoint"
    assert checkpoint["parameters"] == packed["parameters"] + 1  # the contrastive temperature stays behind
    assert checkpoint["zero_fraction"] == packed["zero_fraction"]
    assert "joint: finished, step 2" in cli("info", trained).stdout


def test_export_from_a_run_and_from_a_checkpoint(cli: Cli, trained: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "out" / "a.bitmar", tmp_path / "out"
    assert cli("export", trained, first).exit_code == 0
    packed = about(cli, trained / "model.bitmar")
    assert about(cli, first) == {**packed, "path": str(first)}  # with the card that the run gave
    result = json.loads(cli("export", trained / "joint", second, "--json").stdout)
    assert result == about(cli, second / "model.bitmar")
    assert result["card"] == packed["card"] and result["zero_fraction"] == packed["zero_fraction"]
    (trained / "joint" / "card.json").rename(tmp_path / "card.json")
    try:
        alone = json.loads(cli("export", trained / "joint", tmp_path / "alone.bitmar", "--json").stdout)
    finally:
        (tmp_path / "card.json").rename(trained / "joint" / "card.json")
    assert alone["card"] == {"name": "joint"}


def test_an_unfinished_run_has_nothing_to_export(fails: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run" / "language").mkdir(parents=True)
    (tmp_path / "run" / "language" / "log.jsonl").write_text('{"step": 50, "loss": 4.5}\n{"step": 10')
    message = fails("export", tmp_path / "run", tmp_path / "m.bitmar")
    assert "language" in message and "bitmar train" in message
    assert not (tmp_path / "m.bitmar").exists()


def test_a_caption_by_the_name_of_the_run(cli: Cli, trained: Path, photo: Path) -> None:
    assert cli("caption", photo, "--model", trained).exit_code == 0


def test_unpack_is_the_way_back_from_export(cli: Cli, fails: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    result = cli("unpack", trained / "model.bitmar", tmp_path / "again")
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "again"), result.output
    assert cli("export", tmp_path / "again", tmp_path / "again.bitmar").exit_code == 0
    first, again = (open_container(path).tensors for path in (trained / "model.bitmar", tmp_path / "again.bitmar"))
    assert all(
        (again[name] == first[name]).all()
        for name in linear_shapes(open_container(trained / "model.bitmar").config)
        if name in again
    )
    (tmp_path / "notes.bitmar").write_text("no model")
    assert "notes.bitmar" in fails("unpack", tmp_path / "notes.bitmar", tmp_path / "out")
