"""A caption, word by word as it is written, and a story that goes on from it.

python examples/stream.py photo.jpg
"""

import sys

import bitmar

model = bitmar.load()
image = model.encode_image(sys.argv[1])
for piece in model.stream(image=image):
    print(piece, end="", flush=True)
print()
for piece in model.stream("Once upon a time", image, temperature=0.8, top_p=0.9, seed=1, max_tokens=40):
    print(piece, end="", flush=True)
print()
