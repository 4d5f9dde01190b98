"""Words that are found in captions, labels and classes, and captions written from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitmar.core.errors import FormatError
from bitmar.data.concepts import (
    IMAGENET_CLASSES,
    Labels,
    Vocabulary,
    build_vocabulary,
    class_concepts,
    imagenet_names,
    imagenet_nouns,
    label_table,
)
from bitmar.data.concepts.bank import ConceptBank
from bitmar.data.concepts.label_captions import truest
from bitmar.data.concepts.questions import label_questions
from bitmar.data.concepts.rewrite import CaptionPool, replace_noun, with_article
from bitmar.data.joined import Said


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    captions = [["Two men riding bikes past a red car.", "A man riding."]] * 30
    return build_vocabulary(captions, least=25)


def names(vocabulary: Vocabulary, concepts: list[int]) -> list[str]:
    return [vocabulary.names[concept] for concept in concepts]


def test_every_class_is_named_once_and_most_have_a_noun() -> None:
    assert len(imagenet_names()) == IMAGENET_CLASSES and len(set(imagenet_names())) > 990  # two cranes, two maillots
    assert set(imagenet_nouns()) <= set(range(IMAGENET_CLASSES))
    assert imagenet_nouns()[imagenet_names().index("tabby")] == "cat"
    assert imagenet_nouns()[imagenet_names().index("zebra")] == "zebra"


def test_what_photos_share_becomes_a_concept_and_function_words_do_not(vocabulary: Vocabulary) -> None:
    assert {"man", "riding", "red", "car", "bicycle", "dog"} <= set(vocabulary.names)
    assert not {"a", "past", "bikes", "men"} & set(vocabulary.names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two men riding bikes", ["man", "riding", "bicycle"]),
        ("A fire truck and a truck", ["fire truck", "truck"]),
        ("Puppies, cats; a CAT!", ["dog", "cat"]),
        ("cups of coffee", []),  # the phrase's plural stands at its end alone
        ("a cup of coffee", ["cup of coffee"]),
        ("", []),
    ],
)
def test_texts_name_concepts(vocabulary: Vocabulary, text: str, expected: list[str]) -> None:
    found = names(vocabulary, vocabulary.find(text))
    assert [name for name in found if name != "two"] == expected


@pytest.mark.parametrize(
    ("label", "main"),
    [
        ("Arctic fox", "fox"),
        ("ice hockey", "hockey"),
        ("Arla Mild Vanilla Yoghurt", "yogurt"),
        ("bicycle, car, person", "bicycle"),
        ("cat and dog", "cat"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_labels_name_concepts(vocabulary: Vocabulary, label: str, main: str | None) -> None:
    found = names(vocabulary, Labels(vocabulary)(label))
    assert (found[0] if found else None) == main


def test_every_concept_of_a_label_is_in_the_vocabulary(vocabulary: Vocabulary) -> None:
    assert {concept for concepts in label_table().values() for concept in concepts} <= set(vocabulary.names)


def test_classes_point_at_concepts(vocabulary: Vocabulary) -> None:
    of_class = class_concepts(vocabulary)
    assert of_class.shape == (1000,) and of_class.max() < len(vocabulary)
    assert vocabulary.names[of_class[281]] == "cat" and of_class[399] == -1


def test_a_labelled_photo_gets_captions_that_name_it_and_fit_what_is_seen(vocabulary: Vocabulary) -> None:
    captions = [f"A {what} rides in a car number {i}." for what in ("dog", "cat") for i in range(15)]
    pool = CaptionPool([*captions, "A cat near a red bicycle."], vocabulary)
    scores = np.zeros(len(vocabulary), np.float32)
    scores[vocabulary.index["bicycle"]] = 0.9
    best = pool.choose(scores, [vocabulary.index["cat"]], 2)
    assert best[0] == "A cat near a red bicycle." and all("cat" in caption for caption in best)


def test_where_no_caption_names_the_thing_one_of_its_sort_is_rewritten(vocabulary: Vocabulary) -> None:
    pool = CaptionPool(["A dog stands on the grass."], vocabulary)
    zero = np.zeros(len(vocabulary), np.float32)
    assert "A zebra stands on the grass." in pool.choose(zero.copy(), [vocabulary.index["zebra"]])
    for thing in ("violin", "mushroom"):  # of a sort that no caption names, too
        assert pool.choose(zero.copy(), [vocabulary.index[thing]])[0] == f"A close up of a {thing}"


def test_articles_follow_the_new_noun() -> None:
    assert replace_noun("A dog and a dog", "dog", "elephant") == "An elephant and an elephant"
    assert replace_noun("an owl", "owl", "cat") == "a cat"
    assert [with_article(noun) for noun in ("owl", "milk", "sunglasses", "dress")] == [
        "an owl",
        "milk",
        "sunglasses",
        "a dress",
    ]


def test_questions_of_labels_and_boxes() -> None:
    middle, right = ("cat", (0.4, 0, 0.6, 1)), ("dog", (0.7, 0, 1, 1))
    flat = [q for kind in label_questions(["dog"], ["cow"], [right]) for q in kind]
    assert "What is this? a dog" in flat and "Where is the dog? on the right" in flat
    assert "Is there a dog in the picture? yes" in flat and "Is there a cow in the picture? no" in flat
    counted = [q for kind in label_questions(["cat"], [], [middle, middle, right]) for q in kind]
    assert "How many cats are there? 2" in counted and not any(q.startswith("Where") for q in counted)
    assert label_questions([], []) == []


def small_bank() -> ConceptBank:
    """Three concepts in features of two; classes 0 and 2 stand for the first."""
    keys = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    bias = np.array([0, 0, -20], np.float32)
    classes = np.array([[3, 0], [0, 3], [3, 0]], np.float32)
    return ConceptBank(("cat", "dog", "red car"), keys, bias, classes, np.zeros(3, np.float32), np.array([0, -1, 0]))


def test_a_bank_adds_up_the_classes_of_a_concept_and_takes_the_surer_key() -> None:
    pooled = np.array([[2, 0], [0, 2]], np.float32)
    shares = np.exp(pooled @ small_bank().class_keys.T)
    shares /= shares.sum(1, keepdims=True)
    scores = small_bank().scores(pooled)
    np.testing.assert_allclose(scores[:, 0], np.maximum(1 / (1 + np.exp([-2, 0])), shares[:, 0] + shares[:, 2]), 1e-5)
    np.testing.assert_allclose(scores[:, 1], 1 / (1 + np.exp([0, -2])), rtol=1e-5)
    assert (scores[:, 2] < 1e-6).all()


def test_a_bank_is_read_as_it_was_written(tmp_path: Path) -> None:
    bank, path = replace(small_bank(), prior=np.zeros(3, np.float32)), tmp_path / "bank.safetensors"
    bank.save(path)
    again = ConceptBank.load(path)
    assert again.names == bank.names
    for name in ("keys", "bias", "class_keys", "class_bias", "class_concepts", "prior"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="no concept bank"):
        ConceptBank.load(path)
    with pytest.raises(FormatError, match="no concept bank"):
        ConceptBank.load(tmp_path / "absent.safetensors")


def test_what_is_rewarded_names_least_that_is_not_there() -> None:
    vocabulary = Vocabulary(["dog", "cat", "grass", "table"])
    captions = ("A dog and a cat on a table.", "A dog on a table.", "A dog on grass.", "A dog.")
    said = [Said(captions, (("presence", "Is there a dog? yes"),)), Said(())]
    first, second = truest(said, [{0, 2}, set()], vocabulary)
    assert first.captions == ("A dog on grass.", "A dog.", "A dog on a table.")
    assert first.questions == said[0].questions and second == said[1]
