"""Winoground on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.evaluate.tasks.babylm.winoground import winoground
from bitmar.evaluate.work import Work


def lines(index: int) -> list[dict[str, Any]]:
    tags = {"collapsed_tag": "Object", "tag": "Noun", "secondary_tag": "", "image_idx": index}
    captions = ["the dog over the man", "the man over the dog"]
    return [{**tags, "caption_0": captions[i], "caption_1": captions[1 - i], "image_key": f"image_{i}"} for i in (0, 1)]


def test_each_picture_by_itself(
    write: Callable[..., Path], judge: Callable[..., Any], paint: Callable[..., Path], tmp_path: Path
) -> None:
    write(tmp_path / "winoground.jsonl", [*lines(0), *lines(1)])
    paint(tmp_path / "images" / "ex_0_img_0.png", (255, 0, 0))  # as the data set's own archive names them
    paint(tmp_path / "images" / "ex_0_img_1.png", (0, 0, 0))
    paint(tmp_path / "images" / "1_image_0.png", (255, 0, 0))
    paint(tmp_path / "images" / "1_image_1.png", (255, 0, 0))

    def rule(pieces: list[str], picture: Any) -> list[float]:
        dog_first = "".join(pieces).startswith("the dog")
        return [-1.0 if dog_first == bool(np.asarray(picture)[0, 0, 0]) else -2.0] + [0.0] * (len(pieces) - 1)

    found = winoground(judge(rule), tmp_path, Work())["winoground"]
    assert found.figure.value == 0.75 and found.figure.n == 4 and found.figure.chance == 0.5
    assert found.parts["type"]["Object"].value == 0.75
    blind = winoground(judge(lambda pieces, _: [-1.0] * len(pieces)), tmp_path, Work())["winoground"]
    assert blind.figure.value == 0.5 and blind.figure.ties == 4
