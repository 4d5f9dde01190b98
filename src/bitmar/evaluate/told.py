"""What is said of a photo of a shard, by this process or by a node of a cluster."""

from __future__ import annotations

from typing import NamedTuple

from bitmar.data.sources import OnBad
from bitmar.evaluate.store import Store


class Told(NamedTuple):
    """What was said of a photo. text: None where it is known already, or where `error` says why there is none."""

    key: str
    digest: str
    references: tuple[str, ...]
    text: str | None
    error: str = ""


def settle(told: Told, log: Store, skipped: OnBad) -> bool:
    """Keep a caption in the log, or name the photo that has none; whether the log has it now."""
    if told.digest not in log.found:
        if told.text is None:
            skipped(told.key, told.error)
            return False
        log.put(told.digest, told.text)
    return True
