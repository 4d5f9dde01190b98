"""Scores as the COCO caption evaluation computes them (arXiv 1504.00325), by `pycocoevalcap`.

METEOR and SPICE stand apart: both start a Java process with gigabytes of memory, and SPICE needs a parser that is not
part of the package. Where one cannot run it is absent with a reason, never 0.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.core.errors import DataError, DependencyError, pip_install
from bitmar.evaluate.figure import F64

Tokenized = dict[int, list[str]]

_PARSER = "stanford-corenlp-3.6.0"


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


def cider_by_photo(captions: Tokenized, references: Tokenized) -> F64:
    """CIDEr of every caption (n,), in the captions' order; how rare a word is counts over all of these references."""
    _, each = _import("cider.cider").Cider().compute_score(references, captions)
    return np.asarray(each, np.float64)


def meteor(captions: Tokenized, references: Tokenized) -> float:
    """METEOR 1.5 (Denkowski and Lavie 2014), from 0 to 1. Raises DependencyError if its Java process fails."""
    try:
        found, _ = _import("meteor.meteor").Meteor().compute_score(references, captions)
    except (OSError, ValueError) as error:  # the process died: a broken pipe, or nothing where a number should be
        raise DependencyError(f"METEOR's Java process failed ({error}); it needs 2 GB of memory") from error
    return float(found)


def spice(captions: Tokenized, references: Tokenized) -> float:
    """SPICE (arXiv 1607.08822), from 0 to 1. Raises DependencyError if its parser is absent or its process fails.

    The parser is never fetched from here: it is a download of hundreds of megabytes.
    """
    module = _import("spice.spice")
    if not (Path(module.__file__).parent / "lib" / f"{_PARSER}.jar").is_file():
        raise DependencyError(
            f"SPICE needs {_PARSER}, a large download: python -m pycocoevalcap.spice.get_stanford_models"
        )
    try:
        found, _ = module.Spice().compute_score(references, captions)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise DependencyError(f"SPICE's Java process failed ({error}); it needs 8 GB of memory") from error
    return float(found)


def java_scores(captions: Tokenized, references: Tokenized) -> tuple[dict[str, float], dict[str, str]]:
    """METEOR and SPICE: those that can be had by name, and why the others cannot."""
    found: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, measure in (("meteor", meteor), ("spice", spice)):
        try:
            found[name] = measure(captions, references)
        except DependencyError as error:
            absent[name] = str(error)
    return found, absent


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"pycocoevalcap.{name}")
    except ModuleNotFoundError as error:
        raise DependencyError(f"caption scores need {error.name}: {pip_install('eval')}") from error
