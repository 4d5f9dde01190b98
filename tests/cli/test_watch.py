"""`bitmar watch` as a process of its own: photos come, Ctrl-C ends it; and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .._without import without

pytest.importorskip("watchdog", reason="watching needs bitmar[watch]")
av = pytest.importorskip("av", reason="watching needs bitmar[watch]")

Cli = Callable[..., Any]


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(60):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(i // 20))))
        container.mux(stream.encode(None))
    return path


def test_a_video_to_json_lines(cli: Cli, model: Path, video: Path) -> None:
    result = cli("watch", video, "--model", model, "--json", "-")
    assert result.exit_code == 0 and result.stderr.splitlines()[-1] == "3 captions"
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["at"] for event in events] == pytest.approx([0, 2.5, 4.5], abs=0.01)
    assert all(event["source"] == str(video) and event["event"] == "seen" for event in events)
    people = cli("watch", video, "--model", model, "--per-minute", 1, "--name", "garden")
    assert len(people.stdout.splitlines()) == 1 and people.stdout.startswith("0:00:00  ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_until_it_is_told_to_stop(model: Path, tmp_path: Path, number: int) -> None:
    folder, events, memory = tmp_path / "in", tmp_path / "events.jsonl", tmp_path / "home.mem"
    folder.mkdir()
    command = [sys.executable, "-m", "bitmar", "watch", str(folder), "--model", str(model)]
    command += ["--memory", str(memory), "--json", str(events)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    assert "Ctrl-C ends it" in process.stderr.readline()
    picture(1).save(folder / "a.png")
    assert "a.png: " in process.stdout.readline()
    picture(2).save(folder / "b.png")
    assert "b.png: " in process.stdout.readline()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == "2 captions\n"
    assert [json.loads(line)["event"] for line in events.read_text().splitlines()] == ["seen", "seen"]
    assert memory.exists()


def test_what_cannot_be_read_is_counted(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitmar.watch.folder import Folder
    from bitmar.watch.source import Notice

    def one(self: Folder, stop: Any) -> Any:
        yield Notice("skipped", "b.png: broken", "b.png")

    monkeypatch.setattr(Folder, "shots", one)
    result = cli("watch", tmp_path, "--model", model)
    assert result.exit_code == 1 and result.stderr.splitlines()[-1] == "0 captions, 1 skipped"


def test_what_it_refuses(fails: Callable[..., str], model: Path, video: Path, photo: Path, tmp_path: Path) -> None:
    assert "no such folder" in fails("watch", tmp_path / "none")
    assert "bitmar caption" in fails("watch", photo)
    assert "no JSON lines" in fails("watch", video, "--model", model, "--json", photo)
    assert "above 0" in fails("watch", video, "--change", 0)
    assert "'my-garden'" in fails("watch", video, "--name", "My Garden")
    assert "http(s)" in fails("watch", video, "--model", model, "--webhook", "host")
    assert "mqtt://" in fails("watch", video, "--model", model, "--mqtt", "host")
    assert "no memory file" in fails("watch", video, "--model", model, "--memory", video)
    assert "--existing" in fails("watch", video, "--existing")


def test_a_missing_extra_is_named(video: Path, tmp_path: Path) -> None:
    for package, source in {"av": video, "watchdog": tmp_path}.items():
        line = without(package, "watch", source)
        assert f"needs {package}" in line and "[watch]" in line
