"""The chapters of a report: the tables of its sections, what could not be measured, and how to get the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bitmar.evaluate.tables import Picture, Results, Table
from bitmar.report.sections import SECTIONS

_SHOWN = 20  # skipped samples that are named
_TEXTS = {
    "Language": (
        "Accuracies in %, each with its 95 % interval. Chance: drawing among the choices. Commonest: always the "
        "answer that is most often right, known beforehand. The last column says where our interval lies: above or "
        "below another figure as a whole, or at it.",
        "No figure of the paper was measured here; they are printed as the paper has them.",
    ),
    "Pictures": (
        "The paper promises captions and reports no figure for them. Grounding: a model that never looks says the "
        "same, and thinks people's captions as likely, whatever it is shown.",
    ),
    "Efficiency": ("One thread, on the machine named below.",),
    "Memory": (),
    "Weights": (),
    "Honesty probes": (),
}


@dataclass(slots=True)
class Chapter:
    """text: paragraphs before the tables."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def chapters(document: dict[str, Any]) -> list[Chapter]:
    """All of them, also where nothing was measured: a row that is missing says why."""
    found = Results(document)
    made = {title: Chapter(title, list(text)) for title, text in _TEXTS.items()}
    made["Efficiency"].text += _busy(found)
    for section in SECTIONS.values():
        for part in section.tables(found):
            chapter = made.setdefault(section.chapter, Chapter(section.chapter))
            if isinstance(part, Table):
                chapter.tables.append(part)
            else:
                chapter.pictures.append(part)
    return [
        *made.values(),
        Chapter("Not measured", [], [_missing(found)]),
        Chapter("How to repeat this", [], [_commands(found)]),
        Chapter("Data, versions, machine", [], [_models(found), _files(found), _machine(found)]),
    ]


def _busy(found: Results) -> Iterator[str]:
    cores = found.document["machine"]["cores"]
    for name in ("speed", "ablation"):
        load = found.load(name)
        if load is not None and load > cores:
            yield (
                f"The machine was busy when `{name}` was measured, {load:g} processes on {cores} cores: times are not "
                "its best."
            )


def _jobs(found: Results) -> Iterator[dict[str, Any]]:
    for some in found.document["results"].values():
        yield from some.values()


def _missing(found: Results) -> Table:
    rows = [[job["title"], job["status"], job["message"]] for job in _jobs(found) if job["status"] != "done"]
    for job in _jobs(found):
        skipped = list(job.get("skipped", {}).items())
        rows += [[f"{job['title']}: {name}", "skipped", reason] for name, reason in skipped[:_SHOWN]]
        if len(skipped) > _SHOWN:
            rows.append([job["title"], "skipped", f"{len(skipped) - _SHOWN} more"])
    note = "" if rows else "Everything was measured, and nothing was left out."
    return Table("Sections without a figure, and samples that were left out", ["what", "", "why"], rows, note)


def _commands(found: Results) -> Table:
    rows = []
    for job in _jobs(found):
        seconds = "" if "seconds" not in job else f"{job['seconds']:,.0f} s"
        if job.get("resumed"):
            seconds += ", the last part of an interrupted one"
        rows.append([job["title"], seconds, job["command"]])
    return Table("The command of each section, and how long it took here", ["section", "time", "command"], rows)


def _models(found: Results) -> Table:
    rows = [
        [each["title"], each["name"], each.get("scorer", ""), each.get("fingerprint", "")]
        for each in found.document["contestants"]
    ]
    return Table("Models", ["column", "model", "computed by", "engine and checksum"], rows)


def _files(found: Results) -> Table:
    files: dict[str, str] = {}
    for job in _jobs(found):
        files |= job.get("files", {})
    rows = [[name, digest] for name, digest in sorted(files.items())]
    return Table("Files that were read", ["file", "SHA-256"], rows, "" if rows else "None.")


def _machine(found: Results) -> Table:
    about = dict(found.document["machine"])
    versions = about.pop("versions")
    rows = [[name, "" if value is None else str(value)] for name, value in (about | versions).items()]
    return Table("Machine and versions", ["", ""], rows)
