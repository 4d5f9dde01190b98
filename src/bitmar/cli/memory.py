"""`bitmar remember`, `bitmar recall` and `bitmar memory`: episodes kept in a `.mem` file."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import USE, command, make_group
from bitmar.cli.common import Json, Model
from bitmar.console import megabytes, say, write_json
from bitmar.core.errors import ConfigError, MemoryFileError

if TYPE_CHECKING:
    from bitmar.api import BitMar
    from bitmar.session.layout import Episode
    from bitmar.session.session import Recalled, Session
    from bitmar.session.transfer import Moved

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

Home = Annotated[Path, typer.Option("--memory", metavar="FILE.mem", help="The memory.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE.mem", show_default=False)]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, help="Wait for another program that writes the memory.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        "--slots",
        metavar="N",
        min=1,
        max=65_536,
        help="Room for N episodes; a file with less room grows. Default: the file's, or the model's slots.",
    ),
]

memories = make_group(
    "memory",
    "Look into a memory, forget, merge, and move it.",
    "bitmar memory show home.mem",
    "bitmar memory stats home.mem --json",
    panel=USE,
)


@command(
    "bitmar remember photo.jpg 'our dog Rex' --memory home.mem",
    "bitmar remember 'The key lies under the mat.' --memory home.mem",
    "bitmar remember photo.jpg --memory album.mem --slots 65536",
    panel=USE,
)
def remember(
    what: Annotated[str, typer.Argument(metavar="PHOTO|TEXT", help="A photo, or a text alone.", show_default=False)],
    memory: Home,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to remember about the photo.", show_default=False)
    ] = "",
    slots: Slots = None,
    wait: Wait = 0.0,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Remember a photo, a text, or a text about a photo, at once and for good.

    Makes the file at first. The same photo with another text corrects what was said of it. When all slots are taken the
    least used episode is overwritten, and named here.
    """
    photo = photo_or_text(what)
    if photo is None and text:
        raise ConfigError(f"{what!r} is no photo on this disk: give a photo and a text, or one text in quotes")
    with open_memory(model, memory, make=True, slots=slots, wait=wait) as session:
        episode = session.remember(text or ("" if photo else what), photo)
    if as_json:
        write_json(_document(episode))
        return
    typer.echo(f"slot {episode.slot}: {episode.change}  {_line(episode)}")
    if episode.change == "unchanged":
        say("it was remembered before")
        return
    if episode.cut:
        say("the text is kept in part: it is longer than a record")
    if episode.lost:
        what = "corrected" if episode.change == "updated" else "overwritten, the least used"
        say(f"{what}: {episode.lost.text!r} of {_date(episode.lost.time)}")


@command(
    "bitmar recall photo.jpg --memory home.mem",
    "bitmar recall 'where is the key' --memory home.mem -k 5 --json",
    panel=USE,
)
def recall(
    what: Annotated[str, typer.Argument(metavar="PHOTO|TEXT", help="A photo, or words.", show_default=False)],
    memory: Home,
    k: Annotated[int, typer.Option("-k", min=1, help="The K best episodes.")] = 3,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Find what was remembered with a photo like this one, or with words like these."""
    photo = photo_or_text(what)
    with open_memory(model, memory) as session:
        found = session.recall(image=photo, text=None if photo else what, k=k)
    if as_json:
        write_json({"memory": str(memory), "recalled": [recalled_document(one) for one in found]})
        return
    for one in found:
        typer.echo(f"{one.score:6.3f}  {_line(one.episode)}")
    if found:
        say(_trust(found[0]))
    else:
        say(f"{memory} remembers nothing with a {'photo' if photo else 'text'} yet")


@command("bitmar memory show home.mem", "bitmar memory show home.mem --json", group=memories)
def show(memory: File, model: Model = None, as_json: Json = False) -> None:
    """List what is remembered, the latest first: slot, when, usage, text, and what it has overwritten."""
    episodes = open_memory(model, memory).inspect()
    if as_json:
        write_json([_document(episode) for episode in episodes])
        return
    for episode in episodes:
        lost = f"  (overwrote {episode.lost.text!r})" if episode.lost else ""
        typer.echo(f"{episode.slot:5}  {episode.usage:4.2f}  {_line(episode)}{lost}")
    say(f"{len(episodes)} episodes")


@command("bitmar memory stats home.mem --json", group=memories)
def stats(memory: File, model: Model = None, as_json: Json = False) -> None:
    """Print the number of episodes, and the space they take."""
    about = open_memory(model, memory).stats()
    if as_json:
        write_json(about)
        return
    typer.echo(f"{memory}: {about['episodes']} of {about['slots']} slots, {megabytes(about['bytes'])}")
    typer.echo(f"with a photo: {about['with_photo']}, with a text: {about['with_text']}")
    typer.echo(f"made: {_date(about['made']) if about['made'] else 'not yet'}, model: {about['model'][:12]}")


@command("bitmar memory forget home.mem 3 17", "bitmar memory forget home.mem --all", group=memories)
def forget(
    memory: File,
    slots: Annotated[
        list[int] | None,
        typer.Argument(metavar="SLOT...", help="Slot numbers, as `show` prints them.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget everything.")] = False,
    wait: Wait = 0.0,
    model: Model = None,
) -> None:
    """Forget episodes and wipe them from the file."""
    if bool(slots) == everything:
        raise ConfigError("name the slots to forget, or --all")
    with open_memory(model, memory, wait=wait) as session:
        gone = session.file.live().tolist() if everything else slots or []
        session.forget(*gone)
    say(f"{len(gone)} forgotten")


@command("bitmar memory merge home.mem garden.mem kitchen.mem", group=memories)
def merge(
    memory: File,
    others: Annotated[list[Path], typer.Argument(metavar="OTHER.mem...", show_default=False)],
    slots: Slots = None,
    wait: Wait = 0.0,
    model: Model = None,
) -> None:
    """Copy in the episodes of other memories of the same model."""
    loaded = _load(model)
    with open_memory(loaded, memory, make=True, slots=slots, wait=wait) as session:
        for other in others:
            say(f"{other}: {_moved(session.merge(open_memory(loaded, other)))}")


@command(
    "bitmar memory export home.mem home.jsonl",
    "bitmar memory export damaged.mem rest.jsonl --salvage",
    group=memories,
    name="export",
)
def export_memory(
    memory: File,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", show_default=False)],
    salvage: Annotated[bool, typer.Option("--salvage", help="Export the intact episodes of a damaged memory.")] = False,
    model: Model = None,
) -> None:
    """Write all episodes to a file of JSON lines, for `import` on another machine or with another model."""
    from bitmar.session.transfer import export_memory

    count, damaged = export_memory(open_memory(model, memory, salvage=salvage).file, out)
    say(f"{count} episodes in {out}" + (f"; {damaged} damaged ones left out" if damaged else ""))


@command("bitmar memory import new.mem home.jsonl --model better.bitmar", group=memories, name="import")
def import_memory(
    memory: File,
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", show_default=False)],
    slots: Slots = None,
    wait: Wait = 0.0,
    model: Model = None,
) -> None:
    """Import a file of `export`, all of it or nothing; another model's episodes come as texts, remembered anew."""
    with open_memory(model, memory, make=True, slots=slots, wait=wait) as session:
        say(_moved(session.import_(source)))


def open_memory(
    model: BitMar | str | None,
    path: Path,
    *,
    make: bool = False,
    slots: int | None = None,
    salvage: bool = False,
    wait: float = 0.0,
) -> Session:
    """A session in a file that is there, or with `make` may come to be."""
    from bitmar.session.session import Session

    if not make and not path.exists():
        raise MemoryFileError(f"{path}: no such memory; `bitmar remember PHOTO TEXT --memory {path}` makes it")
    loaded = _load(model) if model is None or isinstance(model, str) else model
    return Session(loaded, path, slots=slots, salvage=salvage, wait=wait)


def photo_or_text(word: str) -> str | None:
    """The path of a photo, or None if the word is a text. A picture's name without a picture is a photo, too: the
    error then names it.
    """
    path = Path(word)
    if path.suffix.lower() in _PICTURES:
        return word
    try:
        return word if path.is_file() else None
    except OSError:  # a text too long for a name
        return None


def recalled_document(found: Recalled) -> dict[str, Any]:
    """For JSON."""
    figures = {name: _round(getattr(found, name)) for name in ("score", "margin", "confidence")}
    return {**figures, **_document(found.episode)}


def _load(model: str | None) -> BitMar:
    from bitmar import load

    return load(model)


def _document(episode: Episode) -> dict[str, Any]:
    lost = episode.lost._asdict() if episode.lost else None
    return {**asdict(episode), "usage": _round(episode.usage), "lost": lost}


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _line(episode: Episode) -> str:
    return f"{_date(episode.time)}  {episode.photo or '-':<16}  {episode.text or '(no text)'}"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _trust(best: Recalled) -> str:
    margin = "" if best.margin is None else f", {best.margin:.3f} ahead of the next"
    if best.confidence is None:
        return f"score {best.score:.3f}{margin}; too few episodes to say how sure that is"
    return f"score {best.score:.3f}{margin}; {best.confidence:.1%} of things never seen score less"


def _moved(moved: Moved) -> str:
    parts = {
        "corrected": moved.updated,
        "there already": moved.known,
        "without their photos, as another model wrote them": moved.text_only,
        "of another model and without text left out": moved.left_out,
        "overwritten": moved.lost,
    }
    return ", ".join([f"{moved.added} added", *(f"{count} {what}" for what, count in parts.items() if count)])
