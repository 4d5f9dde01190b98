"""`bitmar caption --data`: whole shards, stopped and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitmar
from bitmar.runtime.api import BitMar

Cli = Callable[..., Any]
Fails = Callable[..., str]
Make = Callable[..., Path]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_per_photo(cli: Cli, model: Path, shard: Path, jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    out = tmp_path / "new" / "captions.json"
    result = cli("caption", "--data", shard, "--json", out, "--model", model, "--max-tokens", 5)
    assert result.exit_code == 0, result.output
    lines = read(out)
    assert [line["key"] for line in lines] == [f"things-00000/00{i}" for i in (0, 1, 3, 4)]
    assert lines[1] == {
        "key": "things-00000/001",
        "caption": bitmar.load(model).caption(jpeg("green"), max_tokens=5),
        "references": ["A green thing .", "All green."],
    }
    assert "things-00000/002" in result.stderr and "1 skipped" in result.stderr.splitlines()[-1]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_stopped_run_goes_on(
    cli: Cli, model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "captions.json"
    arguments = ["caption", "--data", shard, "--model", model, "--json"]
    cli(*arguments, whole)
    captions, seen = BitMar.caption, []

    def stop_at_the_fourth(self: BitMar, *given: Any, **options: Any) -> str:
        seen.append(given)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return captions(self, *given, **options)

    monkeypatch.setattr(BitMar, "caption", stop_at_the_fourth)
    assert cli(*arguments, out).exit_code == 130
    partial = tmp_path / "captions.json.partial"
    assert not out.exists() and partial.exists()
    with partial.open("a") as file:
        file.write('{"key": "things-000')  # as a kill leaves it
    seen[:] = [None] * 3  # never stops again
    result = cli(*arguments, out)
    assert result.exit_code == 0 and len(seen) == 3 + 2
    assert out.read_bytes() == whole.read_bytes() and not partial.exists()
    assert "things-00000/002" in result.stderr  # skipped by the first run, still named and counted


def test_captions_of_two_models_never_mix(fails: Fails, model: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "captions.json"
    (tmp_path / "captions.json.partial").write_text('{"model": "another", "data": []}\n')
    assert "delete it" in fails("caption", "--data", shard, "--json", out, "--model", model)


def test_a_cut_shard_gives_what_it_has(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    cut, out = tmp_path / "cut-00000.tar", tmp_path / "captions.json"
    cut.write_bytes(shard.read_bytes()[:6000])
    result = cli("caption", "--data", cut, "--data", shard, "--json", out, "--model", model)
    keys = [line["key"] for line in read(out)]
    assert result.exit_code == 0 and str(cut) in result.stderr and "cut off" in result.stderr
    assert "cut-00000/000" in keys and "things-00000/004" in keys


def test_limit_and_grid(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out, grid = tmp_path / "captions.jsonl", tmp_path / "grid.png"
    assert cli("caption", "--data", shard, "--model", model, "--json", out, "--limit", 2, "--grid", grid).exit_code == 0
    assert len(read(out)) == 2
    with Image.open(grid) as sheet:
        assert sheet.width == 2 * 336 + 16
    grid.unlink()
    assert cli("caption", "--data", shard, "--model", model, "--grid", grid).exit_code == 0
    assert grid.exists()


def test_shards_without_a_readable_photo_fail(fails: Fails, write_shard: Make, model: Path, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "bad-0.tar", [("0", b"no photo", ["A."])])
    assert "no photo of" in fails("caption", "--data", shard, "--json", tmp_path / "o.json", "--model", model)
    assert "no shard at" in fails(
        "caption", "--data", tmp_path / "x.tar", "--json", tmp_path / "o.json", "--model", model
    )


class FlatTower:
    """2x2 patches of 10, made of the photo's mean colour."""

    name, size, grid, dim, scale, fingerprint = "flat", 8, 2, 10, None, "0" * 16
    mean = std = (0.0, 0.0, 0.0)

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        return np.repeat(photos.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 99, 4, 1).repeat(10, 2)


def test_features_stand_in_for_a_tower(cli: Cli, fails: Fails, make_model: Make, shard: Path, tmp_path: Path) -> None:
    from bitmar.data.features import extract_features
    from bitmar.data.sources import iter_webdataset

    model, out = make_model(tmp_path / "m.bitmar", tower=False), tmp_path / "captions.json"
    assert "--features" in fails("caption", "--data", shard, "--json", out, "--model", model)
    store = extract_features(iter_webdataset(str(shard)), tmp_path / "features", FlatTower())
    result = cli("caption", "--data", shard, "--json", out, "--model", model, "--features", tmp_path / "features")
    assert result.exit_code == 0, result.output
    loaded = bitmar.load(model)
    expected = [loaded.caption(loaded.encode_image(features=store.features(i))) for i in range(len(store))]
    assert [line["caption"] for line in read(out)] == expected

    class Wide(FlatTower):
        dim = 11

        def __call__(self, photos: np.ndarray) -> np.ndarray:
            return np.zeros((len(photos), 4, 11), np.float32)

    extract_features(iter_webdataset(str(shard)), tmp_path / "wide", Wide())
    message = fails("caption", "--data", shard, "--json", out, "--model", model, "--features", tmp_path / "wide")
    assert "2x2 patches of 11" in message
