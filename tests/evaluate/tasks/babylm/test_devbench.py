"""DevBench on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.devbench import devbench, read_trials
from bitmar.evaluate.work import Work

RED, BLUE = (250, 0, 0), (0, 0, 250)


@pytest.fixture
def source(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """Two trials of vocabulary, of which one shows the wrong picture first, and five objects with human likeness."""
    io = pytest.importorskip("scipy.io", reason="DevBench needs bitmar[eval]")
    words, things = tmp_path / "assets" / "lex-viz_vocab", tmp_path / "assets" / "sem-things"
    for name, colour in (("red", RED), ("blue", BLUE)):
        paint(words / "images" / f"{name}.png", colour)
    row = "images/{}.png,images/{}.png,images/{}.png,images/{}.png,red"
    words.joinpath("manifest.csv").write_text(
        "\n".join(
            [
                "image1,image2,image3,image4,text1",
                row.format("red", "blue", "blue", "blue"),
                row.format("blue", "red", "blue", "blue"),
            ]
        )
    )
    colours = np.array([[250, 10 * i, 5] for i in range(5)], float)
    for i, colour in enumerate(colours):
        paint(things / f"{i}.png", tuple(int(c) for c in colour))
    things.joinpath("manifest.csv").write_text("image1\n" + "".join(f"{i}.png\n" for i in range(5)))
    unit = colours / np.linalg.norm(colours, axis=1, keepdims=True)
    (tmp_path / "evals" / "sem-things").mkdir(parents=True)
    io.savemat(tmp_path / "evals" / "sem-things" / "spose_similarity.mat", {"spose_sim": (unit @ unit.T) ** 3})
    return tmp_path


def rule(pieces: list[str], picture: Any) -> list[float]:
    assert "".join(pieces) == "The caption for this image is: red."
    return [-1.0 if np.asarray(picture)[0, 0, 0] else -2.0] * len(pieces)


def test_all_that_is_there(source: Path, judge: Callable[..., Any]) -> None:
    found = devbench(judge(rule), source, Work())
    assert set(found) == {"devbench_vocabulary", "devbench_likeness"}  # no grammar in this folder
    vocabulary, likeness = found["devbench_vocabulary"], found["devbench_likeness"]
    assert vocabulary.figure.value == 0.5 and vocabulary.figure.n == 2 and vocabulary.figure.chance == 0.25
    assert likeness.figure.value == pytest.approx(1) and likeness.figure.n == 5 and likeness.figure.chance == 0


def test_pictures_alike_share_the_point(source: Path, judge: Callable[..., Any]) -> None:
    found = devbench(judge(lambda pieces, _: [-1.0] * len(pieces)), source, Work())["devbench_vocabulary"]
    assert found.figure.value == 0.25 and found.figure.ties == 2


def test_a_missing_picture_is_named(source: Path, judge: Callable[..., Any]) -> None:
    (source / "assets" / "sem-things" / "2.png").unlink()
    bad: dict[str, str] = {}
    found = devbench(judge(rule), source, Work(on_bad=bad.__setitem__))
    assert set(found) == {"devbench_vocabulary"} and "2.png" in bad["devbench_likeness"]
    (source / "assets" / "lex-viz_vocab" / "images" / "red.png").write_bytes(b"half")
    with pytest.raises(DataError, match="missing or broken"):
        devbench(judge(rule), source, Work())


def test_what_is_no_devbench_says_so(tmp_path: Path, judge: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="holds none of assets/lex-viz_vocab"):
        devbench(judge(rule), tmp_path, Work())
    (tmp_path / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column image1"):
        read_trials(tmp_path, Work())
