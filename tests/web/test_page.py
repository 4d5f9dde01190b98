"""web/dist in a real browser, from a static server: a photo is captioned, asked about, named and known again."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from bitmar import load

from .._browser import CAT, CHROMIUM, COFFEE, FLAGS, expect, needs_chromium, sync_api

pytestmark = needs_chromium
SECONDS = 120  # a machine that trains at the same time is slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site(dist: Path) -> Iterator[str]:
    """The address of a server of web/dist."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=dist))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=1000 * SECONDS)
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Any, site: str) -> Iterator[Any]:
    """A browser's profile; at its end its pages must have had no faults and asked nobody else."""
    faults: list[str] = []
    made = browser.new_context(permissions=["camera"])
    made.set_default_timeout(1000 * SECONDS)
    made.on("weberror", lambda error: faults.append(f"fault: {error.error}"))
    made.on("request", lambda sent: None if sent.url.startswith((site, "blob:")) else faults.append(sent.url))
    yield made
    made.close()
    assert not faults


@pytest.fixture
def visit(context: Any, site: str) -> Callable[[], Any]:
    """visit() -> a page that has its model."""

    def one() -> Any:
        page = context.new_page()
        page.goto(site)
        expect(page.locator("#about")).to_contain_text("on this machine. Nothing is sent")
        return page

    return one


def show(page: Any, photo: Path) -> str:
    page.set_input_files("#file", photo)
    expect(page.locator("#caption .faint")).to_have_count(0)
    expect(page.locator("#caption")).not_to_have_class(re.compile("running"))
    expect(page.locator("#reads")).to_contain_text("Read the most")
    return str(page.locator("#caption").inner_text())


def test_as_python_says_it_and_remembered_for_the_next_visit(visit: Callable[[], Any], tmp_path: Path) -> None:
    model, page = load(), visit()
    expect(page.locator(".slot")).to_have_count(model.config.memory_slots)
    written = model.generate("", COFFEE, max_tokens=32)
    assert show(page, COFFEE) == written.text.strip()
    if written.confidence is not None:
        assert page.locator("#confidence").evaluate("(meter) => meter.value") == pytest.approx(
            written.confidence, abs=0.01
        )
    page.fill("#question", "Is there a cup on the table?")
    page.press("#question", "Enter")
    answer = model.ask(COFFEE, "Is there a cup on the table?").text
    expect(page.locator("#answers li strong")).to_have_text(answer)

    show(page, CAT)
    page.fill("#name", "Our cat Chelsea.")
    page.press("#name", "Enter")
    expect(page.locator("#remembered")).to_contain_text("Remembered in slot 0")

    page.reload()  # another visit
    expect(page.locator("#episodes li")).to_contain_text(["Our cat Chelsea."])
    other = tmp_path / "other.jpg"
    Image.open(CAT).convert("RGB").crop((20, 15, 431, 285)).save(other, quality=90)
    assert show(page, other) == "Our cat Chelsea."

    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a file").click()
    saved = tmp_path / "home.mem"
    download.value.save_as(saved)
    with model.memory(saved) as memory:
        assert [episode.text for episode in memory.inspect()] == ["Our cat Chelsea."]
        memory.remember("the morning's coffee", COFFEE)
    page.get_by_role("button", name="Forget Our cat Chelsea.").click()
    expect(page.locator("#episodes li")).to_have_count(0)
    page.set_input_files("#open", saved)
    expect(page.locator("#episodes li")).to_have_count(2)


def test_without_a_network(visit: Callable[[], Any], context: Any) -> None:
    page = visit()
    page.evaluate("() => navigator.serviceWorker.ready")
    said = show(page, COFFEE)
    context.set_offline(True)
    page.reload()
    expect(page.locator("#about")).to_contain_text("on this machine. Nothing is sent")
    assert show(page, COFFEE) == said


def test_the_model_is_fetched_once(visit: Callable[[], Any], context: Any) -> None:
    fetched = []
    context.on("request", lambda sent: fetched.append(sent.url) if sent.url.endswith(".bitmar") else None)
    visit().close()
    visit()
    assert len(fetched) == 1


def test_the_camera_is_described_live(visit: Callable[[], Any]) -> None:
    page = visit()
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("button", name="Describe live").click()
    expect(page.locator("#seen")).not_to_be_empty()
    expect(page.get_by_role("button", name="Describe live")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("WebAssembly.validate = () => false", "no WebAssembly SIMD"),
        ("delete self.WebAssembly", "no WebAssembly SIMD"),
    ],
)
def test_a_browser_that_cannot_is_told_why(context: Any, site: str, lacking: str, said: str) -> None:
    page = context.new_page()
    page.route("**/worker.js", lambda route: _with(route, lacking))
    page.goto(site)
    expect(page.get_by_role("alert")).to_contain_text(said)


def test_without_storage_it_works_for_a_visit(context: Any, site: str) -> None:
    page = context.new_page()
    nothing = "indexedDB.open = () => { throw new Error('no') }; caches.open = () => Promise.reject(new Error('no'))"
    page.route("**/worker.js", lambda route: _with(route, nothing))
    page.goto(site)
    expect(page.locator("#notice")).to_contain_text("for this visit only")
    assert show(page, CAT)
    page.fill("#name", "Our cat Chelsea.")
    page.press("#name", "Enter")
    expect(page.locator("#remembered")).to_contain_text("Remembered in slot 0")


def _with(route: Any, before: str) -> None:
    """The worker, in a browser that has been made to lack something. Its imports come first, so this is one of them."""
    response = route.fetch()
    prelude = f"import 'data:text/javascript,{quote(before)}';\n"
    route.fulfill(response=response, body=prelude + response.text())


def test_what_is_no_photo_is_said(visit: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    page = visit()
    page.set_input_files("#file", tmp_path / "photo.jpg")
    expect(page.get_by_role("alert")).to_contain_text("not a picture")
    show(page, COFFEE)
    expect(page.locator("#fault")).to_be_hidden()


def test_everyone_can_use_it(visit: Callable[[], Any]) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (bitmar[dev])"
    )
    page = visit()
    show(page, COFFEE)
    page.get_by_role("button", name="Take a photo").click()
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_all_files_are_there(dist: Path) -> None:
    listed = re.search(r'"files": \[(.*)\]', (dist / "files.js").read_text())
    assert listed
    for name in re.findall(r'"([^"]+)"', listed[1]):
        assert (dist / name).exists()
    for path in dist.rglob("*"):
        if path.suffix in (".js", ".html", ".css"):
            text = path.read_text()
            assert not re.search(r"https?://(?!localhost|www\.w3\.org)", text)
            for name in re.findall(r'from "(\.[^"]+)"', text):
                assert (path.parent / name).is_file()
