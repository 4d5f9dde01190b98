"""`bitmar-run`, without Python, says what `caption --beams 1` says; what it cannot read ends in one line."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import load
from bitmar.core.config import ModelConfig
from bitmar.core.container import open_container, write_container

from ..towers import random_tower

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run(model, photo) -> the program's result. Built once, for the plain path, without optimisation."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ or clang++: bitmar-run cannot be built")
    build = tmp_path_factory.mktemp("run")
    program = build / "bitmar-run"
    engine = ("concepts", "conv", "dispatch", "linear", "memory", "model", "portable", "sampling", "state", "vision")
    sources = [f"native/{name}.cpp" for name in (*engine, "model_file", "photo_model", "resize", "detokenizer")]
    flags = ["-std=c++17", "-O0", "-ffp-contract=off", "-fno-math-errno", "-Inative", "-pthread"]
    made = subprocess.run(
        [compiler, *flags, "native/run.cc", *sources, "-o", program], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr

    def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *arguments], capture_output=True, encoding="utf-8", errors="replace", env={})

    return call


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, model: Path, random_tensors: Any) -> list[Path]:
    """Two tiny models: a ternary tower, and a pretrained one with concepts."""
    rng, plain = np.random.default_rng(3), open_container(model)
    tower, kernels = random_tower(rng, size=9)
    last = tower.shapes()[-1]
    changes = {
        "vision_dim": last.channels,
        "vision_grid": last.side,
        "concepts": 9,
        "concept_classes": 13,
        "concept_tokens": 4,
        "concept_keys": 6,
        "concept_evidence": 16.0,  # what the photo speaks for decides
        "vision_tower": tower.to_dict(),
    }
    config = ModelConfig.from_dict(plain.config.to_dict() | changes)
    tensors = random_tensors(config) | kernels
    words = rng.integers(4, 260, (9, 6), dtype=np.int32)
    tensors["model.concepts.words"] = np.where(np.arange(6) < rng.integers(1, 7, (9, 1)), words, np.int32(-1))
    tensors["model.concepts.class_concepts"] = rng.integers(-1, 9, 13, dtype=np.int32)
    for keys in ("keys", "class_keys"):  # scores of all sizes, not 0 and 1 alone
        tensors[f"model.concepts.{keys}.scale"] /= np.float32(2e4)
    path = tmp_path_factory.mktemp("run") / "conv.bitmar"
    vision = plain.vision | {"size": 9, "tower": "conv"}
    write_container(
        path, tensors, config=config, tokenizer_json=plain.tokenizer_json, vision=vision, card=dict(plain.card)
    )
    return [model, path]


def ppm(path: Path, pixels: np.ndarray, comment: str = "") -> Path:
    height, width, _ = pixels.shape
    path.write_bytes(f"P6\n{comment}{width} {height}\n255\n".encode() + pixels.tobytes())
    return path


@pytest.mark.parametrize("which", [0, 1], ids=["ternary tower", "pretrained tower and concepts"])
def test_it_says_what_caption_says(run: Run, models: list[Path], tmp_path: Path, which: int) -> None:
    pytest.importorskip("bitmar._native", reason="the native engine was not built")
    model = load(models[which], engine="portable")
    captions = set()
    for seed in range(4):
        size = model.vision["size"]
        pixels = np.random.default_rng(seed).integers(0, 256 >> seed, (size, size, 3), dtype=np.uint8)
        result = run(models[which], ppm(tmp_path / "photo.ppm", pixels, "# a comment\n"))
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip(" \n") == model.generate("", pixels, max_tokens=32, beams=1).text.strip(" \n")
        captions.add(result.stdout)
    assert len(captions) > 1 or which == 0


@pytest.mark.parametrize("size", [(1, 1), (9, 700), (40, 30), (333, 250)])
def test_a_photo_of_any_size_is_squashed_as_pillow_does(
    run: Run, models: list[Path], tmp_path: Path, size: tuple[int, int]
) -> None:
    pytest.importorskip("bitmar._native", reason="the native engine was not built")
    model, (width, height) = load(models[1], engine="portable"), size
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = run(models[1], ppm(tmp_path / "photo.ppm", pixels))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(" \n") == model.generate("", pixels, max_tokens=32, beams=1).text.strip(" \n")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"P6",
        lambda data: b"P6 # a comment without an end",
        lambda data: b"P5" + data[2:],
        lambda data: data.replace(b"255", b"65535", 1),
        lambda data: data.replace(b"64 64", b"0 64", 1),
        lambda data: data.replace(b"64 64", b"-64 -64", 1),
        lambda data: data.replace(b"64 64", b"64000001 1", 1),
        lambda data: data.replace(b"64 64", b"65536 65536", 1),
        lambda data: data[:-1],
        lambda data: data + b"\0",
    ],
)
def test_what_is_no_photo_is_refused(run: Run, model: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    photo = ppm(tmp_path / "photo.ppm", np.zeros((64, 64, 3), np.uint8))
    photo.write_bytes(damage(photo.read_bytes()))
    result = run(model, photo)
    assert result.returncode == 1 and "PPM" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:2000],
        lambda data: data[:-1],
        lambda data: struct.pack("<Q", 2**63) + data[8:],
        lambda data: data.replace(b'"dtype":"F32"', b'"dtype":"F16"', 1),
        lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[8,', 1),
        lambda data: data.replace(b'{"', b"{{", 1),
        lambda data: data.replace(b'"format_version":"', b'"format_version":"9', 1),
    ],
)
def test_a_damaged_model_is_refused(run: Run, model: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    photo, broken = ppm(tmp_path / "photo.ppm", np.zeros((64, 64, 3), np.uint8)), tmp_path / "broken.bitmar"
    data = model.read_bytes()
    broken.write_bytes(damage(data))
    assert broken.read_bytes() != data
    result = run(broken, photo)
    assert result.returncode == 1 and "broken.bitmar: " in result.stderr and result.stderr.count("\n") == 1


def test_a_model_without_a_tower_says_so(run: Run, make_model: Any, tmp_path: Path) -> None:
    photo = ppm(tmp_path / "photo.ppm", np.zeros((64, 64, 3), np.uint8))
    result = run(make_model(tmp_path / "blind.bitmar", tower=False), photo)
    assert result.returncode == 1 and "no vision tower" in result.stderr
