"""`bitmar watch` for a long time: how much memory a hundred thousand frames cost, and how fast they are watched. And
what a camera's memory can tell apart: frames of one place, with and without something in them.

python benchmarks/watch.py --frames 100000 --json out/watch.json

The video is made here: scenes of smooth colours with noise, one after the other and then again, 2 frames a second, so
that every frame is looked at. The memory is full from the beginning: a scene that is new overwrites another. Only Linux
says what a process occupies.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from time import perf_counter
from typing import Annotated, Any

import av
import numpy as np
import typer
from _machine import SHARED, publish, run
from PIL import Image

from bitmar import BitMar, load
from bitmar.console import progress, say
from bitmar.data.sources import iter_webdataset
from bitmar.watch.sinks import JsonLines
from bitmar.watch.source import Notice, Shot
from bitmar.watch.video import Video
from bitmar.watch.watcher import Watcher, is_known

SIZE, RATE = (160, 120), 2  # of the video
SCENE, SCENES = 200, 160  # frames of a scene, and scenes until they begin again
WARM = 5_000  # frames after which the first reading is taken
PHOTOS = str(SHARED / "photos" / "ade20k-train-00000.tar")
OBJECTS = (0.02, 0.05, 0.1, 0.2, 0.4)  # of a frame


def main(
    model: Annotated[str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled.")] = None,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 100_000,
    photos: Annotated[str, typer.Option(help="Shards of photos, for what can be told apart.")] = PHOTOS,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Watch a long video, then places with and without something in them."""
    loaded = load(model)
    figures = {"long": long_run(loaded, frames)}
    if Path(photos).exists():
        figures["told apart"] = told_apart(loaded, photos)
    else:
        say(f"no {photos}: what can be told apart is left out")
    publish("watch", figures, data=f"a video of {frames:,} frames, made here; {photos}", out=json)


def long_run(model: BitMar, frames: int) -> dict[str, Any]:
    """Megabytes of the process after WARM frames, at the end and at most between; frames and captions a second."""
    with TemporaryDirectory() as folder, progress() as bar:
        path = Path(folder) / "long.mkv"
        write_video(path, frames, bar)
        session = model.memory(Path(folder) / "home.mem")
        full = model.memory()
        for i in bar.track(range(model.config.memory_slots), description="filling the memory"):
            full.remember(f"scene {i}", scene(-1 - i))
        session.merge(full)
        del full
        sink = JsonLines(Path(folder) / "events.jsonl", say)
        watcher = Watcher(model, session, [sink])
        watched = Counted(Video(str(path)), bar, frames)
        start = perf_counter()
        watcher.run(watched, Event())
        seconds = perf_counter() - start
        watched.close()
        sink.close()
        session.close()
    first, *_, last = watched.occupied
    return {
        "frames": watched.count,
        "captions": watcher.captions,
        "seconds": seconds,
        "frames a second": watched.count / seconds,
        f"MB after {WARM:,} frames": first,
        "MB at the end": last,
        "MB at most": max(watched.occupied),
        "MB grown": last - first,
    }


class Counted:
    """A video that notes, every thousand frames, how many megabytes the process occupies."""

    name, waits, endless = "long", False, False

    def __init__(self, video: Video, bar: Any, frames: int) -> None:
        self.video, self.bar, self.count = video, bar, 0
        self.task = bar.add_task("watching", total=frames)
        self.occupied: list[float] = []

    def shots(self, stop: Event) -> Iterator[Shot | Notice]:
        for shot in self.video.shots(stop):
            yield shot
            self.count += 1
            if self.count % 1000 == 0:
                self.bar.update(self.task, completed=self.count)
                if self.count >= WARM:
                    self.occupied.append(occupied())

    def retry(self, shot: Shot) -> bool:
        return False

    def close(self) -> None:
        self.video.close()


def occupied() -> float:
    """Megabytes (10^6) that are resident."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def scene(seed: int) -> Image.Image:
    small = np.random.default_rng(seed % 2**32).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)


def write_video(path: Path, frames: int, bar: Any) -> None:
    """All scenes are encoded once; the same packets are written again and again."""
    noise = np.random.default_rng(0).integers(-6, 7, (16, *SIZE[::-1], 1), dtype=np.int16)
    packets: list[Any] = []
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=RATE)
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, RATE)
        for i in bar.track(range(min(frames, SCENE * SCENES)), description="making the video"):
            if i % SCENE == 0:
                pixels = np.asarray(scene(i // SCENE)).astype(np.int16)
            noisy = (pixels + noise[i % len(noise)]).clip(0, 255).astype(np.uint8)
            packets += stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24"))
        packets += stream.encode(None)
        for i in range(frames):
            packet = packets[i % len(packets)]
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, RATE), i, i
            packet.duration = 1
            container.mux(packet)


def told_apart(model: BitMar, shards: str, places: int = 24, objects: int = 5) -> dict[str, float]:
    """Of frames of a place in other light and noise, and with something pasted into them: the share taken for new."""
    samples = islice(iter_webdataset(shards), places + objects)
    photos = [Image.open(io.BytesIO(sample.image)).convert("RGB") for sample in samples]
    rng, new = np.random.default_rng(0), {share: list[bool]() for share in (0.0, *OBJECTS)}
    for place in photos[:places]:
        empty = place.resize((640, 480))
        session = model.memory()
        session.remember("the place", empty)
        for share, found in new.items():
            for other in photos[places:]:
                frame = empty.copy()
                if share:
                    width, height = (round(side * share**0.5) for side in empty.size)
                    at = int(rng.integers(0, 641 - width)), int(rng.integers(0, 481 - height))
                    frame.paste(other.resize((width, height)), at)
                light = rng.integers(-12, 13) + rng.normal(0, 4, (480, 640, 1))
                pixels = (np.asarray(frame) + light).clip(0, 255).astype(np.uint8)
                (recalled,) = session.recall(image=Image.fromarray(pixels))
                found.append(not is_known(recalled, fixed=True))
    return {f"new, something on {share:.0%}": float(np.mean(found)) for share, found in new.items()}


if __name__ == "__main__":
    run(main)
