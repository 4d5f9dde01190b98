"""A picture of photos with what was written about them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from bitmar.core.errors import ConfigError
from bitmar.core.files import write_atomically
from bitmar.core.image import PhotoSource, load_photo

WIDTH, HEIGHT, GAP = 320, 240, 16  # of a photo, and around everything, in pixels
COLUMNS = 4
CAPTION, REFERENCE = 18, 13  # font sizes
INK, FAINT = "#111111", "#6b6b6b"


@dataclass(frozen=True, slots=True)
class Cell:
    """A photo, the model's caption, and what people wrote."""

    photo: PhotoSource
    caption: str
    references: tuple[str, ...] = ()


def write_grid(path: Path, cells: Sequence[Cell]) -> None:
    """Draw `cells` in rows of four and save them as .png or .jpg. Another suffix: ConfigError."""
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in kinds:
        raise ConfigError(f"a grid is saved as .png or .jpg, not {path.name}")
    data = io.BytesIO()
    draw_grid(cells).save(data, kinds[path.suffix.lower()])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.getvalue())


def draw_grid(cells: Sequence[Cell]) -> Image.Image:
    """The picture: under each photo its caption, then in grey the references."""
    blocks = [_text(cell) for cell in cells]
    rows = [range(start, min(start + COLUMNS, len(cells))) for start in range(0, len(cells), COLUMNS)]
    heights = [HEIGHT + max(sum(line.height for line in blocks[i]) for i in row) + 2 * GAP for row in rows]
    columns = min(COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * (WIDTH + GAP) + GAP, sum(heights) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = GAP + column * (WIDTH + GAP)
            photo = ImageOps.pad(load_photo(cells[i].photo), (WIDTH, HEIGHT), color="#eeeeee")
            sheet.paste(photo, (left, top))
            y = top + HEIGHT + GAP // 2
            for line in blocks[i]:
                draw.text((left, y), line.text, line.colour, line.font)
                y += line.height
        top += height
    return sheet


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    font: Any
    colour: str
    height: int


def _text(cell: Cell) -> list[_Line]:
    lines = list(_wrap(cell.caption, CAPTION, INK))
    for reference in cell.references:
        lines += _wrap(reference, REFERENCE, FAINT)
    return lines


def _wrap(text: str, size: int, colour: str) -> Iterator[_Line]:
    font = ImageFont.load_default(size)
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > WIDTH:
            yield _Line(line, font, colour, size * 4 // 3)
            longer = word
        line = longer
    yield _Line(line, font, colour, size * 4 // 3)
