"""Scores as the pipeline's results have them."""

from __future__ import annotations

import json

from bitmar.evaluate.figure import Figure, shares
from bitmar.evaluate.tasks.babylm.scores import Score


def test_a_score_is_its_figure_and_its_parts() -> None:
    points, groups = [1.0, 0.5, 0.0, 1.0], ["a", "a", "b", "b"]
    score = Score("accuracy", Figure.mean_share(points, groups, chance=0.5), {"UID": shares(points, groups)})
    written = json.loads(json.dumps(score.to_dict()))
    assert written["score"] == 0.625 and written["chance"] == 0.5 and written["n"] == 4 and written["tie_share"] == 0.25
    assert written["low"] < written["score"] < written["high"] and written["parts"]["UID"]["a"]["value"] == 0.75


def test_an_undefined_score_is_null() -> None:
    assert json.loads(json.dumps(Score("spearman", Figure.undefined(3)).to_dict(), allow_nan=False))["score"] is None
