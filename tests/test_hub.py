"""What goes to the Hub, and what comes from it: a folder that its client accepts, an endpoint of our own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bitmar import load
from bitmar.core.container import write_container
from bitmar.core.errors import BitMarError, ConfigError, DataError

from ._pairs import make_pair, tokenizer

__all__ = ["make_pair", "tokenizer"]

FIGURES = {
    "caption": {"command": "bitmar eval caption", "date": "2026-11-28", "figures": {"cider": {"value": 0.458}}},
    "bench": {"command": "bitmar bench", "date": "2026-11-28", "figures": {"kernel": {"text": "avx2"}}},
}


@pytest.fixture
def model(make_pair: Callable[..., Any], tmp_path: Path) -> Any:
    pair = make_pair(tower="two stages").bitmar.container
    card = {"name": "tiny", "licence": "research use only", "training_data": ["noise"], "limits": "says nothing"}
    path = tmp_path / "tiny.bitmar"
    write_container(
        path, pair.tensors, config=pair.config, tokenizer_json=pair.tokenizer_json, vision=pair.vision, card=card
    )
    return load(path, engine="numpy")


def test_the_folder_is_a_repository(model: Any, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard
    from transformers import AutoModelForCausalLM

    from bitmar.hub import prepare

    figures, photo = tmp_path / "figures.json", tmp_path / "a photo.png"
    figures.write_text(json.dumps(FIGURES))
    Image.new("RGB", (900, 30), "green").save(photo)
    ready = prepare(model, "someone/tiny", tmp_path / "hub", figures=figures, photos=[photo])
    assert {"model.bitmar", "model.safetensors", "packed.safetensors", "README.md", "photos/a photo.jpg"} <= set(
        ready.files
    )
    assert (ready.folder / "model.bitmar").read_bytes() == model.path.read_bytes()
    card = ModelCard.load(ready.folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("cider", 0.458, "flickr8k")
    assert card.data.license == "other" and card.data.license_name and "custom_code" in card.data.tags
    (widget,) = card.data.widget
    assert (ready.folder / widget["src"]).is_file() and widget["output"]["text"] == model.caption(photo)
    assert "research use only" in card.text and "- noise" in card.text and 'load("hf://someone/tiny")' in card.text
    assert load(ready.folder, engine="numpy").container.checksum == model.container.checksum
    assert AutoModelForCausalLM.from_pretrained(ready.folder, trust_remote_code=True).config.vocab_size == 280


def test_two_photos_of_one_name(model: Any, tmp_path: Path) -> None:
    from bitmar.hub import prepare

    photos = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png"]
    for photo in photos:
        photo.parent.mkdir()
        Image.new("RGB", (30, 30), "green").save(photo)
    with pytest.raises(ConfigError, match="the same name"):
        prepare(model, "someone/tiny", tmp_path / "hub", photos=photos)
    assert not (tmp_path / "hub").exists()


def test_a_licence_of_the_hubs_list_is_named_as_it_is(model: Any, tmp_path: Path) -> None:
    from bitmar.hub import prepare

    assert prepare(model, "someone/tiny", tmp_path / "hub", licence="CC-BY-4.0").metadata["license"] == "cc-by-4.0"


@pytest.mark.parametrize("repo", ["tiny", "some one/tiny", "a/b/c", "someone/tiny.git", ""])
def test_names_that_the_hub_refuses(model: Any, tmp_path: Path, repo: str) -> None:
    from bitmar.hub import prepare

    with pytest.raises(ConfigError, match=r"no name of a repository|names no owner"):
        prepare(model, repo, tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_what_is_missing_is_told_before_anything_is_written(
    make_pair: Callable[..., Any], model: Any, tmp_path: Path
) -> None:
    from bitmar.hub import prepare

    with pytest.raises(ConfigError, match="--licence"):
        prepare(make_pair().bitmar, "someone/tiny", tmp_path / "hub")
    with pytest.raises(DataError, match="cannot be read"):
        prepare(model, "someone/tiny", tmp_path / "hub", figures=tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"caption": {"figures": {"cider": 3}}}')
    with pytest.raises(DataError, match="no file of figures"):
        prepare(model, "someone/tiny", tmp_path / "hub", figures=tmp_path / "bad.json")
    assert not (tmp_path / "hub").exists()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        prepare(model, "someone/tiny", tmp_path / "hub")


def test_an_upload_that_the_hub_refuses_is_an_error_of_ours(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar import hub

    ready = hub.prepare(model, "someone/tiny", tmp_path / "hub")
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(hub.HfApi, "create_repo", lambda self, repo, **options: sent.append({"repo": repo, **options}))
    monkeypatch.setattr(hub.HfApi, "upload_folder", lambda self, **options: sent.append(options))
    assert str(hub.upload(ready, private=True).url).endswith("/someone/tiny")
    assert sent[0]["private"] and sent[1]["folder_path"] == str(ready.folder)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("403 Forbidden\nmore")

    monkeypatch.setattr(hub.HfApi, "create_repo", refuse)
    with pytest.raises(BitMarError, match=r"does not take someone/tiny \(403 Forbidden\)"):
        hub.upload(ready)


def test_without_a_login_push_leaves_the_machine_alone(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from bitmar import hub
    from bitmar.cli import app

    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "upload", lambda *_, **__: pytest.fail("it uploads"))
    options = ["push", "someone/tiny", "--model", str(model.path), "--out", str(tmp_path / "hub")]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0 and "not logged in, so nothing was uploaded" in result.stderr
    assert "model.bitmar" in result.stdout


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def endpoint(model: Any) -> Iterator[str]:
    """The few addresses of the Hub that fetching one file needs."""
    data = model.path.read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = {"rfilename": "model.bitmar", "size": len(data)}
            if self.path.startswith("/api/models/someone/tiny/tree/"):
                self.answer(
                    json.dumps([{"type": "file", "path": "model.bitmar", "size": len(data), "oid": "0" * 40}]).encode()
                )
            elif self.path.startswith("/api/models/someone/tiny"):
                self.answer(json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": [name]}).encode())
            elif self.path == f"/someone/tiny/resolve/{COMMIT}/model.bitmar":
                self.answer(data)
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            for name, value in {
                "Content-Length": str(len(body)),
                "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Content-Type": "application/json",
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_comes_from_the_hub_once(model: Any, endpoint: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_OFFLINE", None)

    def fetch(name: str, **more: str) -> Any:
        command = [sys.executable, "-m", "bitmar", "load", name]
        return subprocess.run(command, capture_output=True, text=True, env=environment | more, timeout=120)

    first = fetch("hf://someone/tiny")
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()).read_bytes() == model.path.read_bytes()
    assert fetch("hf://someone/tiny", HF_HUB_OFFLINE="1").stdout == first.stdout
    missing = fetch("hf://someone/none")
    assert missing.returncode == 2 and "'someone/none'" in missing.stderr and "Traceback" not in missing.stderr
