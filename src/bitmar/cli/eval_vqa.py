"""`bitmar eval questions --vqa`: people's questions about photos."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import typer

from bitmar.cli.app import SKIPPED
from bitmar.cli.common import needs
from bitmar.cli.eval_options import name_skipped, publish
from bitmar.console import Skipped, progress


def answer_vqa(vqa: Path, data: Sequence[str], model: str | None, limit: int | None, json_file: Path | None) -> None:
    """Answer the questions of a file, and publish how many were right."""
    from bitmar import load
    from bitmar.data.shards import expand_shards
    from bitmar.data.sources import iter_webdataset
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.vqa import evaluate_vqa, read_vqa

    expand_shards(data)
    with needs("data"), progress() as bar:
        skipped = Skipped(bar)
        questions = list(islice(read_vqa(vqa, skipped), limit))
        loaded = load(model)
        task = bar.add_task("questions", total=len(questions))
        found = evaluate_vqa(
            loaded,
            questions,
            iter_webdataset(data),  # photos that nobody asks about may be broken
            on_bad=skipped,
            on_progress=lambda count: bar.update(task, completed=count),
        )
    document = {
        "task": "vqa",
        "model": str(loaded.path),
        "questions_from": str(vqa),
        "data": list(data),
        **plain(found),
        "skipped": skipped.as_list(),
    }
    rows = [
        [
            kind,
            *(f"{100 * x.value:.1f} ({100 * x.low:.0f} to {100 * x.high:.0f})" for x in (each.seen, each.blind)),
            f"{100 * each.gain.value:+.1f} ({100 * each.gain.low:+.0f} to {100 * each.gain.high:+.0f})",
            f"{100 * each.told:.0f}",
            "" if each.right_of_told is None else f"{100 * each.right_of_told:.1f}",
            f"{100 * each.commonest:.1f}",
            str(each.questions),
        ]
        for kind, each in found.kinds.items()
    ]
    heads = ("answer", "right, %", "blind", "gain", "told", "right of told", "commonest", "of")
    publish(document, rows, heads, json_file)
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)
