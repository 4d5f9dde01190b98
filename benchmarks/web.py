"""A photo's caption in headless Chromium: how long from its file to the last word, how large what is fetched.

python benchmarks/web.py --json out/web.json    after `make web`; needs Chromium and bitmar[dev]
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer
from _machine import publish, run
from startup import sample_photo

from bitmar.core.errors import BitMarError

DIST = Path(__file__).resolve().parents[1] / "web/dist"
LOAD = """async ([bytes, repeats]) => {
    const { load } = await import("./bitmar/index.js");
    const { file } = await (await fetch("model.json")).json();
    const start = performance.now();
    self.model = await load(file);
    self.photos = () => Array.from({ length: repeats }, () => new Blob([new Uint8Array(bytes)]));
    return performance.now() - start;
}"""
CAPTION = """async () => {
    const taken = [];
    let text;
    for (const photo of photos()) {
        const start = performance.now();
        ({ text } = await model.caption(photo));
        taken.push(performance.now() - start);
    }
    taken.sort((a, b) => a - b);
    return { fastest: taken[0], median: taken[taken.length >> 1], text };
}"""


def main(
    photo: Annotated[Path | None, typer.Option(help="Default: scikit-image's cup of coffee, or a grey square.")] = None,
    repeats: Annotated[int, typer.Option(help="Captions.")] = 30,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure the page's engine on the page's own thread. Beside other programs the processor's time says more."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not (DIST / "index.html").is_file():
        print("skipped: needs web/dist (`make web`) and Chromium (Debian: apt-get install chromium)")
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = photo or sample_photo(Path(folder))
        made = measure(chromium, chosen.read_bytes(), repeats)
    small = [path for path in DIST.rglob("*") if path.is_file() and path.suffix != ".bitmar"]
    figures = {
        "caption_cpu_ms": made["cpu"],
        "caption_ms_fastest": made["fastest"],
        "caption_ms_median": made["median"],
        "load_ms": made["loaded"],
        "gzipped_bytes": sum(len(gzip.compress(path.read_bytes())) for path in small),
        "wasm_gzipped_bytes": len(gzip.compress((DIST / "bitmar/bitmar.wasm").read_bytes())),
        "model_bytes": sum(path.stat().st_size for path in DIST.glob("*.bitmar")),
        "caption": made["text"],
    }
    publish("web", figures, data=f"{chosen.name}, {repeats} times, from the file to the last word", out=json)


def measure(chromium: str, photo: bytes, repeats: int) -> Any:
    """What CAPTION returns once the code is compiled, with the time of LOAD and the processor's time a caption.

    Raises BitMarError without playwright.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise BitMarError("playwright drives the browser: pip install 'bitmar[dev]'") from None
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=DIST))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            loaded = page.evaluate(LOAD, [list(photo), repeats])
            page.evaluate(CAPTION)  # until then the engine's code is compiled in haste
            inside = page.context.new_cdp_session(page)
            inside.send("Performance.enable")

            def seconds() -> float:
                metrics = inside.send("Performance.getMetrics")["metrics"]
                return float(next(each["value"] for each in metrics if each["name"] == "ProcessTime"))

            before = seconds()
            made = page.evaluate(CAPTION)
            return made | {"loaded": loaded, "cpu": 1e3 * (seconds() - before) / repeats}
    finally:
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


if __name__ == "__main__":
    run(main)
