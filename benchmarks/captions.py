"""How well a model describes the photos of WebDataset shards: CIDEr, BLEU, ROUGE-L, and the control with wrong photos.

python benchmarks/captions.py --model runs/default --json out/captions.json
python benchmarks/captions.py --model runs/default/language --engine torch --features out/features
python benchmarks/captions.py --captions out/lines.json      # what `bitmar caption --data ... --json` wrote
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer
from _machine import SHARED, publish, run, skip_without_shared_data

from bitmar.console import Skipped, progress, say
from bitmar.evaluate.captioning import caption_shards, read_captions, score_captions
from bitmar.evaluate.scorer import Scorer, load_scorer

DATA = str(SHARED / "captions" / "flickr8k-val-*.tar")


def main(
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    data: Annotated[str, typer.Option(help="WebDataset shards: a path, glob, braces or URL.")] = DATA,
    features: Annotated[Path | None, typer.Option(help="Their patch features, for a model without a tower.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Score this file's captions; no model is run.")] = None,
    engine: Annotated[str, typer.Option(help="auto, runtime, torch, or one of the runtime's.")] = "auto",
    beams: Annotated[list[int] | None, typer.Option(help="Numbers of beams, 1 is greedy. Default: 1 and 3.")] = None,
    limit: Annotated[int | None, typer.Option(help="Photos. Default: all.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Caption photos and score the captions."""
    if captions is not None:
        publish("captions", score_captions(read_captions(captions)).to_dict(), data=str(captions), out=json)
        return
    skip_without_shared_data(data)
    scorer = load_scorer(model, engine)
    figures: dict[str, Any] = {"model": scorer.name, "scorer": type(scorer).__name__}
    for count in beams or [1, 3]:
        figures["greedy" if count == 1 else f"beams {count}"] = measure(scorer, data, features, count, limit)
    publish("captions", figures, data=data, out=json)


def measure(scorer: Scorer, data: str, folder: Path | None, beams: int, limit: int | None) -> dict[str, Any]:
    """Captions by one way of decoding, scored."""
    from bitmar.data.features import FeatureStore

    store = FeatureStore(folder) if folder else None
    lines = []
    with progress() as bar:
        skipped = Skipped(bar)
        task = bar.add_task("greedy" if beams == 1 else f"{beams} beams", total=limit)
        start = perf_counter()
        for line in caption_shards(scorer, data, features=store, limit=limit, beams=beams, on_bad=skipped):
            lines.append(line)
            bar.update(task, completed=len(lines))
        seconds = perf_counter() - start
    say(f"{len(lines)} captions; {skipped}")
    found = score_captions(lines).to_dict()
    return {**found, "skipped": len(skipped.reasons), "seconds_per_photo": seconds / len(lines)}


if __name__ == "__main__":
    run(main)
