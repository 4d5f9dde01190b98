"""Every example runs, with the bundled model and photos made here."""

from __future__ import annotations

import json
import runpy
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
HERE = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}

Run = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("ask.py", "photo.jpg", ...) -> what it printed, and its names."""

    def call(name: str, *arguments: Any) -> tuple[str, dict[str, Any]]:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        names = runpy.run_path(str(EXAMPLES / name))
        return capsys.readouterr().out, names

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Scenes of coloured blocks, as different as they can be."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        blocks = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(blocks).resize((160, 120), Image.Resampling.NEAREST).save(folder / f"{i:02d}.jpg")
    return folder


def test_all_are_here_and_in_the_list() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert len(HERE) == 10 and all(f"[{name}]({name})" in listed for name in HERE)


def test_alternative_texts(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").write_text("no photo")
    out, _ = run("alt_text.py", photos, tmp_path / "page.html")
    assert out.startswith("12 photos in")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img src=") == 12 and 'alt="' in page and 'alt=""' not in page


def test_questions(run: Run, photos: Path) -> None:
    out, _ = run("ask.py", photos / "00.jpg", "Is there a dog?", "What color is it?")
    first, second = out.splitlines()
    assert first.startswith("Is there a dog? ") and len(second) > len("What color is it? ")


def test_a_name_is_remembered(run: Run, photos: Path, tmp_path: Path) -> None:
    out, _ = run("remember.py", tmp_path / "home.mem", photos / "00.jpg", "our dog Rex", photos / "00.jpg")
    assert "most like 'our dog Rex'" in out and out.splitlines()[-1] == "Our dog Rex."


def test_word_by_word(run: Run, photos: Path) -> None:
    caption, story = run("stream.py", photos / "00.jpg")[0].splitlines()[:2]
    assert caption and story


def test_a_robot_knows_where_it_was(run: Run, photos: Path) -> None:
    for extra in sorted(photos.iterdir())[3:]:
        extra.unlink()
    (photos / "99.jpg").write_bytes((photos / "00.jpg").read_bytes())
    lines = run("robot.py", photos)[0].splitlines()
    assert lines[0] == "00.jpg: new, place 0" and lines[-1].startswith("99.jpg: back at 'place 0: ")


def test_a_web_service_finds_photos(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the example needs bitmar[serve]")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("PHOTOS", str(photos))
    _, names = run("fastapi_search.py")
    found = TestClient(names["app"]).get("/search", params={"text": "a red square", "k": 3}).json()
    assert len(found) == 3 and found[0]["score"] >= found[-1]["score"]


def test_home_assistant_gets_the_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    import bitmar

    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with bitmar.load().memory(tmp_path / "home.mem") as memory:
        memory.remember("Anna", photos / "00.jpg")
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    run("home_assistant.py", photos / "00.jpg", f"http://127.0.0.1:{server.server_port}/x", tmp_path / "home.mem")
    thread.join()
    server.server_close()
    assert (got[0]["caption"], got[0]["known"]) == ("Anna.", "Anna")


def test_the_notebook(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "photo.jpg").write_bytes((photos / "00.jpg").read_bytes())
    monkeypatch.chdir(photos)
    cells = json.loads((EXAMPLES / "first_look.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
    assert capsys.readouterr().out.splitlines()[-1] == "Our dog Rex."


def test_fitting_to_photos(run: Run, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the example needs bitmar[train]")
    pytest.importorskip("pycocoevalcap", reason="the example needs bitmar[eval]")
    for photo in list(photos.iterdir()):
        photo.with_suffix(".txt").write_text("A pattern of coloured blocks.")
    out, _ = run("adapt.py", photos, tmp_path / "mine.bitmar", 1)
    assert "perplexity of the held-out captions" in out and (tmp_path / "mine.bitmar").exists() == ("new model" in out)


def test_the_checkpoint_says_what_the_packed_model_says(run: Run, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the example needs bitmar[train]")
    import bitmar

    out, _ = run("in_transformers.py", photos / "00.jpg", tmp_path / "checkpoint")
    assert out.strip().splitlines()[-1] == bitmar.load().caption(photos / "00.jpg", beams=1)
