"""`write_report`: measure what is not measured yet, then write the page, the Markdown file and report.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.evaluate.folder import EvalData
from bitmar.evaluate.tables import BASELINE, OURS, PEER, TEXT
from bitmar.evaluate.task import Task
from bitmar.evaluate.work import OnStep
from bitmar.report.chapters import Chapter, chapters
from bitmar.report.job import DONE, FAILED, LATER, Contestant, Job
from bitmar.report.machine import machine
from bitmar.report.render import require_jinja, to_html, to_markdown
from bitmar.report.sections import SECTIONS, find_sections
from bitmar.train.runs import is_run

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


@dataclass(frozen=True)
class Watch:
    """Whom to tell. on_plan(jobs to do, jobs finished before, seconds that they may take); on_job(title, its number);
    on_step: as in `OnStep`; on_end(title, "" or why it was not measured); on_bad(name, reason)."""

    on_plan: Callable[[int, int, float], None] = lambda todo, finished, seconds: None
    on_job: Callable[[str, int], None] = lambda title, number: None
    on_step: OnStep = lambda name, done, total: None
    on_end: Callable[[str, str], None] = lambda title, reason: None
    on_bad: Callable[[str, str], None] = lambda name, reason: None


@dataclass(frozen=True)
class Report:
    """html, markdown, json: the files. document: what is in report.json. failed: jobs that should have gone well."""

    html: Path
    markdown: Path
    json: Path
    document: dict[str, Any] = field(repr=False)

    @property
    def failed(self) -> list[str]:
        """Titles and reasons of what went wrong; data that is not there is no failure."""
        return [f"{each['title']}: {each['message']}" for each in self._results() if each["status"] == FAILED]

    @property
    def measured(self) -> int:
        """How many jobs have a result."""
        return sum(each["status"] == DONE for each in self._results())

    def _results(self) -> list[dict[str, Any]]:
        return [each for some in self.document["results"].values() for each in some.values()]


def write_report(
    model: str | Path | None = None,
    out: str | Path = "report",
    *,
    data: str | Path,
    captions: Sequence[str] = (),
    baselines: Sequence[str | Path] = (),
    text_model: str | Path | None = None,
    peers: Sequence[str] = (),
    run: str | Path | None = None,
    finetuned: str | Path | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    watch: Watch | None = None,
) -> Report:
    """Measure a model on all that the data allows and write it beside the paper's figures.

    Args:
        model: as `load_scorer` takes it. out: a folder; what an earlier call has finished there is not measured again
            while model, data, version and limit are the same. data: a folder as in docs/report.md. captions: shards
            that are elsewhere. baselines: models of the same size, such as unquantised ones. text_model: one that was
            trained on text alone, for the language tables. peers: other causal models on the Hub, for Table 1. run: the
            model's training run, for Figures 2 and 3 (default: `model`, if that is one). finetuned: a folder with a
            finished fine-tuning of each task. only: names of sections; the others are shown if they are finished.
            limit: items of each task, for a quick look.
    Returns:
        Where the report lies, and what is in it. A section that cannot be measured is in it with the reason.
    Raises:
        ConfigError for an unknown section or a limit below 2, DataError if `data` does not exist, FormatError for a
        model that cannot be loaded, DependencyError without the extra `eval`.
    """
    chosen, watch = find_sections(only), watch or Watch()
    if limit is not None and limit < 2:
        raise ConfigError(f"a limit is a number of items, at least 2, not {limit}")
    if not Path(data).is_dir():
        raise DataError(f"there is no folder {data}: name the one with the evaluation data (docs/report.md)")
    require_jinja()
    out = Path(out)
    if run is None and model is not None and is_run(Path(model)):
        run = model
    run, finetuned = (None if path is None else Path(path) for path in (run, finetuned))
    source = EvalData(Path(data), captions, run, finetuned)
    contestants = _contestants(model, text_model, baselines, peers)
    for contestant in contestants:
        contestant.about()  # a model that cannot be loaded is told before there is any work
    work, figures = out / "work", out / "figures"
    for folder in (work, figures):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(section, contestant, source, limit, work, figures, watch.on_step)
        for contestant in contestants
        for section in SECTIONS.values()
        if contestant.role in section.roles
    ]
    about = {
        "limit": limit,
        "data": str(source.folder),
        "contestants": [each.about() for each in contestants],
        "machine": machine(),
    }
    results, todo = _sort_out(jobs, chosen)
    finished = sum(each["status"] == DONE for some in results.values() for each in some.values())
    watch.on_plan(len(todo), finished, sum(job.seconds for job in todo))
    for number, job in enumerate(todo, 1):
        watch.on_job(job.title, number)
        found = job.measure()
        for name, reason in found.get("skipped", {}).items():
            watch.on_bad(name, reason)
        watch.on_end(job.title, found.get("message", ""))
        results[job.task.name][job.contestant.key] = job.described(found)
        _write(out, {**about, "results": results})  # it can be read while it grows
    return _write(out, {**about, "results": results})


def _sort_out(jobs: list[Job], chosen: Collection[Task]) -> tuple[dict[str, dict[str, dict[str, Any]]], list[Job]]:
    """By section and model what is known before any work, and the jobs that are to be done."""
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in SECTIONS}
    todo: list[Job] = []
    for job in jobs:
        found = job.known()
        if found is None and job.task in chosen:
            todo.append(job)
            found = {"status": LATER, "message": "still to come"}
        elif found is None:
            found = {"status": LATER, "message": f"not run yet; --only {job.task.name} measures it"}
        results[job.task.name][job.contestant.key] = job.described(found)
    return results, todo


def _contestants(
    model: str | Path | None, text: str | Path | None, baselines: Sequence[str | Path], peers: Sequence[str]
) -> list[Contestant]:
    found = [Contestant(OURS, None if model is None else str(model), "ours")]
    if text is not None:
        found.append(Contestant(TEXT, str(text), "ours, text alone"))
    for name in dict.fromkeys(map(str, baselines)):
        found.append(Contestant(BASELINE, name, f"baseline: {'/'.join(Path(name).parts[-2:])}"))
    return found + [Contestant(PEER, name, name) for name in dict.fromkeys(peers)]


def _write(out: Path, document: dict[str, Any]) -> Report:
    found = chapters(document)
    document = {**document, "chapters": [_as_text(chapter) for chapter in found]}
    report = Report(out / HTML, out / MARKDOWN, out / JSON, document)
    write_atomically(report.json, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(report.markdown, to_markdown(document, found).encode())
    write_atomically(report.html, to_html(document, found, out / "figures").encode())
    return report


def _as_text(chapter: Chapter) -> dict[str, Any]:
    """For JSON, which has the figures under results: every cell as its text."""
    tables = [
        {"title": table.title, "head": table.head, "rows": [[str(cell) for cell in row] for row in table.cells],
         "note": table.note}
        for table in chapter.tables
    ]  # fmt: skip
    pictures = [asdict(picture) for picture in chapter.pictures]
    return {"title": chapter.title, "text": chapter.text, "tables": tables, "pictures": pictures}
