"""Text tokenised by the nodes of a Ray cluster, a file at a time, written here: the bytes that one process writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from typing import Any

import tokenizers
from tokenizers import Tokenizer

from bitmar.data.cluster import Cluster, Task
from bitmar.data.corpus import Piece, here, tokenised
from bitmar.data.text import Domain

_IDENTITY = f"tokenizers {tokenizers.__version__}"


class CorpusWork:
    """The documents of a domain's file, tokenised, on a node. domain: fields of a `Domain`."""

    identity = _IDENTITY

    def __init__(self, domain: dict[str, Any], tokenizer: str, heldout: float) -> None:
        self.domain, self.tokenizer, self.heldout = Domain(**domain), Tokenizer.from_str(tokenizer), heldout

    def __call__(self, shard: str, stem: str, known: Collection[str]) -> Iterator[Piece]:
        """All of the file, on every call."""
        return tokenised(self.domain, self.domain.documents_of(shard), self.tokenizer, self.heldout)


def on_nodes(
    address: str, domain: Domain, tokenizer: Tokenizer, heldout: float, on_read: Callable[[int], None]
) -> Iterator[Piece]:
    """What `here` makes of the domain, by the nodes, who must see its files at their paths.

    Made here after all are a dataset's documents, which have no files, and questions, which depend on the documents
    before.
    """
    if domain.path is None or domain.questions:
        yield from here(domain, tokenizer, heldout, on_read)
        return
    files = [file.resolve() for file in domain.files()]
    task = Task(__name__, CorpusWork.__name__, (asdict(domain), tokenizer.to_str(), heldout), _IDENTITY)
    with Cluster(address) as cluster:
        for file, pieces in zip(files, cluster.results(task, [(str(f), f.name) for f in files]), strict=True):
            yield from pieces
            on_read(file.stat().st_size)
