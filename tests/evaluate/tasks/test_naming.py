"""Captions of labelled photos: what counts as naming, and what a confidence is worth."""

from __future__ import annotations

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.core.vocabulary import Vocabulary
from bitmar.evaluate.tasks.naming import (
    Namer,
    about_the_right_thing,
    accuracy_at,
    calibration_error,
    evaluate_naming,
    fit_confidence,
)


@pytest.mark.parametrize(
    ("caption", "label", "named"),
    [
        ("Two puppies play.", "dog", True),
        ("A cat sleeps.", "dog", False),
        ("A tabby.", "tabby", False),  # the noun is what counts
        ("A cat.", "tabby", True),
        ("A boy on a bike.", "person", True),
        ("A red bike.", "bicycle, person", True),
    ],
)
def test_naming(caption: str, label: str, named: bool) -> None:
    assert Namer()(caption, label) is named


def test_the_mean_is_over_labels_and_unknown_ones_are_left_out() -> None:
    report = evaluate_naming(["A dog."] * 4 + ["A dog."], ["dog", "dog", "dog", "cat", "qwerty"])
    assert report.named.value == 0.5 and report.by_label == {"cat": (0, 1), "dog": (3, 3)}
    assert report.photos == 4 and report.unknown == {"qwerty": 1} and report.calibration_error is None
    with pytest.raises(DataError, match="label"):
        evaluate_naming(["A dog."], [""])


def test_calibration() -> None:
    chances, right = np.array([0.95] * 10 + [0.05] * 10), np.array([True] * 10 + [False] * 10)
    assert calibration_error(chances, right) == pytest.approx(0.05)
    assert calibration_error(1 - chances, right) == pytest.approx(0.95)
    assert accuracy_at(chances, right, 0.5) == 1.0 and accuracy_at(chances, right, 1.0) == 0.5


def test_fitted_weights_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    evidence = np.concatenate((rng.normal(size=(4000, 5)), np.ones((4000, 1))), 1).astype(np.float32)
    true = np.array([1.0, -0.5, 0, 0.3, 0, 0.2])
    right = rng.random(4000) < 1 / (1 + np.exp(-evidence @ true))
    weights = fit_confidence(evidence, right)
    np.testing.assert_allclose(weights, true, atol=0.15)
    assert calibration_error(1 / (1 + np.exp(-evidence @ weights)).astype(float), right) < 0.03


def test_a_subject_is_right_where_people_name_it() -> None:
    vocabulary = Vocabulary(["dog", "man", "boy"])
    assert about_the_right_thing("A dog.", ["A puppy runs."], vocabulary, 0)
    assert about_the_right_thing("A man.", ["The boy runs."], vocabulary, 1)
    assert not about_the_right_thing("A dog.", ["The boy runs."], vocabulary, 0)
    assert not about_the_right_thing("It runs.", ["A dog."], vocabulary, None)
