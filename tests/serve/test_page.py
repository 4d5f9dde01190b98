"""The page in a real browser: what a person does with a photo, by mouse, keyboard, paste and camera."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .._browser import CAT, CHROMIUM, COFFEE, FLAGS, expect, needs_chromium, sync_api

pytestmark = needs_chromium
SECONDS = 60  # a machine that trains at the same time is slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=1000 * SECONDS)
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def bundled(serve: Callable[..., Any]) -> Any:
    """A server of the bundled model."""
    return serve(model=None, engine=None)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """visit(url, **context) -> a page that has loaded; at its end it must have had no faults and asked nobody else."""
    faults: list[str] = []
    contexts = []

    def one(url: str, **options: Any) -> Any:
        context = browser.new_context(**{"permissions": ["camera"], **options})
        contexts.append(context)
        context.set_default_timeout(1000 * SECONDS)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"fault: {error}"))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.on("request", lambda sent: None if sent.url.startswith((url, "blob:")) else faults.append(sent.url))
        page.goto(url)
        expect(page.locator("#about")).to_contain_text("on this machine")
        return page

    yield one
    for context in contexts:
        context.close()
    assert not faults


def show(page: Any, photo: Path) -> str:
    page.set_input_files("#file", photo)
    return captioned(page)


def captioned(page: Any) -> str:
    """The caption, once it and the slots are there."""
    expect(page.locator("#caption")).not_to_have_class(re.compile("running"))
    expect(page.locator("#caption .faint")).to_have_count(0)
    expect(page.locator("#reads")).to_contain_text("Read the most")
    return str(page.locator("#caption").inner_text())


def test_a_photo_is_captioned_asked_about_named_and_known_again(visit: Any, bundled: Any, tmp_path: Path) -> None:
    from PIL import Image

    page = visit(bundled.url)
    expect(page.locator(".slot")).to_have_count(512)
    expect(page.locator("#ask button")).to_be_disabled()
    sent = bundled.client.post("/v1/caption", content=CAT.read_bytes(), headers={"content-type": "image/png"}).json()
    assert show(page, CAT) == sent["caption"]
    expect(page.locator("#shown")).to_have_attribute("alt", sent["caption"])
    expect(page.locator("#trust")).to_be_visible(visible=sent["confidence"] is not None)

    page.fill("#question", "Is there a dog in the picture?")
    page.press("#question", "Enter")
    expect(page.locator("#answers li strong")).to_have_text(re.compile("yes|no|I cannot tell"))

    page.fill("#name", "Our cat Chelsea.")
    page.get_by_role("button", name="Remember").click()
    expect(page.locator("#remembered")).to_contain_text("Remembered in slot 0")
    expect(page.locator("#episodes li")).to_contain_text(["Our cat Chelsea."])
    expect(page.locator(".slot.held")).to_have_count(1)

    other = tmp_path / "other.jpg"
    Image.open(CAT).convert("RGB").crop((20, 15, 431, 285)).save(other, quality=80)
    assert show(page, other) == "Our cat Chelsea."
    expect(page.locator("#recalled")).to_contain_text("Remembered as “Our cat Chelsea.”")
    expect(page.locator("#reads")).to_contain_text("Our cat Chelsea.")

    page.get_by_role("button", name="Forget Our cat Chelsea.").click()
    expect(page.locator("#episodes li")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_history_stays_on_the_device(visit: Any, bundled: Any) -> None:
    page = visit(bundled.url)
    first = show(page, COFFEE)
    expect(page.locator("#history li")).to_have_count(1)
    page.reload()
    expect(page.locator("#history li")).to_contain_text([first])
    page.locator("#history button").click()
    captioned(page)
    expect(page.locator("#history li")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history li")).to_have_count(0)
    page.reload()
    expect(page.locator("#nothing")).to_be_visible()


def test_a_doubtful_caption_says_so(visit: Any, bundled: Any) -> None:
    """The model's own figures decide when; here the server's answer is made up."""
    done = {"caption": "A cup.", "confidence": 0.34, "general": "a drink", "recalled": None, "recited": 0}
    body = f"event: piece\ndata: {json.dumps({'text': 'A cup.'})}\n\nevent: done\ndata: {json.dumps(done)}\n\n"
    page = visit(bundled.url)
    page.route("**/v1/caption*", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    assert show(page, COFFEE) == "A cup."
    expect(page.locator("#percent")).to_have_text("34%: more likely wrong than right")
    expect(page.locator("#general")).to_have_text("surely a drink")
    expect(page.get_by_label("Confidence")).to_have_js_property("value", 0.34)


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(visit: Any, bundled: Any, png: Any, event: str) -> None:
    page = visit(bundled.url)
    transfer = page.evaluate_handle(
        """async (bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
            return transfer;
        }""",
        list(png()),
    )
    if event == "drop":
        page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})
    else:
        page.evaluate(
            "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer
        )
    assert captioned(page)


def test_a_photo_is_taken(visit: Any, bundled: Any) -> None:
    page = visit(bundled.url)
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator("#viewer")).to_be_visible()
    page.wait_for_timeout(500)  # for the first frame
    page.get_by_role("button", name="Take it").click()
    assert captioned(page)
    expect(page.locator("#viewer")).to_be_hidden()


def test_by_keyboard_alone(visit: Any, bundled: Any) -> None:
    page = visit(bundled.url)
    show(page, COFFEE)
    page.locator("h1").click()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.textContent"))
    assert reached[:6] == ["file", "camera", "question", "Ask", "name", "Remember"]
    page.locator("#camera").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()


def test_faults_are_said(visit: Any, bundled: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    page = visit(bundled.url)
    page.set_input_files("#file", tmp_path / "photo.jpg")
    expect(page.get_by_role("alert")).to_contain_text("not a picture")
    show(page, COFFEE)
    expect(page.locator("#fault")).to_be_hidden()


def test_a_server_with_a_key_asks_for_it(visit: Any, serve: Any) -> None:
    page = visit(serve(model=None, engine=None, api_key="secret").url)
    for key in ("wrong", "secret"):
        expect(page.locator("#locked")).to_be_visible()
        page.fill("#key", key)
        page.keyboard.press("Enter")
    expect(page.locator(".slot")).to_have_count(512)
    assert show(page, COFFEE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844), (320, 568)], ids=["desktop", "phone", "narrow"])
def test_everyone_can_use_it(visit: Any, bundled: Any, scheme: str, size: tuple[int, int]) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (bitmar[dev])"
    )
    page = visit(bundled.url, color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, bypass_csp=True)
    for full in (False, True):
        if full:
            show(page, COFFEE)
            page.fill("#question", "What color is the cup?")
            page.press("#question", "Enter")
            expect(page.locator("#answers li")).to_have_count(1)
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_the_page_comes_with_the_package() -> None:
    from bitmar.serve.app import PAGE

    text = (PAGE / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="page/([^"]+)"', text):
        assert (PAGE / name).is_file()
    assert not re.search(r"https?://(?!localhost|www\.w3\.org)", "".join(path.read_text() for path in PAGE.iterdir()))
    assert " style=" not in text and "<script>" not in text and "onclick=" not in text  # the policy forbids them
