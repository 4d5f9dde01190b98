from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitmar.data.picture_questions import picture_questions

BEACH = ["A black dog is running along the white beach.", "Two children in red hats are near a ball."]
STREET = ["A woman is wearing a helmet in the street.", "A man repairs an engine near the dog."]


def test_each_kind_of_question_and_its_answer() -> None:
    found = picture_questions(BEACH, STREET)
    assert found["color"] == [
        "What color is the dog? black",
        "What color is the beach? white",
        "What color are the hats? red",
    ]
    assert found["count"] == ["How many children are there? 2"]
    assert found["action"] == ["What is the dog doing? running"]
    assert found["presence"] == [
        "Is there a dog in the picture? yes",
        "Is there a beach in the picture? yes",
        "Is there a ball in the picture? yes",
        "Is there a woman in the picture? no",
        "Is there a helmet in the picture? no",
        "Is there a street in the picture? no",
    ]
    assert found["truth"] == [
        "Is it true that a black dog is running along the white beach? yes",
        "Is it true that two children in red hats are near a ball? yes",
        "Is it true that a woman is wearing a helmet in the street? no",
        "Is it true that a man repairs an engine near the dog? no",
    ]


def test_what_is_worn_is_no_action_and_what_no_caption_allows_is_left_out() -> None:
    assert set(picture_questions(["A woman is wearing a helmet in the street."], [])) == set()
    assert "action" not in picture_questions(STREET, BEACH)


@given(st.lists(st.text(max_size=80), max_size=5), st.lists(st.text(max_size=80), max_size=5))
def test_yes_and_no_are_equally_many(captions: list[str], others: list[str]) -> None:
    for kind, questions in picture_questions(captions + BEACH, others + STREET).items():
        assert all("? " in question for question in questions)
        if kind == "presence":
            answers = [question.rsplit("? ", 1)[1] for question in questions]
            assert answers.count("yes") == answers.count("no") > 0
