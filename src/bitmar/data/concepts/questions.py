"""Questions about a photo from its label and boxes, each with its answer: what it is, how many, where."""

from __future__ import annotations

from collections.abc import Sequence

from bitmar.data.concepts.rewrite import with_article

Box = tuple[str, tuple[float, float, float, float]]  # a name, and left, top, right, bottom from 0 to 1

_SIDE = 0.15  # how far from the middle the middle of a box must lie to be on a side


def label_questions(nouns: Sequence[str], absent: Sequence[str], boxes: Sequence[Box] = ()) -> list[list[str]]:
    """By kind: naming, presence, counts and places.

    nouns: what the label names, the main thing first. absent: nouns of other photos that are not here, as many.
    """
    if not nouns:
        return []
    main = nouns[0]
    kinds = [
        [f"What is this? {with_article(main)}", f"What is in the picture? {with_article(main)}"],
        [
            *(f"Is there {with_article(noun)} in the picture? yes" for noun in nouns),
            *(f"Is there {with_article(noun)} in the picture? no" for noun in absent),
            *(f"Is this {with_article(noun)}? yes" for noun in nouns[:1]),
            *(f"Is this {with_article(noun)}? no" for noun in absent[:1]),
        ],
    ]
    names = [name for name, _ in boxes]
    if boxes:
        kinds.append([f"How many {_plural(name)} are there? {names.count(name)}" for name in dict.fromkeys(names)])
    if len(boxes) == 1:
        kinds.append([f"Where is the {names[0]}? {_place(boxes[0])}"])
    return kinds


def _place(box: Box) -> str:
    left, _, right, _ = box[1]
    offset = (left + right) / 2 - 0.5
    if abs(offset) <= _SIDE:
        return "in the middle"
    return "on the right" if offset > 0 else "on the left"


def _plural(noun: str) -> str:
    if noun in ("sheep", "people"):
        return noun
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"
