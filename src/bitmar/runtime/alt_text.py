"""A caption as an alternative text: one plain sentence that does not say that the photo is a photo.

A screen reader has said "image" already (WCAG 2.2, technique G94).
"""

from __future__ import annotations

import re

_PHOTO = r"(?:photo(?:graph)?|picture|image|snapshot|close[- ]?up(?: (?:photo(?:graph)?|picture|image|view|shot))?)s?"
_LOOKS = (
    r"(?:(?:black[- ]and[- ]white|black & white|colou?r(?:ed)?|old|vintage|blurry|close[- ]?up|aerial|nice|very) )*"
)
_OPENING = re.compile(
    rf"(?:(?:this|it|here|there)(?: is|'s) )?(?:(?:an?|the|some) )?{_LOOKS}{_PHOTO} "
    r"(?:of|that shows|showing|shows|depicting|with) (?=\S)",
    re.IGNORECASE,
)
_SEEN = r" in (?:the|this) (?:photo|picture|image)\W*$"
_ENDING = re.compile(rf"^there (?:is|are) (?=.*{_SEEN})|{_SEEN}", re.IGNORECASE)


def alt_text(caption: str) -> str:
    """The first sentence of a caption, with a capital letter and a full stop; "" of nothing.

    Without "a photo of" and "in the picture".
    """
    text = " ".join(caption.split())
    text = re.sub(r" ([.,;:!?])", r"\1", text)
    text = re.split(r"(?<=\w{3}[.!?]) ", text, maxsplit=1)[0]
    while opening := _OPENING.match(text):
        text = text[opening.end() :]
    text = _ENDING.sub("", text)
    text = text.rstrip(" ,;:-")
    if not re.search(r"\w", text):
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
