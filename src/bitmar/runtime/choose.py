"""Which of the two engines runs a model."""

from __future__ import annotations

import os

from bitmar.core.container import Container
from bitmar.core.errors import ConfigError
from bitmar.runtime.backend import NUMPY, VARIABLE, Backend
from bitmar.runtime.engine import Engine


def choose_backend(container: Container, engine: str | None = None) -> Backend:
    """The engine for a model.

    engine: "numpy", or a path of the native kernels such as "avx2" (`bitmar doctor` lists them). None: what the
    variable BITMAR_KERNEL says, else the fastest here, which is numpy where the native engine was not built or cannot
    run this configuration. Raises ConfigError for an engine that cannot run.
    """
    if not isinstance(engine, str | None):
        raise ConfigError(f"engine is the name of one, such as {NUMPY!r}, not {engine!r:.80}")
    wish = engine or os.environ.get(VARIABLE, "")
    if wish == NUMPY:
        return Engine(container)
    try:
        from bitmar.runtime.native import NativeEngine, why_not
    except ImportError:
        if wish:
            raise ConfigError(
                f"the kernels {wish!r} belong to the native engine, which was not built: "
                "install bitmar again where a C++ compiler is, or ask for numpy"
            ) from None
        return Engine(container)
    if reason := why_not(container.config):
        if wish:
            raise ConfigError(f"the native engine cannot run {reason}: ask for {NUMPY!r}")
        return Engine(container)
    return NativeEngine(container, wish)
