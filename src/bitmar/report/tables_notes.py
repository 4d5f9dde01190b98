"""Whether the figures can be believed, what could not be measured, and how to get the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitmar.report.layout import Chapter, Results, Table

_SHOWN = 20  # skipped samples that are named


def probes_chapter(found: Results) -> Chapter:
    """The honesty probes."""
    report = found.get("probes")
    if report is None:
        return Chapter("Honesty probes", [found.missing("probes")])
    word = {True: "passed", False: "FAILED", None: "not run"}
    rows = [
        [
            probe["name"],
            word[probe["passed"]],
            "" if probe["measured"] is None else f"{probe['measured']:.4g}",
            "" if probe["limit"] is None else f"{probe['limit']:.4g}",
            probe["unit"],
            probe["meaning"],
        ]
        for probe in report["probes"]
    ]
    text = "Each looks for one way in which good figures can be had without a good model."
    return Chapter(
        "Honesty probes", [text], [Table("Probes", ["probe", "", "measured", "limit", "unit", "meaning"], rows)]
    )


def notes_chapters(found: Results) -> list[Chapter]:
    """Notes: what is missing, the commands, the data and the machine."""
    return [
        Chapter("Not measured", [], [_missing(found)]),
        Chapter("How to repeat this", [], [_commands(found)]),
        Chapter("Data, versions, machine", [], [_models(found), _files(found), _machine(found)]),
    ]


def _jobs(found: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    for some in found.document["results"].values():
        yield from some.items()


def _missing(found: Results) -> Table:
    rows = [[job["title"], job["status"], job["message"]] for _, job in _jobs(found) if job["status"] != "done"]
    for _, job in _jobs(found):
        skipped = list(job.get("skipped", {}).items())
        rows += [[f"{job['title']}: {name}", "skipped", reason] for name, reason in skipped[:_SHOWN]]
        if len(skipped) > _SHOWN:
            rows.append([job["title"], "skipped", f"{len(skipped) - _SHOWN} more"])
    note = "" if rows else "Everything was measured, and nothing was left out."
    return Table("Sections without a figure, and samples that were left out", ["what", "", "why"], rows, note)


def _commands(found: Results) -> Table:
    rows = []
    for _, job in _jobs(found):
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
    for _, job in _jobs(found):
        files |= job.get("files", {})
    rows = [[name, digest] for name, digest in sorted(files.items())]
    return Table("Files that were read", ["file", "SHA-256"], rows, "" if rows else "None.")


def _machine(found: Results) -> Table:
    about = dict(found.document["machine"])
    versions = about.pop("versions")
    rows = [[name, "" if value is None else str(value)] for name, value in (about | versions).items()]
    return Table("Machine and versions", ["", ""], rows)
