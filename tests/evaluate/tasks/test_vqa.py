"""Questions of people about photos: which lines count, which photo is meant, and what is right."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitmar.core.errors import DataError
from bitmar.data.archives import read_records
from bitmar.data.sources import CaptionedPhoto
from bitmar.evaluate.tasks import vqa
from bitmar.runtime.ask import CANNOT_TELL, Answer

LINE = {"shard": "coco-0.tar", "key": "7", "question": "Is it?", "answer": "yes", "answer_type": "yes/no"}


def test_lines_that_are_no_questions_are_named(tmp_path: Path) -> None:
    lines = [json.dumps(LINE), "{", "3", json.dumps({**LINE, "answer": 2}), json.dumps({**LINE, "question": " "})]
    (tmp_path / "v.jsonl").write_text("\n".join(lines))
    bad: dict[str, str] = {}
    (found,) = read_records(tmp_path / "v.jsonl", vqa.decode, bad.__setitem__)
    assert found == vqa.VqaQuestion("coco-0/7", "Is it?", "yes", "yes/no")
    assert list(bad) == [f"{tmp_path}/v.jsonl:{number}" for number in (2, 3, 4, 5)]
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path / "none.jsonl", vqa.decode, bad.__setitem__)


def test_the_photo_is_compared_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*given: Any) -> Answer:
        question, image = given[-2:]
        guess = "no" if image is None else image
        return Answer(CANNOT_TELL if question == "Is it?" else guess, 0.5, 0.0, guess)

    monkeypatch.setattr(vqa, "ask", ask)
    ids = SimpleNamespace(bos_token_id=1, eos_token_id=2)
    model: Any = SimpleNamespace(
        engine=None, tokenizer=None, witness=None, config=ids, encode_image=lambda data: data.decode()
    )
    asked = [
        vqa.VqaQuestion("a/1", "Is it?", "yes", "yes/no"),
        vqa.VqaQuestion("a/1", "Is it so?", "no", "yes/no"),
        vqa.VqaQuestion("a/2", "What is it?", "the Dog", "other"),
        vqa.VqaQuestion("a/9", "Who?", "me", "other"),
    ]
    photos = [CaptionedPhoto("a/1", b"yes"), CaptionedPhoto("a/2", b"A dog."), CaptionedPhoto("a/3", b"x")]
    bad: dict[str, str] = {}
    report = vqa.evaluate_vqa(model, asked, photos, on_bad=bad.__setitem__)
    assert bad == {"a/9": "no shard has this photo"} and report.photos == 2
    polar, every = report.kinds["yes/no"], report.kinds[vqa.ALL]
    assert (polar.seen.value, polar.blind.value, polar.gain.value, polar.certain) == (0.5, 0.5, 0.0, 0.5)
    assert polar.certain_accuracy == 0.0 and report.kinds["other"].gain.value == 1.0
    assert every.questions == 3 and every.commonest == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="none of the photos"):
        vqa.evaluate_vqa(model, asked, [], on_bad=bad.__setitem__)
