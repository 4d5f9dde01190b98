"""BLiMP (arXiv 1912.00582) and BabyLM's supplement to it: of two sentences, is the grammatical one the likelier?"""

from __future__ import annotations

from pathlib import Path

from bitmar.data.archives import Record, read_records, text_of
from bitmar.data.sources import OnBad
from bitmar.evaluate.tasks.babylm.choices import Choice, choice_task


def decode(line: Record, stem: str) -> Choice:
    """The good sentence and the bad one; grouped by phenomenon, which the supplement's files are named after."""
    options = (text_of(line, "sentence_good"), text_of(line, "sentence_bad"))
    uid, field = (text_of({key: line.get(key, default)}, key) for key, default in (("UID", stem), ("field", "other")))
    return Choice.whole(options, uid, kinds={"field": field.replace("/", "_")})  # one field is written both ways


def read_pairs(source: Path, on_bad: OnBad) -> list[Choice]:
    """The pairs of a .zip, a folder (searched to its depths) or a single .jsonl in BabyLM's layout.

    Lines need "sentence_good" and "sentence_bad"; "UID" and "field" sort them. Others go to `on_bad` and are skipped.
    Nothing to read: DataError.
    """
    return read_records(source, decode, on_bad)


blimp = choice_task("blimp", decode)
"""The mean over phenomena of the accuracy in each."""
supplement = choice_task("blimp_supplement", decode)
"""The same on the supplement's five files."""
