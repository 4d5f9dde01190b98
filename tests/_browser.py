"""Debian's Chromium for the tests of the pages, and the photos that they show it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (bitmar[dev])")
data = pytest.importorskip("skimage", reason="the photos are scikit-image's").__file__
expect = sync_api.expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")

PHOTOS = Path(data).parent / "data"
CAT, COFFEE = PHOTOS / "chelsea.png", PHOTOS / "coffee.png"  # both in the public domain (CC0)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
