from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import SourceError
from bitmar.watch.choose import open_source, slug
from bitmar.watch.source import masked


def test_what_is_no_source(tmp_path: Path, jpeg: Any) -> None:
    pytest.importorskip("av", reason="watching a video needs bitmar[watch]")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    (tmp_path / "b.jpg").write_bytes(jpeg())
    for name, words in {
        "a.mp4": "no video that can be opened",
        "b.jpg": "bitmar caption",
        "none": "no such folder, video or camera",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(SourceError, match=words):
            open_source(str(tmp_path / name))
    with pytest.raises(SourceError, match="begins with one of rtsp"):
        open_source("ftp://user:secret@host/x")
    with pytest.raises(SourceError, match="--existing belongs to one"):
        open_source("rtsp://host/x", existing=True)


def test_names_of_sources(tmp_path: Path) -> None:
    assert masked("rtsp://user:secret@host/a@b") == "rtsp://host/a@b"
    assert masked("rtsp://user:p@ss@host/x") == "rtsp://host/x" and masked("a@b/c") == "a@b/c"
    assert slug("rtsp://user:secret@Cam.local:554/x") == "cam-local"
    assert slug("/home/me/My Photos/") == "my-photos" and slug("/dev/video0") == "video0" and slug("/") == "bitmar"
