"""`bitmar caption`: of photos, of whole folders, or of shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import FAILED, SKIPPED, USE, command
from bitmar.cli.caption_files import CaptionFiles, photo_key
from bitmar.cli.common import Beams, Cluster, Json, MemoryFile, Model, Recite
from bitmar.cli.photos import STDIN, find_photos, photo_of
from bitmar.cli.threads import cores, in_order
from bitmar.console import progress, resumable, say, write_json
from bitmar.core.errors import ConfigError, ImageError
from bitmar.core.files import shown
from bitmar.runtime.alt_text import alt_text

if TYPE_CHECKING:
    from bitmar.api import BitMar
    from bitmar.evaluate.store import Store
    from bitmar.session.session import Recalled, Session


class Style(str, Enum):
    """How captions read."""

    plain = "plain"
    alt = "alt"


IN_A_GRID = 12  # photos, where the command names shards and no limit


@command(
    "bitmar caption photo.jpg",
    "bitmar caption photos/ --csv captions.csv",
    "bitmar caption - --style alt < photo.jpg",
    "bitmar caption photos/ --embed",
    "bitmar caption *.jpg --beams 3 --json",
    "bitmar caption *.jpg --grid grid.png",
    "bitmar caption photo.jpg --memory home.mem",
    "bitmar caption --data 'val-{00000..00003}.tar' --out captions.json",
    "bitmar caption --data 's3://bucket/val-*.tar' --out captions.json --cluster auto",
    panel=USE,
    shards=True,
)
def caption(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTO",
            help="Photos or videos: files, folders with all below them, globs, URLs; - for standard input.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    beams: Beams = None,
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
    cluster: Cluster = None,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", metavar="OUT.png", help="Draw photos, captions and references as one picture."),
    ] = None,
    memory: MemoryFile = None,
    recite: Recite = True,
    table: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT.csv", help="Write a table: a row per photo.")
    ] = None,
    lines: Annotated[
        Path | None, typer.Option("--jsonl", metavar="OUT.jsonl", help="Write a line of JSON per photo.")
    ] = None,
    sidecar: Annotated[bool, typer.Option("--sidecar", help="Write photo.txt beside each photo.jpg.")] = False,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Write photo.xmp beside each photo.jpg: description and alternative text.")
    ] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="Write both into the photos themselves, as XMP and IPTC.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    style: Annotated[
        Style, typer.Option("--style", help="alt: one plain sentence without 'a photo of', as an alternative text.")
    ] = Style.plain,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Photos at a time. Default: one per core.", show_default=False)
    ] = None,
) -> None:
    """Describe photographs, each in a sentence.

    A photo that cannot be read is named and left out; the others go on. Of a video, named or matched by a glob, the
    frame in its middle is described.

    --csv, --jsonl, --sidecar and --xmp write files, none of which is written over without --force; --embed writes into
    the photos, where they have no description yet. The same command goes on where a stopped one was.

    With --data the file has a line {"key", "caption", "references"} per photo. The same command goes on where a
    stopped one was. If anything was skipped, the exit status is 1.

    With --memory the model reads the memory while it writes. The episode nearest to each photo is named beside the
    caption, and where the photo is surely the remembered one, the caption begins with the words that were remembered.
    """
    from bitmar import load

    names = photos or []
    files = CaptionFiles(table, lines, sidecar, force, xmp, embed)
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers is a number of photos at a time, at least 1, not {workers}")
    if data:
        out = _shards_out(names, as_json, out, grid, limit)
        if memory or files or style is not Style.plain:
            raise ConfigError("--memory, --style and the files of captions go with photos, not with --data")
        limit = limit if limit or out else IN_A_GRID
        _caption_shards(load(model), data, out, features, grid, limit, cluster, beams, max_tokens)
        return
    if not names:
        raise ConfigError("name a photo, or shards with --data")
    if features or limit is not None or out or cluster:
        raise ConfigError("--features, --limit, --out and --cluster belong to --data")
    if grid and STDIN in names:
        raise ConfigError("--grid draws photos that can be read twice, which standard input cannot")
    loaded = load(model)
    session = None
    if memory is not None:
        from bitmar.cli.memory import open_memory

        session = open_memory(loaded, memory)
    skipped: list[dict[str, Any]] = []

    def skip(name: str, reason: str) -> None:
        bar.console.print(f"skipped {shown(reason)}", markup=False, highlight=False, soft_wrap=True)
        skipped.append({"photo": shown(name), "error": shown(reason)})

    options = {"beams": beams, "max_tokens": max_tokens}
    task = {"model": loaded.container.checksum, "memory": memory and str(memory), "recite": recite, **options}
    captions: list[dict[str, Any]] = []
    quiet = as_json or bool(files)  # captions are not printed one by one
    with progress(hidden=not (quiet and sys.stderr.isatty())) as bar:
        found = find_photos(names, lambda name, reason: skip(name, f"{name}: {reason}"))
        left = files.plan(found)
        alone = len(names) == 1 and left == names
        with files.log(task) as log, resumable(lambda: log.path if log and log.found else None):
            if log and log.replaced:
                say(log.replaced)
            bar_task = bar.add_task("captions", total=len(left)) if left else None
            results = caption_photos(
                loaded, left, session, workers=workers, log=log, single=len(found) == 1, recite=recite, **options
            )
            for photo, result in zip(left, results, strict=True):
                if bar_task is not None:
                    bar.update(bar_task, advance=1)
                if "error" in result:
                    skip(photo, result["error"])
                    continue
                if style is Style.alt:
                    result["caption"] = alt_text(result["caption"]) or result["caption"]
                try:
                    files.beside(photo, result["caption"])
                except ImageError as error:  # of a format that takes no text
                    skip(photo, str(error))
                    continue
                captions.append(result)
                if not quiet:
                    _print(result, style, alone)
            if log and captions:
                files.write(captions)
            if log and (captions or not log.found):
                log.finish()
    if grid and captions:
        from bitmar.plots.grid import Cell, write_grid

        named = [photo for photo in left if shown(photo) not in {each["photo"] for each in skipped}]
        write_grid(grid, [Cell(photo_of(photo), each["caption"]) for photo, each in zip(named, captions, strict=True)])
    if as_json:
        write_json({"model": str(loaded.path), "captions": captions, "skipped": skipped})
    if files and (captions or files.kept or not skipped):
        kept = f"; {files.kept} {'was' if files.kept == 1 else 'were'} there already" if files.kept else ""
        say(f"{len(captions)} caption{'s' * (len(captions) != 1)} in {files}{kept}")
    if skipped:
        say(f"{len(skipped)} of {len(skipped) + len(captions)} photos skipped")
        raise typer.Exit(SKIPPED if captions or files.kept else FAILED)


def _print(result: dict[str, Any], style: Style, alone: bool) -> None:
    from bitmar.runtime.confidence import honest

    plain = honest(result["caption"], result["confidence"], result["general"])
    line = plain if style is Style.plain else result["caption"]
    how_sure = _sure(result["confidence"]) if style is Style.plain else ""
    typer.echo(line if alone else f"{result['photo']}: {line}{how_sure and f' ({how_sure})'}")
    if alone and how_sure:
        say(how_sure)
    if found := result.get("recalled"):
        sure = "" if found["confidence"] is None else f", {found['confidence']:.1%} sure"
        what = "recited" if result["recited"] else "remembered with a photo like this"
        say(f"{what}: {found['text']!r} (score {found['score']:.3f}{sure})")


def caption_photos(
    model: BitMar,
    photos: Sequence[str],
    memory: Session | None = None,
    *,
    workers: int | None = None,
    log: Store | None = None,
    single: bool = False,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """A result per photo, in their order: photo, caption, tokens, finish_reason, seconds; or photo and error. With a
    memory, also the nearest episode, recalled, and how many characters of the caption are recited from it.

    workers: photos at a time, None for one per core; with a memory always one, because recalling changes it. log: what
    was done before and where the rest is kept. single: it is the only photo asked for, which raises ImageError where it
    cannot be read, as a model does that can read none.
    """

    def one(photo: str, key: str | None) -> dict[str, Any]:
        if log is not None and key in log.found:
            return {**log.found[key], "photo": shown(photo)}
        try:
            written = model.generate("", photo_of(photo), memory=memory, **options)
        except ImageError as error:
            if single or model.config.vision_tower is None:
                raise
            return {"photo": shown(photo), "error": str(error)}
        return {
            "photo": shown(photo),
            "caption": written.text.strip(),
            "tokens": len(written.tokens),
            "finish_reason": written.finish_reason,
            "confidence": None if written.confidence is None else round(written.confidence, 3),
            "general": written.general,
            "seconds": {part: round(seconds, 4) for part, seconds in asdict(written.timings).items()},
            **({} if memory is None else {"recalled": _recalled(written.recalled), "recited": written.recited}),
        }

    keys = [photo_key(photo) if log is not None else None for photo in photos]
    at_a_time = 1 if memory is not None else min(workers or cores(), len(photos))
    for key, result in zip(keys, in_order(one, at_a_time, photos, keys), strict=True):
        if log is not None and key is not None and key not in log.found and "error" not in result:
            log.put(key, result)
        yield result


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
    cluster: str | None,
    beams: int | None,
    max_tokens: int,
) -> None:
    from tempfile import TemporaryDirectory

    from bitmar.cli.shards import caption_shards, grid_cells

    options = {"beams": beams, "max_tokens": max_tokens}
    with TemporaryDirectory() as temporary:
        written = out or Path(temporary) / "captions.json"
        count, skipped = caption_shards(model, data, features, written, options, limit, cluster)
        if grid:
            from bitmar.plots.grid import write_grid

            write_grid(grid, grid_cells(data, written, IN_A_GRID if out else count))
    say(f"{count} caption{'s' * (count != 1)} in {out or grid}; {skipped}")
    if skipped.reasons:
        raise typer.Exit(SKIPPED)
