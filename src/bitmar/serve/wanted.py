"""What the text beside a photo asks of it: its caption, an answer, or that the text goes on."""

from __future__ import annotations

import re

_POLITE = re.compile(
    r"^(please[, ]+)?((can|could|would|will) you )?(please )?"
    r"((tell|show) (me|us) (?!about)|i('d| would)? (want|like) to know )?",
    re.IGNORECASE,
)
_DESCRIBE = re.compile(
    r"\b(describe|description|caption|alt[- ]?text)\b"
    r"|\bwhat('s|\u2019s| is| do you see| can you see| can be seen)? (in|on) (this|the) (image|picture|photo)"
    r"|\bwhat (do|can) you see\W*$|\bwhat you see\b",
    re.IGNORECASE,
)
_ORDERS = (
    "analyse", "analyze", "create", "explain", "generate", "give", "identify", "list", "name", "provide", "recognize",
    "say", "summarise", "summarize", "tell", "write",
)  # fmt: skip
_QUESTIONS = (
    "what", "what's", "which", "who", "whose", "where", "when", "why", "how", "is", "are", "was", "were", "does", "do",
    "did", "has", "have",
)  # fmt: skip


def question_in(text: str) -> str | None:
    """The question, without what politeness puts before it; None where there is none, or a description will do.

    "Can you tell me what animal this is?" must not be answered "yes".
    """
    bare = _POLITE.sub("", text)
    if _DESCRIBE.search(text) or _first(bare) in _ORDERS:
        return None
    asked = _first(bare) in _QUESTIONS
    if text.endswith("?"):
        return bare if asked else text
    return bare if asked and not text.endswith((".", "!", ":")) else None


def is_order(text: str) -> bool:
    """Whether the text tells the model to do something; one that is not closed may be the beginning of a caption."""
    return text.endswith((".", "!", ":")) or bool(_DESCRIBE.search(text)) or _first(_POLITE.sub("", text)) in _ORDERS


def _first(text: str) -> str:
    return text.split(" ", 1)[0].lower().replace("\u2019", "'").rstrip(",.:!?")
