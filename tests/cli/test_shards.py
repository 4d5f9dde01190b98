"""`bitmar caption --data`: whole shards, stopped and resumed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bitmar
from bitmar.api import BitMar
from bitmar.cli.shards import caption_shards
from bitmar.core.errors import OutputError
from bitmar.core.locks import sole_writer
from bitmar.data.features import FeatureStore, extract_features
from bitmar.data.sources import iter_webdataset
from bitmar.evaluate.store import Store

Cli = Callable[..., Any]
Fails = Callable[..., str]
Make = Callable[..., Path]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_per_photo(cli: Cli, model: Path, shard: Path, jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    out = tmp_path / "new" / "captions.json"
    result = cli("caption", "--data", shard, "--json", out, "--model", model, "--max-tokens", 5)
    assert result.exit_code == 1, result.output  # a photo is skipped
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
    assert result.exit_code == 1 and len(seen) == 3 + 2
    assert out.read_bytes() == whole.read_bytes() and not partial.exists()
    assert "things-00000/002" in result.stderr  # skipped by the first run, still named and counted


def test_captions_of_two_models_never_mix(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out, partial = tmp_path / "captions.json", tmp_path / "captions.json.partial"
    digests = [sample.digest for sample in iter_webdataset(str(shard))]
    task = {"model": "another", "features": None, "options": {"beams": None, "max_tokens": 32}}
    lines = [task, *({"key": digest, "result": "Another's."} for digest in digests)]
    partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = cli("caption", "--data", shard, "--json", out, "--model", model)
    assert "another model: begun anew" in result.stderr and len(read(out)) == 4
    assert all(line["caption"] != "Another's." for line in read(out))


def test_shards_may_be_renamed_reordered_and_replaced_between_two_runs(
    cli: Cli,
    model: Path,
    write_shard: Make,
    jpeg: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = {colour: jpeg(colour) for colour in ("red", "green", "blue", "white")}
    write_shard(tmp_path / "a.tar", [("0", photos["red"], ["Red."]), ("1", photos["green"], ["Green."])])
    write_shard(tmp_path / "b.tar", [("0", photos["blue"], ["Blue."])])
    monkeypatch.setattr(BitMar, "caption", lambda self, image, **options: f"said of {image.tokens.tobytes().hex()}")
    out, arguments = tmp_path / "captions.json", ["caption", "--model", model, "--json"]
    puts, put = [], Store.put

    def stop_at_the_third(log: Store, key: str, result: Any) -> None:
        puts.append(key)
        if len(puts) == 3:
            raise KeyboardInterrupt
        put(log, key, result)

    monkeypatch.setattr(Store, "put", stop_at_the_third)
    assert cli(*arguments, out, "--data", tmp_path / "{a,b}.tar").exit_code == 130
    write_shard(tmp_path / "a.tar", [("0", photos["green"], ["Now green."]), ("1", photos["white"], ["White."])])
    assert cli(*arguments, out, "--data", tmp_path / "b.tar", "--data", tmp_path / "a.tar").exit_code == 0
    assert len(puts) == 3 + 2  # green was known, under another name
    fresh = tmp_path / "fresh.json"
    assert cli(*arguments, fresh, "--data", tmp_path / "b.tar", "--data", tmp_path / "a.tar").exit_code == 0
    assert out.read_bytes() == fresh.read_bytes()
    assert [line["references"] for line in read(out)] == [["Blue."], ["Now green."], ["White."]]
    assert len({line["caption"] for line in read(out)}) > 1


def test_a_misspelt_name_leaves_nothing_and_a_second_process_is_told(
    cli: Cli, fails: Fails, model: Path, shard: Path, tmp_path: Path
) -> None:
    out = tmp_path / "captions.json"
    arguments = ["caption", "--json", out, "--model", model, "--data"]
    assert "no shard" in fails(*arguments, f"{shard}x") and not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "captions.json.partial"):
        assert "written by another process" in fails(*arguments, shard)
    assert cli(*arguments, shard).exit_code == 1 and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    cli: Cli, fails: Fails, model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "captions.json"
    arguments = ["caption", "--data", shard, "--model", model, "--json"]
    cli(*arguments, whole)
    put = Store.put

    def full_at_the_third(log: Store, key: str, result: Any) -> None:
        if len(log.found) == 2:
            log._file = FullDisk(log._file)  # type: ignore[assignment]
        put(log, key, result)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", full_at_the_third)
        assert "No space left on device; what is done is kept" in fails(*arguments, out)
    assert cli(*arguments, out).exit_code == 1 and out.read_bytes() == whole.read_bytes()


class FullDisk:
    """A file that takes ten more bytes."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, 10

    def write(self, data: bytes) -> int:
        if not self._left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data, self._left = data[: self._left], 0
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_shards_are_captioned_without_torch(model: Path, shard: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'webdataset', 'datasets')))\n"
    call = f"from bitmar.cli import app; app({['caption', '--data', str(shard), '--model', str(model)]!r}"
    code = f"{blocked}{call} + ['--json', {str(tmp_path / 'o.json')!r}])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "4 captions" in result.stderr, result.stderr


def test_features_are_found_by_the_photo_not_by_its_name(
    make_model: Make, write_shard: Make, jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    old = write_shard(tmp_path / "old" / "s.tar", [("0", jpeg("red"), ["Red."]), ("1", jpeg("blue"), ["Blue."])])
    new = write_shard(tmp_path / "s.tar", [("0", jpeg("blue"), ["Blue."]), ("1", jpeg("white"), ["White."])])
    extract_features(iter_webdataset(str(old)), tmp_path / "features", FlatTower())
    model = bitmar.load(make_model(tmp_path / "m.bitmar", tower=False))
    count, skipped = caption_shards(model, [str(new)], tmp_path / "features", tmp_path / "o.json", {}, None)
    assert count == 1 and list(skipped.reasons) == ["s/1"]
    store = FeatureStore(tmp_path / "features")
    (line,) = read(tmp_path / "o.json")
    assert line["caption"] == model.caption(model.encode_image(features=store.features(1)))
    with pytest.raises(OutputError, match="another process"), sole_writer(tmp_path / "features"):
        extract_features(iter_webdataset(str(old)), tmp_path / "features", FlatTower())


def test_a_cut_shard_gives_what_it_has(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    cut, out = tmp_path / "cut-00000.tar", tmp_path / "captions.json"
    cut.write_bytes(shard.read_bytes()[:6000])
    result = cli("caption", "--data", cut, "--data", shard, "--json", out, "--model", model)
    keys = [line["key"] for line in read(out)]
    assert result.exit_code == 1 and str(cut) in result.stderr and "cut off" in result.stderr
    assert "cut-00000/000" in keys and "things-00000/004" in keys


def test_limit_and_grid(cli: Cli, model: Path, shard: Path, tmp_path: Path) -> None:
    out, grid = tmp_path / "captions.jsonl", tmp_path / "grid.png"
    assert cli("caption", "--data", shard, "--model", model, "--json", out, "--limit", 2, "--grid", grid).exit_code == 0
    assert len(read(out)) == 2
    with Image.open(grid) as sheet:
        assert sheet.width == 2 * 336 + 16
    grid.unlink()
    assert cli("caption", "--data", shard, "--model", model, "--grid", grid).exit_code == 1  # a photo is skipped
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
    model, out = make_model(tmp_path / "m.bitmar", tower=False), tmp_path / "captions.json"
    assert "--features" in fails("caption", "--data", shard, "--json", out, "--model", model)
    store = extract_features(iter_webdataset(str(shard)), tmp_path / "features", FlatTower())
    result = cli("caption", "--data", shard, "--json", out, "--model", model, "--features", tmp_path / "features")
    assert result.exit_code == 1, result.output  # a photo is skipped
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


def test_a_shell_runs_only_where_the_command_says_so(
    cli: Cli, fails: Fails, model: Path, shard: Path, recipe: Path, tmp_path: Path
) -> None:
    piped = f"pipe:touch {tmp_path}/ran; cat {shard}"
    arguments = ["caption", "--data", piped, "--json", tmp_path / "o.json", "--model", model]
    assert "--allow-pipe" in fails(*arguments)
    recipe.write_text(recipe.read_text().replace(f'captions: ["{shard}"]', f'captions: ["{piped}"]'))
    assert "--allow-pipe" in fails("train", recipe)
    assert not (tmp_path / "ran").exists()
    assert cli(*arguments, "--allow-pipe").exit_code == 1  # a photo is broken
    assert (tmp_path / "ran").exists() and len(read(tmp_path / "o.json")) == 4
    assert "--allow-pipe" in fails(*arguments)
