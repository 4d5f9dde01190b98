"""What people write beside a photo, and what they want by it."""

from __future__ import annotations

import pytest

from bitmar.serve.wanted import is_order, question_in


@pytest.mark.parametrize(
    ("said", "question"),
    [
        ("What animal is this?", "What animal is this?"),
        ("what color is the car", "what color is the car"),
        ("Can you tell me what animal this is?", "what animal this is?"),
        ("Please tell me how many dogs there are", "how many dogs there are"),
        ("I'd like to know who is on the left", "who is on the left"),
        ("Can you see a dog?", "Can you see a dog?"),
        ("¿Qué es?", "¿Qué es?"),
        ("Is there a dog?", "Is there a dog?"),
    ],
)
def test_a_question(said: str, question: str) -> None:
    asked = question_in(said)
    assert asked is not None and asked.lower().endswith(question.lower())


@pytest.mark.parametrize(
    "said",
    [
        "Describe this photo.",
        "Can you describe the image?",
        "What do you see?",
        "What's in this picture",
        "Could you please write an alt text?",
        "List the objects",
        "Please list the objects.",
        "Tell me about this picture",
        "Would you give me a title?",
        "Hello!",
    ],
)
def test_an_order(said: str) -> None:
    assert question_in(said) is None and is_order(said)


@pytest.mark.parametrize("said", ["In the middle", "A photo of a", "", "Dogs that"])
def test_the_beginning_of_a_caption(said: str) -> None:
    assert question_in(said) is None and not is_order(said)
