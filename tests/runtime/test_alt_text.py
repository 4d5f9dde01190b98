from __future__ import annotations

import pytest

from bitmar.runtime.alt_text import alt_text


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a photo of a dog on grass", "A dog on grass."),
        ("A close up of a cat .", "A cat."),
        ("A black and white photograph of two men", "Two men."),
        ("This is a picture of a close-up view of an apple", "An apple."),
        ("an image showing a red bus", "A red bus."),
        ("A man takes a picture of a dog.", "A man takes a picture of a dog."),
        ("A photo of", "A photo of."),
        ("A dog runs. It is brown.", "A dog runs."),
        ("the street in St. Louis", "The street in St. Louis."),
        ("our dog Rex!", "Our dog Rex!"),
        ("There is a ladybug in the picture.", "A ladybug."),
        ("There are two dogs in this photo", "Two dogs."),
        ("There is a dog on a table.", "There is a dog on a table."),
        ("A man in the picture frame.", "A man in the picture frame."),
        (" , ", ""),
        ("", ""),
    ],
)
def test_alt_text(caption: str, text: str) -> None:
    assert alt_text(caption) == text
