"""COMPS (arXiv 2210.01963): does the property follow the concept that has it, or the one that has not?

As in the pipeline, the same property is scored after either concept: only its own tokens count.
"""

from __future__ import annotations

from bitmar.data.archives import Record, text_of
from bitmar.evaluate.tasks.babylm.choices import Choice, choice_task

_SUBSETS = {
    "comps_base": "base",
    "comps_wugs": "wugs",
    "comps_wugs_dist-before": "wugs_dist_before",
    "comps_wugs_dist-in-between": "wugs_dist_in_between",
}


def decode(line: Record, stem: str) -> Choice:
    """The property after the acceptable prefix, against after the other; grouped by file."""
    prefixes = [f"{text_of(line, key)} " for key in ("prefix_acceptable", "prefix_unacceptable")]
    return Choice.completed(prefixes, [text_of(line, "property_phrase")] * 2, _SUBSETS.get(stem, stem))


comps = choice_task("comps", decode)
"""The mean over the four subsets of the accuracy in each."""
