"""Pictures, a video made of them, and a sink that keeps what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Picture = Callable[..., Image.Image]


def _picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def picture() -> Picture:
    """picture(seed, size) -> smooth colours, others for each seed."""
    return _picture


def _write(path: Path, scenes: Sequence[tuple[int | None, float]], codec: str = "mpeg4", rate: int = 25) -> Path:
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for seed, seconds in scenes:
            picture = _picture(seed) if seed is not None else Image.new("RGB", (64, 48))
            pixels = np.asarray(picture).astype(int)
            for _ in range(round(seconds * rate)):
                noisy = (pixels + rng.integers(-3, 4, (48, 64, 1))).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """write_video(path, [(seed of a picture or None for black, seconds), ...], codec, rate) -> path."""
    return _write


class Kept:
    """A sink."""

    def __init__(self) -> None:
        self.lost, self.events = 0, list[Any]()

    def send(self, event: Any) -> None:
        self.events.append(event)

    def close(self) -> None: ...


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """until(something) waits until it is true, a minute at most, and returns it."""

    def wait(something: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (result := something()) and time.monotonic() < end:
            time.sleep(0.01)
        assert result
        return result

    return wait


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """hurry(module, NAME=seconds) shortens its waiting times."""

    def shorten(module: str, **times: Any) -> None:
        for name, seconds in times.items():
            monkeypatch.setattr(f"bitmar.watch.{module}.{name}", seconds)

    return shorten
