"""The caption of a photo of a shard, made by this process or by a node of a cluster."""

from __future__ import annotations

from typing import NamedTuple

from bitmar.data.sources import OnBad
from bitmar.evaluate.store import Store


class CaptionResult(NamedTuple):
    """caption: of the photo, None where it is in the store already, or where `error` says why there is none."""

    key: str
    digest: str
    references: tuple[str, ...]
    caption: str | None
    error: str = ""


def keep_caption(result: CaptionResult, log: Store, skipped: OnBad) -> bool:
    """Keep a caption in the log, or name the photo that has none; whether the log has it now."""
    if result.digest not in log.found:
        if result.caption is None:
            skipped(result.key, result.error)
            return False
        log.put(result.digest, result.caption)
    return True
