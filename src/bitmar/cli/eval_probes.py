"""`bitmar eval probes`: whether the figures of a model can be believed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from bitmar.cli.app import command
from bitmar.cli.common import Model, needs
from bitmar.cli.eval_options import Engine, Features, JsonFile, begin, evaluate, name_skipped, publish
from bitmar.console import Skipped, progress

WRONG = 1  # exit status: a probe has failed


@command(
    "bitmar eval probes",
    "bitmar eval probes --data 'flickr8k-val-*.tar' --blimp blimp_filtered.zip --json out/probes.json",
    group=evaluate,
    name="probes",
    shards=True,
)
def eval_probes(
    model: Model = None,
    engine: Engine = "auto",
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SHARDS", help="WebDataset shards with captions, for the image probe."),
    ] = None,
    features: Features = None,
    photos: Annotated[int, typer.Option("--photos", min=2, help="Photos of the image probe.")] = 64,
    blimp: Annotated[
        Path | None, typer.Option("--blimp", metavar="ZIP|FOLDER|JSONL", help="BLiMP's pairs, for the tie probe.")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Pairs of the tie probe, evenly spread.")] = 2000,
    json_file: JsonFile = None,
) -> None:
    """Look for leaks, for scores that depend on order, batch or memory, for blindness, and for ties.

    Exit status 1: a probe has failed. Without --data and --blimp the image and tie probes are not run.
    """
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.scorer import load_scorer
    from bitmar.evaluate.tasks.babylm.blimp import read_pairs
    from bitmar.evaluate.tasks.probes import run_probes

    scorer = load_scorer(model, engine)
    with needs("train"), progress() as bar:
        skipped = Skipped(bar)
        chosen = read_pairs(blimp, skipped) if blimp else []
        pictures, captions = [], []
        if data and (features or scorer.has_tower):
            from bitmar.data.features import FeatureStore
            from bitmar.evaluate.tasks.captions import read_pictures

            found = read_pictures(data, features=FeatureStore(features) if features else None, on_bad=skipped)
            for sample, picture in islice((each for each in found if each[0].captions), photos):
                pictures.append(picture)
                captions.append(sample.captions)
        task = bar.add_task("probes", total=None)

        def on_probe(name: str) -> None:
            bar.update(task, description=f"probing {name}", advance=1)

        report = run_probes(
            scorer,
            pictures=pictures,
            captions=captions,
            pairs=chosen[:: max(1, len(chosen) // pairs)],
            on_probe=on_probe,
        )
    rows = [
        [
            probe.name,
            {True: "passed", False: "FAILED", None: "not run"}[probe.passed],
            "" if probe.measured is None else f"{probe.measured:.4g}",
            "" if probe.limit is None else f"{probe.limit:.4g}",
            f"{probe.meaning} [{probe.unit}]".replace("[", r"\["),
        ]
        for probe in report.probes
    ]
    document = begin("probes", scorer, data=data, **plain(report), skipped=skipped.as_list())
    publish(document, rows, ("probe", "", "measured", "limit", "meaning"), json_file)
    name_skipped(skipped)
    if not report.passed:
        raise typer.Exit(WRONG)
