"""Which tokens count, and what a tie brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import ConfigError, DataError
from bitmar.evaluate.tasks.babylm.choices import (
    Choice,
    points_of,
    score_choices,
    score_pictured,
    score_texts,
    tokenizer_of,
)
from bitmar.evaluate.tasks.babylm.choices import (
    judge as judged,
)
from bitmar.evaluate.work import Work


def test_only_the_tokens_of_the_completion_count(judge: Callable[..., Any]) -> None:
    scorer = judge(lambda pieces, _: [-float(len(piece)) for piece in pieces])
    text = "the dog runs over"
    sums = score_texts(scorer, [text] * 3, [0, len("the dog"), len("the dog ")])
    assert sums.tolist() == [-len(text), -len(" runs over"), -len(" runs over")]  # the blank belongs to the word


def test_a_token_that_reaches_past_the_start_counts(judge: Callable[..., Any], tokenizer: Any) -> None:
    scorer = judge(lambda pieces, _: [-1.0] * len(pieces))
    pieces = tokenizer.encode("the runs", add_special_tokens=False)
    inside = pieces.offsets[-1][0] + 2  # in the middle of the last token, which is longer than that
    assert pieces.offsets[-1][1] > inside
    assert score_texts(scorer, ["the runs"], [inside]).tolist() == [-1.0]


def test_every_option_gets_its_own_score(judge: Callable[..., Any]) -> None:
    scorer = judge(lambda pieces, _: [-float(len("".join(pieces)))])
    choices = [Choice.whole(["a", "bb", "ccc"], "x"), Choice.whole(["dddd", "e"], "y")]
    assert [some.tolist() for some in score_choices(scorer, choices, Work())] == [[-1, -2, -3], [-4, -1]]
    found = judged(choices, score_choices(scorer, choices, Work()))
    assert found.figure.value == 0.5 and found.figure.chance == pytest.approx((1 / 3 + 1 / 2) / 2)


@given(st.lists(st.sampled_from([-3.0, -2.0, -1.0]), min_size=2, max_size=8))
def test_a_tie_brings_what_guessing_would(scores: list[float]) -> None:
    """Whatever the scores, the points that the options would get as the right one make 1 together."""
    turned = [points_of(np.array(scores[i:] + scores[:i])) for i in range(len(scores))]
    assert sum(turned) == pytest.approx(1)


def test_half_a_point_for_two_alike() -> None:
    assert points_of(np.array([-1.0, -1.0])) == 0.5
    assert points_of(np.array([-1.0, -2.0])) == 1 and points_of(np.array([-2.0, -1.0])) == 0
    assert points_of(np.array([-2.0, -1.0, -1.0])) == 0


def test_pictures_that_cannot_be_read_are_left_out(
    judge: Callable[..., Any], paint: Callable[..., Path], tmp_path: Path
) -> None:
    scorer = judge(lambda pieces, picture: [-float(np.asarray(picture)[0, 0, 0])] * len(pieces))
    (tmp_path / "broken.png").write_bytes(b"no photo")
    paths = [paint(tmp_path / "red.png", (255, 0, 0)), tmp_path / "broken.png", tmp_path / "none.png"]
    choices = [Choice.whole(["a", "bc"], "x", picture=path) for path in paths]
    bad: list[str] = []
    kept, scores = score_pictured(scorer, choices, Work(on_bad=lambda name, why: bad.append(name)))
    assert kept == choices[:1] and scores[0].tolist() == [-255.0, -510.0]
    assert bad == [str(path) for path in paths[1:]]
    with pytest.raises(DataError, match="not one picture"):
        score_pictured(scorer, choices[1:], Work())


def test_a_limit_is_spread_evenly() -> None:
    assert Work(4).some(range(100)) == [0, 25, 50, 75]
    assert Work(7).some(range(5)) == Work().some(range(5)) == [0, 1, 2, 3, 4]


def test_a_scorer_without_a_tokenizer_is_told(judge: Callable[..., Any], tokenizer: Any) -> None:
    scorer = judge(lambda pieces, _: [])
    assert tokenizer_of(scorer) is tokenizer
    del scorer.tokenizer
    with pytest.raises(ConfigError, match="shows no tokenizer"):
        tokenizer_of(scorer)
