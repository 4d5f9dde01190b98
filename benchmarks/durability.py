"""What a `.mem` file keeps: commands killed at any moment, pages lost or stale, the file taken away while it is open.

python benchmarks/durability.py --kills 200 --json out/durability.json
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from _machine import publish, run
from PIL import Image

from bitmar import BitMar, load
from bitmar.console import progress
from bitmar.core.errors import BitMarError, MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.layout import PAGE, Layout, Shape, Vectors
from bitmar.session.pages import FilePages, RamPages

SHAPE, MODEL = Shape(130, 8, 8, 8), "ab" * 32  # a directory of three pages
DIRECTORY_PAGES = 3
EPISODES = 24  # in the memory that a killed command writes to

# What is killed: a loop in a process of its own that says on a pipe what has been acknowledged.
WRITER = """
import sys
from PIL import Image
import numpy as np
import bitmar
what, model, memory, source, first = sys.argv[1:]
loaded = bitmar.load(model)
print("ready", flush=True)
def picture(i):
    small = np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 50))
if what == "import":
    with loaded.memory(memory) as session:
        session.import_(source)
    print("all", flush=True)
elif what == "export":
    loaded.memory(memory).export(source)
    print("all", flush=True)
elif what == "forget":
    with loaded.memory(memory) as session:
        for slot in range(20):
            session.forget(slot)
            print(slot, flush=True)
else:
    session = loaded.memory(memory)
    for i in range(int(first), int(first) + 40):
        if what == "caption":
            loaded.caption(picture(i % 5), memory=session, max_tokens=2)
        session.remember(f"acknowledged {i}", picture(i) if what == "remember" else None)
        print(i, flush=True)
        if what == "watch":  # a camera: each frame opens and closes the memory
            session.close()
    session.close()
"""


def main(
    kills: Annotated[int, typer.Option(help="Commands to kill with SIGKILL.")] = 200,
    trials: Annotated[int, typer.Option(help="Trials of each fault of a page and each way to lose the file.")] = 200,
    model: Annotated[str | None, typer.Option(help="A .bitmar file. Default: the bundled one.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Kill writing commands, lose pages, take files away; count what was lost without a word."""
    rng = random.Random(0)
    loaded = load(model)
    figures: dict[str, Any] = {"model": str(loaded.path)}
    with TemporaryDirectory() as folder:
        figures["kills"] = killed(loaded, Path(folder), kills, rng)
        figures["directory pages"] = {
            fault: pages(fault, trials, rng) for fault in ("zeroed", "ones", "an older copy", "another file's")
        }
        figures["while it was open"] = {
            how: taken_away(how, trials, Path(folder))
            for how in ("deleted", "moved", "replaced", "copied over", "forked")
        }
    publish("durability", figures, data="made up", out=json)


def killed(model: BitMar, folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Every writing command, SIGKILL at a random moment after its start; then what was acknowledged is looked for."""
    prepared, export = folder / "prepared.mem", folder / "prepared.jsonl"
    with model.memory(prepared) as session:
        for i in range(EPISODES):
            session.remember(f"kept {i}", picture(1000 + i))
        session.export(export)
    before = texts(model, prepared)
    commands = ("remember", "watch", "caption", "forget", "import", "export")
    found = {"commands killed": 0, "ended before": 0, "writes acknowledged": 0, "lost": 0, "damaged": 0}
    with progress() as bar:
        for number in bar.track(range(kills), description="kills"):
            what = commands[number % len(commands)]
            memory, out = folder / f"{number}.mem", folder / f"{number}.jsonl"
            shutil.copy(prepared, memory)
            if what == "import":
                memory.unlink()
            out.write_text("old")
            source = export if what == "import" else out
            acknowledged, died = run_and_kill(
                [what, str(model.path), str(memory), str(source), str(number * 100)], rng.uniform(0, 0.25)
            )
            found["commands killed" if died else "ended before"] += 1
            found["writes acknowledged"] += len(acknowledged)
            try:
                after = texts(model, memory) if memory.exists() else set()
                if what in ("remember", "watch", "caption"):
                    wanted = {f"acknowledged {i}" for i in acknowledged} | before
                    found["lost"] += len(wanted - after)
                elif what == "forget":
                    gone = {f"kept {slot}" for slot in acknowledged}
                    found["lost"] += len(gone & after) + len(before - gone - after - {f"kept {len(gone)}"})
                elif what == "import":
                    found["lost"] += after not in ((before,) if acknowledged else (set(), before))
                else:
                    whole = out.read_text() == "old" or len(out.read_text().splitlines()) == EPISODES + 1
                    found["lost"] += not whole or after != before
                with model.memory(memory, wait=5) as session:
                    session.remember("it goes on")
            except BitMarError as error:
                found["damaged"] += 1
                typer.echo(f"{what}: {error}", err=True)
            memory.unlink(missing_ok=True)
            out.unlink(missing_ok=True)
    return found


def run_and_kill(arguments: list[str], seconds: float) -> tuple[list[str], bool]:
    """What the process has acknowledged, and whether it was killed, so many seconds after it was ready."""
    source = str(Path(sys.modules["bitmar"].__file__ or "").parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, "-c", WRITER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        said = child.stdout.read().split()
    return said, child.returncode == -signal.SIGKILL


def texts(model: BitMar, path: Path) -> set[str]:
    """What a memory remembers, every checksum checked."""
    session = model.memory(path)
    live = session.file.live()
    for name in ("value", "image", "text"):
        session.file.column(name, live)
    return {episode.text for episode in session.inspect()}


def pages(fault: str, trials: int, rng: random.Random) -> dict[str, int]:
    """One page of the directory, of those that have changed: an error at opening, or else nothing may be missing."""
    counts = {"trials": 0, "detected": 0, "in silence": 0}
    while counts["trials"] < trials:
        disk = RamPages()
        file = MemoryFile(disk, SHAPE, MODEL)
        fill(file, rng.randrange(1, 140), rng)
        old = bytes(disk.data)
        fill(file, rng.randrange(1, 100), rng)
        before = episodes(file)
        start = Layout(SHAPE).directory + rng.randrange(DIRECTORY_PAGES) * PAGE
        page = {
            "zeroed": bytes(PAGE),
            "ones": b"\xff" * PAGE,
            "an older copy": old[start : start + PAGE],
            "another file's": rng.randbytes(PAGE),
        }[fault]
        if page == disk.data[start : start + PAGE]:
            continue
        disk.data[start : start + PAGE] = page
        counts["trials"] += 1
        try:
            found = episodes(MemoryFile(disk, SHAPE, MODEL))
        except MemoryFileError:
            counts["detected"] += 1
        else:
            counts["in silence"] += found != before
    return counts


def taken_away(how: str, trials: int, folder: Path) -> dict[str, int]:
    """A writer whose file goes: its next write is an error, or is in the file that is there then."""
    counts = {"trials": trials, "detected": 0, "in silence": 0}
    for number in range(trials):
        path, other = folder / "open.mem", folder / "other.mem"
        for one in (path, other):
            one.unlink(missing_ok=True)
        rng = random.Random(number)
        file = MemoryFile(FilePages(path), SHAPE, MODEL)
        fill(file, 1, rng)
        another = MemoryFile(FilePages(other), SHAPE, MODEL)
        fill(another, 2, rng)
        another.close()
        if how == "forked":
            detected, stored = forked(file, path)
        else:
            take_away(how, path, other)
            detected, stored = wrote(file, path)
        counts["detected"] += detected
        counts["in silence"] += not detected and not stored
        file.close()
    return counts


def take_away(how: str, path: Path, other: Path) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "moved":
        path.rename(path.with_name("moved.mem"))
    elif how == "replaced":
        other.rename(path)
    else:
        path.write_bytes(other.read_bytes())


def wrote(file: MemoryFile, path: Path) -> tuple[bool, bool]:
    """Whether a write was refused, and whether it is in the file of that name."""
    try:
        file.write(vectors(0), "the write in question")
    except MemoryFileError:
        return True, False
    return False, "the write in question" in episodes(MemoryFile(FilePages(path), SHAPE, MODEL))


def forked(file: MemoryFile, path: Path) -> tuple[bool, bool]:
    """The same for a child of a writer, which holds its parent's lock only by the looks of it."""
    child = os.fork()
    if not child:
        status = 3
        try:
            detected, stored = wrote(file, path)
            status = 2 * detected + stored
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return bool(status & 2), bool(status & 1)


def fill(file: MemoryFile, count: int, rng: random.Random) -> None:
    for _ in range(count):
        file.write(vectors(rng.randrange(1000)), f"episode {rng.random()}")


def vectors(seed: int) -> Vectors:
    rng = np.random.default_rng(seed)
    return Vectors(*(rng.standard_normal(width).astype(np.float32) for width in SHAPE[1:]))


def episodes(file: MemoryFile) -> list[str]:
    """The texts by slot, every checksum checked."""
    live = file.live()
    for name in ("value", "image", "text"):
        file.column(name, live)
    return [file.episode(int(slot)).text for slot in live]


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 50))


if __name__ == "__main__":
    run(main)
