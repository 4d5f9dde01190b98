"""Finding photographs by the names they come with."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.pictures import find_picture, pictures_of


def test_any_of_the_names_with_any_ending(tmp_path: Path) -> None:
    assert find_picture(tmp_path, ["3", "COCO_3"]) == tmp_path / "3.jpg"  # to be named as the one that is missing
    (tmp_path / "COCO_3.webp").touch()
    assert find_picture(tmp_path, ["3", "COCO_3"]) == tmp_path / "COCO_3.webp"
    (tmp_path / "3.png").touch()
    assert find_picture(tmp_path, ["3", "COCO_3"]) == tmp_path / "3.png"


def test_they_lie_beside_the_lines(tmp_path: Path) -> None:
    (tmp_path / "vqa_filtered" / "images").mkdir(parents=True)
    (tmp_path / "vqa_filtered.zip").touch()
    assert pictures_of(tmp_path / "vqa_filtered") == pictures_of(tmp_path / "vqa_filtered.zip")
    with pytest.raises(DataError, match="pictures are missing"):
        pictures_of(tmp_path)
