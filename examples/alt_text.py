"""Alternative texts for an archive: every photo of a folder that an HTML gallery can show, doubtful ones marked.

python examples/alt_text.py photos/ gallery.html
"""

import html
import sys
from pathlib import Path

import bitmar
from bitmar.core.errors import ImageError
from bitmar.runtime.alt_text import alt_text

folder, page = Path(sys.argv[1]), Path(sys.argv[2])
model = bitmar.load()
lines = ["<!doctype html>", "<title>Gallery</title>"]
for photo in sorted(folder.iterdir()):
    try:
        caption = model.caption(photo)
    except ImageError as error:  # no photo, or a broken one
        print(f"skipped {error}", file=sys.stderr)
        continue
    mark = " <!-- doubtful: look at it -->" if caption.doubtful else ""
    source = html.escape(photo.resolve().as_uri(), quote=True)
    lines.append(f'<img src="{source}" alt="{html.escape(alt_text(caption), quote=True)}">{mark}')
page.write_text("\n".join(lines) + "\n", encoding="utf-8")
print(f"{len(lines) - 2} photos in {page}")
