"""Teach a name, and be told it when another photo shows the same thing.

python examples/remember.py home.mem rex.jpg "our dog Rex" another.jpg
"""

import sys

import bitmar

path, known, name, other = sys.argv[1:]
model = bitmar.load()
with model.memory(path) as memory:
    memory.remember(name, known)
    (found,) = memory.recall(image=other, k=1)
    sure = "not sure" if found.confidence is None else f"{found.confidence:.1%} sure"
    print(f"{other} is most like {found.episode.text!r} (score {found.score:.2f}, {sure})")
    print(model.caption(other, memory=memory))
