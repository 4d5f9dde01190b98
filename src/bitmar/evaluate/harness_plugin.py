"""Tells lm-evaluation-harness the name `bitmar`.

The harness looks models up by entry points of the group `lm_eval.models` in the releases after 0.4.13; ours is in
pyproject.toml. Up to 0.4.13 it knows only the models in its own source, and runs nobody else's code before it looks
the name up. It does import PyTorch before, though, and that calls every entry point of `torch.backends`: so `register`
stands there too. In any process that is not the harness' it returns at once.
"""

from __future__ import annotations

import sys


def register() -> None:
    """If this is a run of the harness, put a name into its registry that leads to `harness.BitMarLM`."""
    if "lm_eval" not in sys.modules:
        return
    try:
        import lm_eval.models  # noqa: F401  the registry looks for the harness' own models only while it is empty
        from lm_eval.api.registry import model_registry
    except ImportError:  # of another version; nothing but `--model bitmar` is lost
        return
    if "bitmar" not in model_registry:
        model_registry.register("bitmar", target="bitmar.evaluate.harness:BitMarLM")
