"""Texts to read a model with: held-out documents, and a few sentences that belong to no corpus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bitmar.data.corpus import is_held_out
from bitmar.data.text import Domain

SENTENCES: dict[str, tuple[str, ...]] = {
    "scenes": (
        "A dog runs over the green grass.",
        "Two children play in the snow.",
        "A man climbs a steep rock wall.",
        "A woman in a red coat waits at a bus stop.",
        "A boat lies on the beach at sunset.",
        "A girl holds a yellow balloon.",
        "Three cyclists ride down a mountain road.",
        "A black cat sleeps on a chair.",
    ),
    "talk": (
        "Where did you put the keys?",
        "I think we should leave before it rains.",
        "No, she said that she would call tomorrow.",
        "Could you book a table for four at seven?",
        "Well, that depends on what you mean.",
        "Thank you, that would be very kind.",
        "Do you want some more milk?",
        "We used to go there every summer.",
    ),
    "stories": (
        "Once upon a time there lived a miller who had three sons.",
        "The old man looked at the sea and said nothing.",
        "She closed the letter and put it into the fire.",
        "In the night the wolf came back to the house.",
        "His heart beat fast as the door slowly opened.",
        "The king promised half his kingdom to whoever could answer.",
        "They rode all day through the dark forest.",
        "Nobody in the village ever saw him again.",
    ),
    "facts": (
        "The river flows through four countries into the Black Sea.",
        "He was born in 1842 and studied law in Edinburgh.",
        "The species is found in the forests of Madagascar.",
        "The town has a population of about twelve thousand.",
        "Water boils at a lower temperature on a mountain.",
        "The album was released in March and sold a million copies.",
        "The railway line was opened in 1901 and closed in 1968.",
        "Copper is a soft metal that conducts heat well.",
    ),
}
"""Plain sentences of four kinds, which belong to no corpus."""


def heldout_documents(paths: Sequence[str | Path], share: float) -> Iterator[tuple[str, str]]:
    """(file's name, document) of every document of text files that a recipe with `heldout: share` keeps from training.

    share: 1 gives all documents. The choice rests on a document's text as `bitmar train` cuts and cleans it by
    default. Raises DataError.
    """
    for path in paths:
        for file in Domain(path=str(path)).files():
            for document in Domain(path=str(file)).documents():
                if share >= 1 or is_held_out(document, share):
                    yield file.name.split(".")[0], document
