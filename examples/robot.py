"""A robot's loop: look, say where it is if it knows the place, remember it if not. Bounded memory, one frame at a time.

python examples/robot.py frames/      # a folder stands for the camera; in a robot `frames` reads its own
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import bitmar

SURE = 0.95


def frames(folder: Path) -> Iterator[Path]:
    """What the camera sees, one after the other: paths, uint8 arrays (H, W, 3) or PIL images."""
    yield from sorted(folder.iterdir())


model = bitmar.load()
memory = model.memory()  # lasts as long as the program; model.memory("robot.mem") longer
for place, frame in enumerate(frames(Path(sys.argv[1]))):
    image = model.encode_image(frame)
    found = next(iter(memory.recall(image=image)), None)
    if found is not None and (found.confidence or 0) >= SURE:
        print(f"{frame.name}: back at {found.episode.text!r}")
    else:
        memory.remember(f"place {place}: {model.caption(image)}", image)
        print(f"{frame.name}: new, place {place}")
