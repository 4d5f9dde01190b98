"""Concepts and other words in texts."""

from __future__ import annotations

from bitmar.core.vocabulary import Vocabulary

NAMES = Vocabulary(("cup of coffee", "cup", "dog", "flower"))


def test_each_concept_is_found_once_and_mentioned_as_often_as_it_is_named() -> None:
    text = "A cup of coffee beside cups and a dog, another dog."
    assert [NAMES.names[i] for i in NAMES.find(text)] == ["cup of coffee", "cup", "dog"]
    assert [NAMES.names[i] for i in NAMES.mentions(text)] == ["cup of coffee", "cup", "dog", "dog"]


def test_unknown_are_words_that_say_something_and_belong_to_no_concept() -> None:
    assert NAMES.unknown("There is a flower arrangement beside a cup of coffee.") == ["arrangement"]
    assert NAMES.unknown("") == NAMES.unknown("There it is.") == []
