"""Winoground (arXiv 2204.03162): which of two captions of the same words fits a picture?

The pipeline's score is the unpaired text score: each picture by itself.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bitmar.data.archives import Record, read_records, text_of
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.tasks.babylm.choices import Choice, judge, score_pictured
from bitmar.evaluate.tasks.babylm.pictures import find_picture, pictures_of
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work


def decode(line: Record, stem: str, pictures: Path) -> Choice:
    """caption_0, which is right, against caption_1, beside the picture `image_key` of the example `image_idx`."""
    index, key = int(line["image_idx"]), text_of(line, "image_key")
    kinds = {"type": str(line["collapsed_tag"]), "feature": str(line["tag"])}
    picture = find_picture(pictures, [f"ex_{index}_{key.replace('image', 'img')}", f"{index}_{key}"])
    captions = (text_of(line, "caption_0"), text_of(line, "caption_1"))
    return Choice.whole(captions, "winoground", kinds=kinds, picture=picture)


def winoground(scorer: PictureScorer, source: Path, work: Work) -> dict[str, Score]:
    """The accuracy. Raises DataError without pictures."""
    choices = work.some(read_records(source, partial(decode, pictures=pictures_of(source)), work.on_bad))
    return {"winoground": judge(*score_pictured(scorer, choices, work))}
