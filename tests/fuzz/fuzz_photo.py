"""Fuzzes the way from the bytes of a photograph to a tower's input. Arguments are libFuzzer's; see `make fuzz`.

Whatever is no picture ends in an ImageError; any other exception, and any crash, is a finding.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris
import PIL.Image
import seeds

from bitmar.core.errors import BitMarError
from bitmar.core.image import load_photo, preprocess


def one_input(data: bytes) -> None:
    try:
        pixels = preprocess(load_photo(data), size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    except BitMarError:
        return
    assert pixels.shape == (3, 32, 32) and -3 < pixels.min() <= pixels.max() < 3


def main() -> None:
    logging.disable()  # Pillow comments on broken files
    PIL.Image.init()  # all its formats, or they would be imported after the instrumentation
    atheris.instrument_all()  # its import hook would not get past that of an editable install
    with tempfile.TemporaryDirectory() as folder:
        seeds.write_photos(Path(folder))
        # A picture may take 64 megapixels, so memory is bounded by that and not by the file.
        atheris.Setup([*sys.argv, folder, "-max_len=4096", "-rss_limit_mb=4096", "-timeout=60"], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
