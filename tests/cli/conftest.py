"""A tiny model and tiny shards for the commands, and a way to call them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bitmar.cli import app

Cli = Callable[..., Any]


@pytest.fixture
def fails(cli: Cli) -> Callable[..., str]:
    """fails("caption", path, ...) -> the one line of the error that the command has to end with."""

    def run(*arguments: Any) -> str:
        result = cli(*arguments)
        assert result.exit_code == 2, result.output
        line = result.stderr.splitlines()[-1]
        assert line.startswith("error: ") and "Traceback" not in result.output
        return line

    return run


@pytest.fixture
def photo(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    return path


def _write_shard(path: Path, samples: Iterable[tuple[str, bytes, list[str]]]) -> Path:
    """A WebDataset shard: (key, the photo's file, captions)."""
    with tarfile.open(path, "w") as tar:
        for key, image, captions in samples:
            parts = {"jpg": image, "txt": captions[0].encode(), "json": json.dumps({"captions": captions}).encode()}
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def write_shard() -> Callable[..., Path]:
    """write_shard(path, samples) -> path."""
    return _write_shard


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes]) -> Path:
    """Five photos, of which the third is cut off."""
    colours = ["red", "green", "blue", "white", "black"]
    samples = [
        (f"{i:03d}", jpeg(colour)[: 300 if i == 2 else None], [f"A {colour} thing .", f"All {colour}."])
        for i, colour in enumerate(colours)
    ]
    return _write_shard(tmp_path_factory.mktemp("shard") / "things-00000.tar", samples)


TINY_RECIPE = """
output: {folder}/run
cache: {folder}/cache
tokenizer: {{train: 270}}
model: {{hidden_size: 16, num_heads: 2, intermediate_size: 24, encoder_layers: 1, decoder_layers: 1,
         sequence_length: 32, memory_slots: 4, memory_dim: 8, memory_segment: 16, vision_hidden: 12}}
tower: {{image_size: 64, stem_channels: [4, 6], widths: [8, 12], depths: [1, 1], head_dim: 4, out_dim: 10}}
data:
  captions: ["{shard}"]
  validation: ["{shard}"]
  text: {{book: {{path: "{folder}/book.txt", split: line}}}}
stages:
  - name: joint
    kind: fit
    pictures: photos
    text_rows: 2
    caption_rows: 4
    training: {{steps: 2, precision: fp32, optimizer: adamw, workers: 0, threads: 1, log_every: 1}}
card: {{licence: none}}
"""


def _write_recipe(folder: Path, shard: Path) -> Path:
    """A recipe that trains a model of a few thousand weights for two steps."""
    sentences = [
        f"The {animal} runs over the {place}." for animal in ("dog", "cat", "man") for place in ("grass", "road")
    ]
    (folder / "book.txt").write_text("\n".join(sentences * 20))
    path = folder / "tiny.yaml"
    path.write_text(TINY_RECIPE.format(folder=folder, shard=shard))
    return path


@pytest.fixture
def recipe(tmp_path: Path, shard: Path) -> Path:
    """A recipe of one stage that nothing has run yet."""
    return _write_recipe(tmp_path, shard)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, shard: Path) -> Path:
    """The folder of a finished run of two steps: run/joint is its checkpoint, run/model.bitmar its model."""
    for package in ("torch", "transformers", "yaml"):
        pytest.importorskip(package, reason="training needs bitmar[train]")
    folder = tmp_path_factory.mktemp("trained")
    result = CliRunner().invoke(app, ["train", str(_write_recipe(folder, shard))], catch_exceptions=False)
    assert result.exit_code == 1, result.output  # one photo is cut off
    return folder / "run"
