"""CIDEr, BLEU and ROUGE-L as the COCO caption evaluation computes them (arXiv 1504.00325), by `pycocoevalcap`.

METEOR and SPICE are left out: both start a Java process with gigabytes of memory, and SPICE downloads its models.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitmar.core.errors import DataError, DependencyError

Tokenized = dict[int, list[str]]


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores of a set of captions; BLEU and ROUGE-L from 0 to 1, CIDEr from 0 to 10 (papers print 100 times it)."""

    cider: float
    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)


def tokenize(texts: Sequence[Sequence[str]]) -> Tokenized:
    """Texts, several for an image, through the Penn Treebank tokenizer that all published scores rest on (Java).

    Raises DependencyError with what to install.
    """
    if shutil.which("java") is None:
        raise DependencyError(
            "caption scores need Java for their tokenizer: install a runtime (Debian and Ubuntu: "
            "`apt install default-jre-headless`, macOS: `brew install openjdk`) and see that `java -version` works"
        )
    ptb = _import("tokenizer.ptbtokenizer").PTBTokenizer()
    # The tokenizer counts lines, and Unicode has eight characters that end one.
    asked = {i: [{"caption": " ".join(text.split())} for text in group] for i, group in enumerate(texts)}
    try:
        found: Tokenized = ptb.tokenize(asked)
    except OSError as error:  # it writes a file beside itself
        raise DependencyError(f"pycocoevalcap's tokenizer cannot run ({error}): install it for this user") from error
    if [len(found.get(i, ())) for i in asked] != [len(group) for group in asked.values()]:
        raise DependencyError("Java could not run the tokenizer of pycocoevalcap: see that `java -version` works")
    return found


def score(captions: Tokenized, references: Tokenized) -> CaptionScores:
    """Tokenized captions, one for an image, against the same images' references. Nothing to score: DataError."""
    if not captions:
        raise DataError("no caption has references to be scored against")
    (bleu_1, bleu_2, bleu_3, bleu_4), _ = _import("bleu.bleu").Bleu(4).compute_score(references, captions, verbose=0)
    rouge_l, _ = _import("rouge.rouge").Rouge().compute_score(references, captions)
    cider, _ = _import("cider.cider").Cider().compute_score(references, captions)
    return CaptionScores(
        cider=float(cider),
        bleu_1=float(bleu_1),
        bleu_2=float(bleu_2),
        bleu_3=float(bleu_3),
        bleu_4=float(bleu_4),
        rouge_l=float(rouge_l),
    )


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"pycocoevalcap.{name}")
    except ModuleNotFoundError as error:
        raise DependencyError(f"caption scores need {error.name}: pip install 'bitmar[eval]'") from error
