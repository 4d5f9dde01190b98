"""Captions of shards, and what their scores say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError, DependencyError
from bitmar.data.features import extract_features
from bitmar.data.sources import iter_webdataset
from bitmar.evaluate.coco_metrics import meteor, spice, tokenize
from bitmar.evaluate.figure import plain
from bitmar.evaluate.photos import read_pictures
from bitmar.evaluate.store import Store
from bitmar.evaluate.tasks.captions import (
    Captioned,
    Captioner,
    evaluate_captions,
    score_captions,
)
from bitmar.evaluate.work import Work

from ..fakes import FakeScorer

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the COCO tokenizer needs Java")


class Describer:
    """Says the size or the first value of a picture, and how many it was shown at once."""

    name, pictures_at_once = "describer", 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def look(self, pictures: Sequence) -> list:
        return list(pictures)

    def caption(self, images: Sequence, *, beams: int = 1, max_tokens: int = 32) -> list[str]:
        self.batches.append(len(images))
        return [f"{i.flat[0]:.0f}" if isinstance(i, np.ndarray) else f"{i.width} by {i.height}" for i in images]


class Tower:
    """Patch features that hold a counter."""

    name, fingerprint, size, grid, dim, scale = "counter", "0", 8, 1, 2, None
    mean = std = (0.5, 0.5, 0.5)
    count = 0

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        first, self.count = self.count, self.count + len(photos)
        return np.arange(first, self.count, dtype=np.float32)[:, None, None].repeat(2, 2)


def described(model: Any, path: Path, work: Work, **options: Any) -> list[Captioned]:
    """The captions of a shard; scoring them would need Java."""
    said = Captioner(model, work, {"beams": 1, "max_tokens": 32}, 0)
    said.caption(read_pictures(str(path), limit=work.limit, on_bad=work.on_bad, **options))
    return said.lines


def test_every_photo_gets_a_line_and_broken_ones_are_named(shard: Callable[..., Path]) -> None:
    model, bad = Describer(), []
    lines = described(model, shard(6, broken=(2,)), Work(on_bad=lambda key, why: bad.append(key)))
    assert [line.key for line in lines] == [f"photos-00000/{i:03d}" for i in (0, 1, 3, 4, 5)]
    assert plain(lines[2]) == {
        "key": "photos-00000/003",
        "caption": "120 by 90",
        "references": ["Photo 3.", "The dog runs."],
    }
    assert bad == ["photos-00000/002"] and model.batches == [2, 2, 1]


def test_limit_counts_photos(shard: Callable[..., Path]) -> None:
    assert len(described(Describer(), shard(5), Work(3))) == 3


def test_features_stand_in_for_photos(shard: Callable[..., Path], tmp_path: Path) -> None:
    path = shard(4)
    extract_features(iter_webdataset(str(path)), tmp_path / "features", Tower())
    bad = []
    work = Work(on_bad=lambda key, why: bad.append((key, why)))
    lines = described(Describer(), shard(5), work, features=tmp_path / "features")
    assert [line.caption for line in lines] == ["0", "1", "2", "3"]
    assert [key for key, _ in bad] == ["photos-00000/004"] and "no features" in bad[0][1]


@needs_java
def test_scores_tell_right_from_wrong() -> None:
    pytest.importorskip("pycocoevalcap")
    subjects = ["black dog", "small child", "old man", "red car", "white horse", "young woman"]
    places = ["on the beach", "in the snow", "at a table", "down the street", "over the grass", "behind a fence"]
    lines = [
        Captioned(str(i), f"A {who} {where} .", (f"A {who} {where}.", f"There is a {who}, {where}!"))
        for i, (who, where) in enumerate(zip(subjects, places, strict=True))
    ]
    found = score_captions(lines)
    assert found.scores.bleu_4 == pytest.approx(1.0) and found.scores.rouge_l == pytest.approx(1.0)
    assert found.scores.cider > 5
    assert found.wrong_image is not None and found.wrong_image.cider < 0.1 * found.scores.cider
    assert (found.photos, found.unscored, found.distinct) == (6, 0, 1.0)
    assert json.loads(json.dumps(plain(found)))["scores"]["cider"] == found.scores.cider
    # The same everywhere is as right beside the wrong photo as beside its own.
    same = score_captions([Captioned(line.key, "A dog runs.", line.references) for line in lines])
    assert same.wrong_image is not None and same.wrong_image.cider == pytest.approx(same.scores.cider)
    assert same.distinct == pytest.approx(1 / 6)


@needs_java
def test_hostile_captions_keep_their_places() -> None:
    pytest.importorskip("pycocoevalcap")
    nasty = ["", "a\nb", "line\u2028separator\x85and\x0bmore", "dog " * 2000, "\N{DOG FACE}", "end"]
    found = tokenize([[text] for text in nasty])
    assert found[0] == [""] and found[1] == ["a b"] and found[5] == ["end"]
    assert len(found[3][0].split()) == 2000


@needs_java
def test_photos_without_references_are_left_out_and_counted() -> None:
    pytest.importorskip("pycocoevalcap")
    lines = [Captioned("0", "A dog.", ("A dog.",)), Captioned("1", "A cat.", ())]
    found = score_captions(lines)
    assert (found.photos, found.unscored, found.wrong_image) == (1, 1, None)


@needs_java
def test_what_java_cannot_do_is_absent_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    lines = [Captioned(str(i), text, (text,)) for i, text in enumerate(["A dog runs.", "A cat sits."])]
    found = score_captions(lines)
    assert found.java == {} and set(found.absent) == {"meteor", "spice"}

    def dies(*_: object) -> float:
        raise DependencyError("it died")

    monkeypatch.setattr("bitmar.evaluate.coco_metrics.meteor", dies)
    monkeypatch.setattr("bitmar.evaluate.coco_metrics.spice", lambda captions, references: 0.25)
    found = score_captions(lines, java=True)
    assert found.java == {"spice": 0.25} and found.absent == {"meteor": "it died"}
    assert found.cider.value == pytest.approx(found.scores.cider)


def test_a_dying_java_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        def compute_score(self, references: object, captions: object) -> None:
            float("")  # what METEOR's wrapper does with the silence of a process that is gone

    class Module:
        __file__, Meteor, Spice = "/nowhere/spice.py", Dead, Dead

    monkeypatch.setattr("bitmar.evaluate.coco_metrics._import", lambda name: Module)
    with pytest.raises(DependencyError, match="METEOR's Java process failed"):
        meteor({0: ["a"]}, {0: ["a"]})
    with pytest.raises(DependencyError, match="get_stanford_models"):
        spice({0: ["a"]}, {0: ["a"]})


class Eyes(FakeScorer):
    """Says how red the first pixel is; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(lambda text, image: [-1.0 if image is None else -2.0] * len(text.split()))
        self.said = 0

    def caption(self, images: Sequence, *, beams: int = 1, max_tokens: int = 32) -> list[str]:
        self.said += len(images)
        return [f"A photo of {np.asarray(image).flat[0]}." for image in images]


@needs_java
def test_an_evaluation_that_was_killed_goes_on(shard: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    path, model = str(shard(5, broken=(1,))), Eyes()
    with Store(tmp_path / "log", {}) as store:
        _, _, first = evaluate_captions(model, path, Work(3, store), java=False)
    assert model.said == 2 + 1  # and the blank one
    with Store(tmp_path / "log", {}) as store:
        whole = evaluate_captions(model, path, Work(store=store), java=False)
    report, grounding, lines = whole
    assert model.said == 3 + 2 + 1 and lines[:2] == first
    assert whole == evaluate_captions(Eyes(), path, Work(), java=False) and report.photos == 4
    assert grounding is not None and (grounding.photos, grounding.captions) == (4, 8)
    json.dumps(plain(whole))


@needs_java
def test_changed_photos_are_captioned_anew(shard: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    model = Eyes()
    for broken in ((), (0,)):
        path = shard(3, broken=broken)
        with Store(tmp_path / "log", {}) as store:
            evaluate_captions(model, str(path), Work(store=store), java=False, grounding=0)
    assert model.said == 3
    path.rename(tmp_path / "others.tar")
    tail = shard(4).rename(tmp_path / "photos-00000.tar")
    with Store(tmp_path / "log", {}) as store:
        _, grounding, _ = evaluate_captions(model, str(tail), Work(store=store), java=False, grounding=2)
    assert model.said == 3 + 1 + 1 and grounding is not None and grounding.photos == 2


def test_nothing_to_score_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="none of 1 captions has references"):
        score_captions([Captioned("0", "A dog.", ())])


def test_without_java_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DependencyError, match="default-jre"):
        tokenize([["A dog."]])


@needs_java
def test_references_without_a_word_count_as_none() -> None:
    lines = [Captioned("a", "A dog.", ("...", "A dog runs.")), Captioned("b", "A cat.", ("...",))]
    found = score_captions(lines)
    assert found.photos == 1 and found.unscored == 1
    with pytest.raises(DataError, match="none of 1 captions"):
        score_captions(lines[1:])
