"""Tasks that consist of parts: each is measured, kept and fails alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitmar.core.errors import BitMarError
from bitmar.data.archives import data_hash
from bitmar.evaluate.work import Work

DONE, FAILED = "done", "failed"

Prepared = tuple[Path, Callable[[], dict[str, Any]]]
"""The file that a part reads, and the function that measures it."""


def measure_part(name: str, work: Work, prepare: Callable[[Work], Prepared]) -> dict[str, Any]:
    """The part's stored result if its data is the same, or else that of `prepare(work)`, which is stored.

    status: "done", with data_hash, seconds, and skipped, lines and photos by name; or "failed", with a message.
    """
    skipped: dict[str, str] = {}

    def on_bad(place: str, reason: str) -> None:
        if place not in skipped:
            work.on_bad(place, reason)
        skipped[place] = reason

    begun = time.perf_counter()
    try:
        source, measure = prepare(replace(work, on_bad=on_bad))
        hashed = data_hash(source)
        known = {} if work.store is None else work.store.found.get(name, {})
        if known.get("data_hash") == hashed:
            return dict(known)
        found = measure()
    except BitMarError as error:
        return {"status": FAILED, "message": str(error), "skipped": skipped}
    seconds = round(time.perf_counter() - begun, 2)
    result = {"status": DONE, **found, "data_hash": hashed, "seconds": seconds, "skipped": skipped}
    if work.store is not None:
        work.store.put(name, result)
    return result
