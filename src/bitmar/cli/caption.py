"""`bitmar caption`: of photos named one by one, or of whole shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import FAILED, SKIPPED, USE, command
from bitmar.cli.common import Beams, Json, MemoryFile, Model, Recite
from bitmar.console import say, write_json
from bitmar.core.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from bitmar.runtime.api import BitMar
    from bitmar.session.session import Recalled, Session

IN_A_GRID = 12  # photos, where the command names shards and no limit


@command(
    "bitmar caption photo.jpg",
    "bitmar caption *.jpg --beams 3 --json",
    "bitmar caption *.jpg --grid grid.png",
    "bitmar caption photo.jpg --memory home.mem",
    "bitmar caption --data 'val-{00000..00003}.tar' --out captions.json",
    panel=USE,
    shards=True,
)
def caption(
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO", help="Photos, one by one.", show_default=False),
    ] = None,
    model: Model = None,
    beams: Beams = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Longest caption, in tokens.")] = 32,
    as_json: Json = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="SHARDS", help="WebDataset shards instead of photos: paths, globs, braces, URLs."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.json", help="With --data: the file to write, a JSON line per photo."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            "--features", metavar="FOLDER", help="With --data: their patch features, for a model without a tower."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="With --data: stop after N photos.")] = None,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", metavar="OUT.png", help="Draw photos, captions and references as one picture."),
    ] = None,
    memory: MemoryFile = None,
    recite: Recite = True,
) -> None:
    """Describe photographs, each in a sentence.

    A photo that cannot be read is named and left out; the others go on.

    With --data the file has a line {"key", "caption", "references"} per photo. The same command goes on where a
    stopped one was. If anything was skipped, the exit status is 1.

    With --memory the model reads the memory while it writes. The episode nearest to each photo is named beside the
    caption, and where the photo is surely the remembered one, the caption begins with the words that were remembered.
    """
    from bitmar import load

    names = photos or []
    if data:
        out = _shards_out(names, as_json, out, grid, limit)
        if memory:
            raise ConfigError("--memory goes with photos named one by one, not with --data")
        limit = limit if limit or out else IN_A_GRID
        _caption_shards(load(model), data, out, features, grid, limit, beams, max_tokens)
        return
    if not names:
        raise ConfigError("name a photo, or shards with --data")
    if features or limit is not None or out:
        raise ConfigError("--features, --limit and --out belong to --data")
    loaded = load(model)
    captions: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    session = None
    if memory is not None:
        from bitmar.cli.memory import open_memory

        session = open_memory(loaded, memory)
    for result in caption_photos(loaded, names, session, recite=recite, beams=beams, max_tokens=max_tokens):
        (skipped if "error" in result else captions).append(result)
        if "error" in result:
            say(f"skipped {result['error']}")
        elif not as_json:
            line, sure = _honest(result), _sure(result["confidence"])
            typer.echo(line if len(names) == 1 else f"{result['photo']}: {line}{sure and f' ({sure})'}")
            if sure and len(names) == 1:
                say(sure)
            if found := result.get("recalled"):
                known = "" if found["confidence"] is None else f", {found['confidence']:.1%} sure"
                what = "recited" if result["recited"] else "remembered with a photo like this"
                say(f"{what}: {found['text']!r} (score {found['score']:.3f}{known})")
    if grid and captions:
        from bitmar.plots.grid import Cell, write_grid

        write_grid(grid, [Cell(result["photo"], result["caption"]) for result in captions])
    if as_json:
        write_json({"model": str(loaded.path), "captions": captions, "skipped": skipped})
    if skipped:
        say(f"{len(skipped)} of {len(names)} photos skipped")
        raise typer.Exit(SKIPPED if captions else FAILED)


def caption_photos(
    model: BitMar, photos: Sequence[str], memory: Session | None = None, **options: Any
) -> Iterator[dict[str, Any]]:
    """A result per photo: photo, caption, tokens, finish_reason, seconds; or photo and error. With a memory, also
    the nearest episode, recalled, and how many characters of the caption are recited from it.

    A single photo that cannot be read is an ImageError, and so is a model that can read none.
    """
    for photo in photos:
        try:
            written = model.generate("", photo, memory=memory, **options)
        except ImageError as error:
            if len(photos) == 1 or model.config.vision_tower is None:
                raise
            yield {"photo": photo, "error": str(error)}
            continue
        yield {
            "photo": photo,
            "caption": written.text.strip(),
            "tokens": len(written.tokens),
            "finish_reason": written.finish_reason,
            "confidence": None if written.confidence is None else round(written.confidence, 3),
            "general": written.general,
            "seconds": {part: round(seconds, 4) for part, seconds in asdict(written.timings).items()},
            **({} if memory is None else {"recalled": _recalled(written.recalled), "recited": written.recited}),
        }


def _honest(result: dict[str, Any]) -> str:
    """A caption as it is shown: a doubtful one says so, and what is sure in its place."""
    from bitmar.runtime.confidence import DOUBTFUL

    if result["confidence"] is None or result["confidence"] >= DOUBTFUL:
        return str(result["caption"])
    sure = f" (surely {result['general']})" if result["general"] else ""
    return f"not sure: {result['caption']}{sure}"


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f"{confidence:.0%} sure"


def _recalled(found: Recalled | None) -> dict[str, Any] | None:
    from bitmar.cli.memory import recalled_document

    return recalled_document(found) if found else None


def _shards_out(
    names: Sequence[str], as_json: bool, out: Path | None, grid: Path | None, limit: int | None
) -> Path | None:
    """Where the captions of shards go, None for a grid alone. `--json FILE` is another way to say `--out FILE`."""
    if len(names) > (0 if out else 1) or as_json != bool(names) or not (names or out or grid):
        raise ConfigError(
            "with --data say where captions go: --out captions.json, or --grid grid.png for a few of them"
        )
    out = Path(names[0]) if names else out
    if out and out.suffix not in (".json", ".jsonl"):  # a photo named by mistake stays what it is
        raise ConfigError(f"--data writes its captions to a .json or .jsonl file, not to {out}")
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is a number of photos, at least 1, not {limit}")
    return out


def _caption_shards(
    model: BitMar,
    data: Sequence[str],
    out: Path | None,
    features: Path | None,
    grid: Path | None,
    limit: int | None,
    beams: int,
    max_tokens: int,
) -> None:
    from tempfile import TemporaryDirectory

    from bitmar.cli.shards import ShardCaptioner, grid_cells

    captioner = ShardCaptioner(model, data, features, {"beams": beams, "max_tokens": max_tokens})
    with TemporaryDirectory() as temporary:
        written = out or Path(temporary) / "captions.json"
        count, skipped = captioner.run(written, limit)
        if grid:
            from bitmar.plots.grid import write_grid

            write_grid(grid, grid_cells(data, written, IN_A_GRID if out else count))
    say(f"{count} caption{'s' * (count != 1)} in {out or grid}; {skipped}")
    if skipped.reasons:
        raise typer.Exit(SKIPPED)
