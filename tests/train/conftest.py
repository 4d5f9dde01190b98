"""A whole world in miniature: shards of drawn photos, a text, and recipes over them that train in seconds."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}
PLACES = ("field", "table", "wall", "road", "bed", "lake")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are faster without a pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_shard(path: Path, first: int, count: int) -> None:
    """Photos of one colour each, two captions that name it: something to learn, in the form of img2dataset."""
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + count):
            colour, place = list(COLOURS)[i % len(COLOURS)], PLACES[i % len(PLACES)]
            pixels = np.random.default_rng(i).normal(COLOURS[colour], 20, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            photo = io.BytesIO()
            Image.fromarray(pixels).save(photo, "PNG")
            captions = [f"A {colour} thing lies on the {place}.", f"There is something {colour} near a {place}."]
            for name, content in ((f"{i:04d}.png", photo.getvalue()), (f"{i:04d}.json", _json({"captions": captions}))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tar (24 photos), val.tar (6), text.txt, and data/, the cache that all runs share."""
    folder = tmp_path_factory.mktemp("world")
    write_shard(folder / "train.tar", 0, 24)
    write_shard(folder / "val.tar", 24, 6)
    numbers = ("two", "five", "nine", "ten")
    lines = [f"The {c} {p} was {n} steps away." for c in COLOURS for p in PLACES for n in numbers]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> dict[str, Any]:
    """Everything that can make a resume go wrong at once: a tower with batch norms, dropout, two kinds of batches,
    memory chains, accumulation, the controller, words counted. Ten steps in `tmp_path/run`, a checkpoint every four."""
    return {
        "output": str(tmp_path / "run"),
        "cache": str(world / "data"),
        "tokenizer": {"train": 300},
        "model": {
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "sequence_length": 24,
            "memory_segment": 12,
            "memory_slots": 8,
            "memory_dim": 16,
            "vision_pool": 1,
            "vision_hidden": 16,
        },
        "tower": {
            "image_size": 64,
            "stem_channels": [4, 8],
            "stem_blocks": 1,
            "bottlenecks": [6, 8, 10],
            "widths": [8, 16],
            "depths": [1, 1],
            "head_dim": 8,
            "out_dim": 12,
        },
        "data": {
            "captions": [str(world / "train.tar")],
            "validation": [str(world / "val.tar")],
            "text": {"lines": {"path": str(world / "text.txt"), "split": "line"}},
            "heldout": 0.2,
        },
        "stages": [
            {
                "name": "all",
                "kind": "fit",
                "pictures": "photos",
                "text_share": 0.5,
                "text_rows": 2,
                "caption_rows": 4,
                "caption_length": 24,
                "episodes": 2,
                "dropout": 0.1,
                "tower_rate": 0.5,
                "controller": True,
                "evaluate_every": 5,
                "training": {
                    "steps": 10,
                    "learning_rate": 4e-3,
                    "schedule": "restarts",
                    "t0": 3,
                    "optimizer": "adamw",
                    "accumulation": 2,
                    "precision": "fp32",
                    "workers": 0,
                    "threads": 1,
                    "log_every": 1,
                    "save_every": 4,
                    "save_words": True,
                },
            }
        ],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(recipe) -> the path of its YAML file."""

    def make(values: dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def child() -> ModuleType:
    """`child.py`, the program that tests start as a process of its own."""
    spec = importlib.util.spec_from_file_location("train_child", Path(__file__).with_name("child.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
