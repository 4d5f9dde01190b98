"""The picture of the page in docs/: the server, a browser, a photo that was named and is known again from another side.

python scripts/page.py docs/page.png
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import skimage
from PIL import Image
from playwright.sync_api import expect, sync_playwright

PHOTOS = Path(skimage.__file__).parent / "data"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def main(out: Path) -> None:
    """Serve the bundled model, show it three photos of scikit-image's, name the cat (CC0), and look."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bitmar", "serve", "--port", "0", "--memory", f"{folder}/home.mem"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            look(next(word for word in server.stderr.readline().split() if word.startswith("http")), out)
        finally:
            server.terminate()
            server.wait()


def look(url: str, out: Path) -> None:
    """Drive the page at `url`."""
    other = io.BytesIO()
    Image.open(PHOTOS / "chelsea.png").crop((20, 10, 431, 290)).save(other, "JPEG", quality=90)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1120, "height": 960}, color_scheme="light")
        page.goto(url)
        for name in ("astronaut.png", "coffee.png", "chelsea.png"):
            page.set_input_files("#file", PHOTOS / name)
            expect(page.locator("#shown")).not_to_have_attribute("alt", "The chosen photo")
            expect(page.locator("#ask button")).to_be_enabled()
            page.wait_for_timeout(700)
        page.fill("#name", "Our cat Chelsea.")
        page.press("#name", "Enter")
        expect(page.locator("#episodes li")).to_have_count(1)
        page.set_input_files("#file", {"name": "other.jpg", "mimeType": "image/jpeg", "buffer": other.getvalue()})
        expect(page.locator("#recalled")).to_be_visible()
        page.wait_for_timeout(700)
        page.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/page.png"))
