from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av", reason="watching a video needs bitmar[watch]")

import av

from bitmar.core.errors import ImageError
from bitmar.watch.changes import HEIGHT, WIDTH
from bitmar.watch.source import Notice, Shot
from bitmar.watch.video import LOOK, Frames, Video, still_of

Write = Callable[..., Path]


def shots(path: Path) -> list[Any]:
    video = Video(str(path))
    try:
        return list(video.shots(threading.Event()))
    finally:
        video.close()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.ts", "mpeg2video")])
def test_a_frame_every_half_second(write_video: Write, picture: Any, tmp_path: Path, name: str, codec: str) -> None:
    given = shots(write_video(tmp_path / name, [(1, 2), (2, 2)], codec))
    assert [shot.at for shot in given] == pytest.approx([i * LOOK for i in range(8)], abs=0.05)
    assert all(shot.small.shape == (HEIGHT, WIDTH) and shot.small.dtype == np.uint8 for shot in given)
    first, last = (np.asarray(given[i].photo()).astype(int) for i in (0, -1))
    assert np.abs(first - np.asarray(picture(1))).mean() < 12 and np.abs(last - np.asarray(picture(2))).mean() < 12


def test_a_video_that_is_cut_off_ends_with_what_there_was(write_video: Write, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [(i, 1) for i in range(6)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    given = [shot for shot in shots(path) if isinstance(shot, Shot)]
    assert 2 <= len(given) < 12


class Flawed:
    """A container of which some packets are damaged."""

    def __init__(self, container: Any, damaged: Callable[[int], bool]) -> None:
        self.container, self.damaged = container, damaged

    def demux(self, stream: Any) -> Any:
        for i, packet in enumerate(self.container.demux(stream)):
            yield Damaged() if self.damaged(i) else packet

    def close(self) -> None:
        self.container.close()


class Damaged:
    def decode(self) -> Any:
        raise av.InvalidDataError(1, "Invalid data", "a.mp4")


def test_a_few_damaged_packets_are_passed_over_many_are_a_fault(
    write_video: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", [(1, 8)])

    def given(damaged: Callable[[int], bool]) -> list[Any]:
        video = Video(str(path))
        monkeypatch.setattr(video, "_container", Flawed(video._container, damaged))
        made = list(video.shots(threading.Event()))
        video.close()
        return made

    few = given(lambda i: 30 <= i < 60)
    assert all(isinstance(each, Shot) for each in few) and few[-1].at >= 7
    *_, last = given(lambda i: i >= 30)
    assert isinstance(last, Notice) and last.kind == "skipped" and "after 1.2 s: Invalid data" in last.reason


def test_it_stops_when_told_to(write_video: Write, tmp_path: Path) -> None:
    stop, video = threading.Event(), Video(str(write_video(tmp_path / "a.mp4", [(1, 3)])))
    given = video.shots(stop)
    next(given)
    stop.set()
    assert list(given) == []
    video.close()


def test_the_still_of_a_video_is_of_its_middle(write_video: Write, picture: Any, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [(None, 2), (3, 4), (None, 1)])
    assert np.abs(np.asarray(still_of(path)).astype(int) - np.asarray(picture(3))).mean() < 12


def test_large_frames_come_smaller_and_upright() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((3000, 4000, 3), np.uint8), "rgb24")
    width, height = Frames.photo(frame).size
    assert width * height == pytest.approx(2e6, rel=0.01) and width / height == pytest.approx(4 / 3, rel=0.01)

    class Turned:  # as a telephone was held
        width, height, rotation = 64, 48, 90

        def to_image(self) -> Any:
            return av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24").to_image()

    assert Frames.photo(Turned()).size == (48, 64)


def test_a_still_of_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ImageError, match="Invalid data"):
        still_of(tmp_path / "a.mp4")
