"""The zero-shot tasks of the BabyLM 2025 evaluation pipeline, on either half; `run_babylm` is the way in."""

from bitmar.evaluate.tasks.babylm.run import run_babylm

__all__ = ["run_babylm"]
