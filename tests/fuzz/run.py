"""Fuzzes one target, led by coverage: python -m tests.fuzz.run TARGET, then libFuzzer's arguments. See `make fuzz`."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

from bitmar.core.errors import BitMarError

from .targets import TARGETS

SECONDS, MEGABYTES = 5, 1024  # that one input may take


def main() -> None:
    warnings.simplefilter("ignore")  # numpy on overflow: such numbers are what this is about
    os.environ["OMP_NUM_THREADS"] = "1"
    os.fsync = lambda _: None  # nothing here has to outlive a power cut
    name, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as good:
        target = TARGETS[name](Path(folder))
        for number, seed in enumerate(target.seeds):
            Path(good, str(number)).write_bytes(seed)

        def one_input(data: bytes) -> None:
            try:
                target.one_input(data)
            except BitMarError as error:
                str(error).encode()  # a message with a lone surrogate could not be printed

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            rng = random.Random(seed)
            return target.mutate(data, rng, lambda piece: atheris.Mutate(piece, max(len(piece), 1) * 2))[:max_size]

        atheris.instrument_all()  # its import hook would not get past that of an editable install
        limits = [f"-max_len={target.max_bytes}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}"]
        atheris.Setup([sys.argv[0], *arguments, good, *limits], one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
