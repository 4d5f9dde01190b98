"""VQA v2 (arXiv 1612.00837) with seven distractors: is the right answer the likeliest after the question?"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bitmar.data.archives import Record, read_records, text_of, texts_of
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.tasks.babylm.choices import Choice, judge, score_pictured
from bitmar.evaluate.tasks.babylm.pictures import find_picture, pictures_of
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work


def decode(line: Record, stem: str, pictures: Path) -> Choice:
    """Question and answer, against question and distractors; the answer's tokens count."""
    answers = [f" {answer}" for answer in (text_of(line, "target_ans"), *texts_of(line, "distractors"))]
    index = int(line["idx_in_hf_dataset"])
    names = [str(index)]
    if "image_id" in line:
        names.append(f"COCO_val2014_{int(line['image_id']):012d}")
    question = text_of(line, "question")
    return Choice.completed([question] * len(answers), answers, "vqa", picture=find_picture(pictures, names))


def vqa(scorer: PictureScorer, source: Path, work: Work) -> dict[str, Score]:
    """The accuracy. Raises DataError without pictures."""
    choices = work.some(read_records(source, partial(decode, pictures=pictures_of(source)), work.on_bad))
    return {"vqa": judge(*score_pictured(scorer, choices, work))}
