"""Questions about one photo, which is looked at once.

python examples/ask.py photo.jpg "Is there a dog?" "How many people are there?"
"""

import sys

import bitmar

photo, *questions = sys.argv[1:]
model = bitmar.load()
image = model.encode_image(photo)
for question in questions:
    print(f"{question} {model.ask(image, question)}")
