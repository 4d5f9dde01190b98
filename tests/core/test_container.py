from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from bitmar.core import layout
from bitmar.core.config import ModelConfig
from bitmar.core.container import open_container, write_container
from bitmar.core.errors import BitMarError, FormatError

Tensors = dict[str, np.ndarray]


def test_gives_back_what_was_written(good_file: Path, tensors: Tensors, parts: dict[str, Any]) -> None:
    opened = open_container(good_file)
    assert opened.config == parts["config"]
    assert (opened.vision, opened.card) == (parts["vision"], parts["card"])
    assert opened.tokenizer_json == parts["tokenizer_json"]
    assert opened.load_tokenizer().get_vocab_size() == 3
    assert opened.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(opened.tensors[name], tensor)


def test_tensors_are_read_only_views_of_the_file(good_file: Path) -> None:
    for tensor in open_container(good_file).tensors.values():
        assert not tensor.flags.owndata and not tensor.flags.writeable and tensor.flags.aligned


def test_the_stock_library_reads_it(good_file: Path, tensors: Tensors) -> None:
    loaded = load_file(good_file)
    assert loaded.keys() == tensors.keys()
    np.testing.assert_array_equal(loaded["lm_head.weight"], tensors["lm_head.weight"])
    with safe_open(good_file, framework="numpy") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("bitmar", "3")
    assert json.loads(metadata["config"])["hidden_size"] == 12


def test_writing_is_reproducible(good_file: Path, tensors: Tensors, parts: dict[str, Any], tmp_path: Path) -> None:
    again = tmp_path / "again.bitmar"
    write_container(again, dict(reversed(tensors.items())), **parts)
    assert again.read_bytes() == good_file.read_bytes()


def test_a_file_replaced_after_the_opening_is_read_as_it_was(
    good_file: Path, tensors: Tensors, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "m.bitmar", tmp_path / "other.bitmar"
    path.write_bytes(good_file.read_bytes())
    write_container(other, {**tensors, "lm_head.scale": np.full(1, 2, np.float32)}, **{**parts, "card": {"a": "b"}})
    parse = layout.parse_json

    def replacing(header: bytes) -> Any:
        if other.exists():
            os.replace(other, path)
        return parse(header)

    monkeypatch.setattr(layout, "parse_json", replacing)
    first, second = open_container(path), open_container(path)
    assert first.card == parts["card"] and first.tensors["lm_head.scale"] == tensors["lm_head.scale"]
    assert second.card == {"a": "b"} and second.tensors["lm_head.scale"] == 2


def test_transposed_views_are_written_as_they_read(tensors: Tensors, parts: dict[str, Any], tmp_path: Path) -> None:
    turned = {name: np.array(t.T, order="C").T for name, t in tensors.items()}
    write_container(tmp_path / "m.bitmar", turned, **parts)
    opened = open_container(tmp_path / "m.bitmar")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(opened.tensors[name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("lm_head.scale"), "1 missing, such as 'lm_head.scale'"),
        (lambda t: t.update(surplus=np.zeros(1, np.float32)), "1 unexpected, such as 'surplus'"),
        (lambda t: t.update({"lm_head.scale": np.zeros(1, np.float32)}), "not positive"),
        (lambda t: t.update({"lm_head.scale": np.full(1, np.nan, np.float32)}), "not finite"),
        (lambda t: t.update({"lm_head.scale": np.ones(1, np.float64)}), "float64"),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1]}), r"\(19, 3\), not U8 \(20, 3\)"),
    ],
)
def test_refuses_to_write_what_it_would_not_open(
    tensors: Tensors, parts: dict[str, Any], tmp_path: Path, change: Callable[[Tensors], None], message: str
) -> None:
    wrong = dict(tensors)
    change(wrong)
    with pytest.raises(FormatError, match=f"refusing to write.*{message}"):
        write_container(tmp_path / "m.bitmar", wrong, **parts)
    assert not os.listdir(tmp_path)


def test_a_full_disk_keeps_the_old_file(
    tensors: Tensors, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.bitmar"
    write_container(path, tensors, **parts)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BitMarError, match="No space left"):
        write_container(path, tensors, **{**parts, "card": {"licence": "another"}})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.bitmar"]


def test_features_from_outside_need_no_tower(config: ModelConfig, tensors: Tensors, parts: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="'features', but the configuration"):
        write_container("m.bitmar", tensors, **{**parts, "vision": {**parts["vision"], "tower": "features"}})
    plain = dataclasses.replace(config, vision_tower=None)
    with pytest.raises(FormatError, match="'bitvit', but the configuration"):
        write_container("m.bitmar", tensors, **{**parts, "config": plain})


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(
    tensors: Tensors, parts: dict[str, Any], tmp_path: Path
) -> None:
    big = parts["tokenizer_json"].replace('"a":0', '"a":20')
    with pytest.raises(
        FormatError, match=r"refusing to write: .*'a' has the id 20, outside the model's vocabulary of 20"
    ):
        write_container(tmp_path / "m.bitmar", tensors, **{**parts, "tokenizer_json": big})


def test_a_damaged_tokenizer_is_one_error(tensors: Tensors, parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="refusing to write: damaged tokenizer"):
        write_container(tmp_path / "m.bitmar", tensors, **{**parts, "tokenizer_json": "{}"})
