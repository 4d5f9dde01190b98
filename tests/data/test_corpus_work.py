"""A corpus tokenised a file at a time, elsewhere: the bytes of one process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import DataError
from bitmar.data import corpus as corpus_module
from bitmar.data import corpus_work
from bitmar.data.cluster import Task, build, compute
from bitmar.data.corpus import Piece, build_corpus
from bitmar.data.text import Domain
from bitmar.data.tokenizer import train_bpe

TOKENIZER = train_bpe([f"story {i} about {i * 7919 % 1000} dogs" for i in range(300)], 300)


class OneByOne:
    """In place of a cluster: what nodes compute, through their own functions and as it travels."""

    def __init__(self, address: str) -> None:
        self.shards: list[str] = []

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, task: Task, shards: list[tuple[str, str]]) -> Iterator[Iterator[Any]]:
        task = pickle.loads(pickle.dumps(task))
        work, fault, identity = build(task.module, task.name, task.arguments, False, "node x")
        assert fault is None and identity == task.identity
        for shard, stem in shards:
            fault, chunks = compute(work, shard, stem, (), True, "node x", pickle.dumps)
            if fault is not None:
                raise fault
            assert chunks is not None
            yield (result for chunk in chunks for result in pickle.loads(chunk))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts of several kinds, one of them empty, in files whose names have spaces."""
    made = tmp_path / "some texts"
    made.mkdir()
    for n in range(4):
        stories = [f"story {i}\nabout {i * 7919 % 1000} dogs, \u00e9t\u00e9 {n}" for i in range(90 * n)]
        (made / f"part {n}.txt").write_text("\n\n".join(stories))
    (made / "long.txt").write_text("a dog and a man " * 3000)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def built(domain: Domain, cache: Path, tokenise: Callable[..., Iterator[Piece]]) -> dict[str, bytes]:
    build_corpus({"texts": domain}, TOKENIZER, cache, heldout=0.1, progress=False, tokenise=tokenise)
    return files(cache)


@pytest.mark.parametrize(
    "how", [{}, {"paragraphs": True}, {"split": "line", "clean": "caption"}, {"questions": True}], ids=str
)
def test_files_that_nodes_tokenise_make_the_corpus_of_one_process(
    how: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_work, "Cluster", OneByOne)
    domain = Domain(path=str(folder), **how)
    plain = built(domain, tmp_path / "plain", corpus_module.here)
    monkeypatch.setattr(corpus_module, "_CHUNK_CHARS", 1000)  # pieces may be of any size
    spread = built(domain, tmp_path / "spread", partial(corpus_work.on_nodes, "auto"))
    assert spread == plain and len(plain) == 5 and all(plain.values())


def test_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_work, "Cluster", OneByOne)
    read: list[int] = []
    for _ in corpus_work.on_nodes("auto", Domain(path=str(folder)), TOKENIZER, 0.1, read.append):
        pass
    assert sum(read) == sum(path.stat().st_size for path in folder.iterdir()) and len(read) == 5


def test_a_file_that_is_no_text_is_named_with_its_node(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_work, "Cluster", OneByOne)
    (folder / "part 2.txt").write_bytes("not this".encode("utf-16"))
    with pytest.raises(DataError, match=r"^node x: .*part 2\.txt is UTF-16"):
        built(Domain(path=str(folder)), tmp_path / "cache", partial(corpus_work.on_nodes, "auto"))
    assert not files(tmp_path / "cache")
