"""Questions about a picture, made by rule from what people wrote beneath it: what VQA asks, answered in its words.

Colours, numbers and actions after COCO-QA (Ren et al., 2015), presence and truth with as many "no" as "yes", whose
things and sentences are another picture's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

COLOURS = ("black", "white", "red", "blue", "green", "yellow", "brown", "orange", "pink", "purple", "gray", "tan")
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_COLOUR = "|".join(COLOURS)
_BEHIND_A_THING = (
    "is|are|in|on|with|and|at|near|of|by|through|over|along|to|while|that|who|wearing|holding|for|from|into|down|up|"
    "next|under|behind|beside|against|during|as|outside|inside|around|across"
)
_COLOURED = re.compile(rf"\b({_COLOUR}) (?!(?:and|or|{_COLOUR})\b)([a-z]+)(?= (?:{_BEHIND_A_THING})\b|[.,])")
_COUNTED = re.compile(rf"\b({'|'.join(NUMBERS)}) (?:[a-z]+ )?([a-z]+s|people|men|women|children)\b")
_ACTING = re.compile(r"\b(man|woman|boy|girl|dog|child|person|player|baby) (?:is )?([a-z]{3,}ing)\b")
_NO_ACTION = ("wearing", "holding", "having", "being")
_NAMED = re.compile(rf"\b(?:a|an|the|his|her|its) (?:[a-z-]+ ){{0,2}}?([a-z]{{3,}})(?= (?:{_BEHIND_A_THING})\b|[.,])")


def picture_questions(captions: Sequence[str], of_another: Sequence[str]) -> dict[str, list[str]]:
    """By kind the questions, each with its answer, that these captions of one picture allow.

    of_another: captions of another picture, for what is not to be seen here. Kinds: color, count, action, presence,
    truth; one that the captions do not allow is left out.
    """
    own, other = (" ".join(texts).lower().replace("grey", "gray") for texts in (captions, of_another))
    here, there = (_things(text) for text in (own, other))
    absent = [thing for thing in there if thing not in own]
    pairs = min(len(here), len(absent))
    sentences = min(len(captions), len(of_another))
    found = {
        "color": [f"What color {_is(thing)} the {thing}? {colour}" for colour, thing in _COLOURED.findall(own)],
        "count": [f"How many {things} are there? {NUMBERS[number]}" for number, things in _COUNTED.findall(own)],
        "action": [f"What is the {who} doing? {what}" for who, what in _ACTING.findall(own) if what not in _NO_ACTION],
        "presence": [
            *(f"Is there {_a(thing)} in the picture? yes" for thing in here[:pairs]),
            *(f"Is there {_a(thing)} in the picture? no" for thing in absent[:pairs]),
        ],
        "truth": [
            *(f"Is it true that {_clause(caption)}? yes" for caption in captions[:sentences]),
            *(f"Is it true that {_clause(caption)}? no" for caption in of_another[:sentences]),
        ],
    }
    return {kind: list(dict.fromkeys(texts)) for kind, texts in found.items() if texts}


def _things(text: str) -> list[str]:
    """The things named, one of each kind: no plural, no colour, and no "a running"."""
    named = dict.fromkeys(_NAMED.findall(text))
    return [word for word in named if _is(word) == "is" and not re.fullmatch(rf"{_COLOUR}|.*ing|air", word)]


def _a(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _is(thing: str) -> str:
    return "are" if re.search("[^s]s$", thing) else "is"


def _clause(caption: str) -> str:
    text = caption.strip().rstrip(".")
    return text[:1].lower() + text[1:]
