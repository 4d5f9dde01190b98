"""Another model takes the place of the one that is served; a broken one does not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar import load
from bitmar.core.errors import BitMarError, ConfigError, MemoryFileError

serving = pytest.importorskip("bitmar.serve.home", reason="the server needs bitmar[serve]")

PNG = {"content-type": "image/png"}


@pytest.fixture
def path(model: Path, tmp_path: Path) -> Path:
    return shutil.copy(model, tmp_path / "mine.bitmar")


def replace(path: Path, other: Path) -> None:
    """As `cp` does it: in place, under the reader's feet."""
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(time.time_ns(), time.time_ns()))


def home(path: Path, **settings: Any) -> Any:
    return serving.Home(serving.Settings(model=path, engine="numpy", **settings))


def test_a_model_that_was_overwritten_is_loaded(path: Path, make_model: Any, tmp_path: Path) -> None:
    made = home(path)
    first = made.now
    assert not made.changed() and not made.changed()
    other = make_model(tmp_path / "other.bitmar", seed=1)
    text = first.model.complete("the dog", max_tokens=9)
    replace(path, other)
    assert not made.changed() and made.changed()  # twice the same: nobody is writing it any more
    assert first.model.complete("the dog", max_tokens=9) == text  # a request that goes on keeps its model
    made.reload()
    assert made.now.model.complete("the dog", max_tokens=9) == load(other, engine="numpy").complete(
        "the dog", max_tokens=9
    )
    assert made.now.fingerprint != first.fingerprint and made.reloads == 1 and made.trouble is None
    assert not made.changed() and not made.changed()


def test_a_broken_model_keeps_the_old_one(path: Path, tmp_path: Path, model: Path) -> None:
    made = home(path)
    text = made.now.model.complete("the dog", max_tokens=9)
    for broken in (b"", b"nonsense" * 100, path.read_bytes()[:5000]):
        path.write_bytes(broken)
        made.reload()
        assert made.trouble and made.reloads == 0
        assert made.now.model.complete("the dog", max_tokens=9) == text
    path.unlink()
    assert not made.changed() and not made.changed()
    made.reload()
    assert made.trouble and "mine.bitmar" in made.trouble
    shutil.copy(model, path)
    made.reload()
    assert made.trouble is None and made.reloads == 1


def test_a_memory_of_the_old_model_keeps_the_old_model(path: Path, make_model: Any, tmp_path: Path) -> None:
    made = home(path, memory=tmp_path / "home.mem")
    with made.memory(made.now, write=True) as session:
        session.remember("our dog Rex")
    replace(path, make_model(tmp_path / "other.bitmar", seed=1))
    made.reload()
    assert made.trouble and "belongs to another model" in made.trouble
    with made.memory(made.now) as session:
        assert [episode.text for episode in session.inspect()] == ["our dog Rex"]


def test_what_was_remembered_in_ram_goes_along(path: Path, make_model: Any, tmp_path: Path) -> None:
    made = home(path)
    with made.memory(made.now, write=True) as session:
        session.remember("our dog Rex")
    replace(path, make_model(tmp_path / "other.bitmar", seed=1))
    made.reload()
    with made.memory(made.now) as session:
        assert [episode.text for episode in session.inspect()] == ["our dog Rex"]


def test_asked_to_reload(path: Path) -> None:
    made = home(path)
    made.ask_to_reload()
    assert made.changed() and not made.changed()


def test_after_a_write_another_program_may_write(path: Path, tmp_path: Path) -> None:
    one, two = home(path, memory=tmp_path / "home.mem"), home(path, memory=tmp_path / "home.mem")
    for i, made in enumerate((one, two, one)):
        with made.memory(made.now, write=True) as session:
            session.remember(f"thing {i}")
    assert len(load(path).memory(tmp_path / "home.mem")) == 3


def test_what_cannot_be_served(path: Path, tmp_path: Path, make_model: Any) -> None:
    with pytest.raises(BitMarError, match="no such file"):
        home(tmp_path / "none.bitmar")
    (tmp_path / "text.mem").write_text("no memory")
    with pytest.raises(MemoryFileError, match="no memory file"):
        home(path, memory=tmp_path / "text.mem")
    with pytest.raises(MemoryFileError, match="no folder"):
        home(path, memory=tmp_path / "nowhere" / "home.mem")
    with pytest.raises(ConfigError, match="no engine"):
        serving.Home(serving.Settings(model=path, engine="abacus"))


def test_a_server_reloads_while_it_answers(serve: Callable[..., Any], path: Path, make_model: Any, png: Any) -> None:
    server = serve(model=path, watch_seconds=0.05)
    before = server.client.get("/health").json()["fingerprint"]
    replace(path, make_model(path.parent / "other.bitmar", seed=1))
    until = time.monotonic() + 30
    while server.client.get("/health").json()["reloads"] == 0 and time.monotonic() < until:
        assert server.client.post("/v1/caption", content=png(), headers=PNG).status_code == 200
    assert server.client.get("/health").json()["fingerprint"] != before
    path.write_bytes(b"broken")
    while not server.client.get("/health").json()["reload_error"] and time.monotonic() < until:
        time.sleep(0.02)
    assert server.client.post("/v1/caption", content=png(), headers=PNG).status_code == 200
    assert "bitmar_reload_failed 1.0" in server.client.get("/metrics").text
