"""The pictures: drawn whole, in both formats, with every word that belongs into them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError, DependencyError
from bitmar.plots.canvas import check_out, save, shorten
from bitmar.plots.slots import Held, Passage, Reading
from bitmar.plots.snapshots import Course, course
from bitmar.plots.words import trace_caption
from bitmar.plots.zeros import zeros_of_model, zeros_of_run

pytest.importorskip("matplotlib", reason="pictures need bitmar[plots]")

from bitmar.plots.attention import draw_attention
from bitmar.plots.memory import LOGGED_SERIES, draw_memory
from bitmar.plots.quantization import LOGGED, draw_quantization

FOUND = [Passage("captions", "A dog."), Passage("captions", "A cat."), Passage("talk", "Well.")]


def reading(name: str, seed: int) -> Reading:
    weights = np.random.default_rng(seed).uniform(size=(20, 3)).astype(np.float32)
    return Reading(name, weights / weights.sum(axis=0))


def svg(figure: object, path: Path) -> str:
    save(figure, path)  # type: ignore[arg-type]
    return path.read_text()


def test_the_memory_of_a_run(run: Path, tmp_path: Path) -> None:
    use = course(run, tuple(LOGGED_SERIES))
    kept = [Held(3, 0.25, ["costs $5 & $6", "A cat."])]
    drawn = draw_memory("Memory of <run>", [reading("early", 0), reading("late", 1)], FOUND, kept, use)
    text = svg(drawn, tmp_path / "m.svg")
    for word in (
        "Memory of &lt;run&gt;",
        ">early<",
        ">late<",
        ">first<",
        ">second<",
        "slot 3",
        "25.0% of reads",
        ">talk<",
    ):
        assert word in text, word
    assert "costs $5 &amp; $6" in text  # a text is no formula


def test_the_memory_of_a_model(tmp_path: Path) -> None:
    usage = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
    drawn = draw_memory("Memory", [reading("model", 0)], FOUND, [], usage)
    assert "1 is just used" in svg(drawn, tmp_path / "m.svg")


def test_attention(model: BitMar, picture: Image.Image, tmp_path: Path) -> None:
    session = model.memory()
    session.remember("our dog Rex", picture)
    text = svg(
        draw_attention("Words", trace_caption(model, picture, text="a dog", session=session)), tmp_path / "a.svg"
    )
    for word in (">dog<", "(begin)", "our dog Rex", "5 slots"):
        assert word in text, word


def test_quantization(run: Path, model: BitMar, tmp_path: Path) -> None:
    text = svg(draw_quantization("Zeros", zeros_of_run(run), course(run, (LOGGED,))), tmp_path / "q.svg")
    for word in ("Gaussian weights, 31.0%", "the paper, at its end, 42.8%", "decoder memory_proj", ">second<"):
        assert word in text, word
    alone = draw_quantization("Zeros", zeros_of_model(model.container), None)
    assert "Gaussian weights, 31.0%" not in svg(alone, tmp_path / "q.svg")


def test_an_empty_course_is_left_out(model: BitMar, tmp_path: Path) -> None:
    drawn = draw_quantization("Zeros", zeros_of_model(model.container), Course([], {LOGGED: []}, []))
    assert "training step" not in svg(drawn, tmp_path / "q.svg")


def test_png_and_svg(model: BitMar, tmp_path: Path) -> None:
    def drawn() -> object:
        return draw_quantization("Zeros", zeros_of_model(model.container), None)

    save(drawn(), tmp_path / "folder/q.png")  # type: ignore[arg-type]
    with Image.open(tmp_path / "folder/q.png") as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 20) or ()) > 20
    assert svg(drawn(), tmp_path / "a.svg") == svg(drawn(), tmp_path / "b.svg")  # the same picture is the same file


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        check_out(tmp_path / "picture.jpg")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"\[plots\]"):
        check_out(Path("a.png"))


def test_long_texts_are_shortened() -> None:
    assert shorten("a\n b", 9) == "a b" and len(shorten("word " * 30, 20)) <= 20
