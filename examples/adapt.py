"""Fit the bundled model to captioned photos of one's own (needs bitmar[train,eval]): photo.jpg beside photo.txt.

python examples/adapt.py photos/ mine.bitmar
"""

import sys

import bitmar
from bitmar.adapt import adapt
from bitmar.train.adapting import Adapting

folder, out = sys.argv[1:3]
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else None
report = adapt([folder], out, bitmar.load(), Adapting(epochs=epochs, threads=1))
print(f"perplexity of the held-out captions {report.before.perplexity:.1f} -> {report.after.perplexity:.1f}")
print(f"CIDEr {report.before.cider:.3f} -> {report.after.cider:.3f}")
print(f"{out} is the new model" if report.written else "it got worse, and was not written")
