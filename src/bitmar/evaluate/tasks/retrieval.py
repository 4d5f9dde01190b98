"""Finding a photo's captions among all captions, and a caption's photo among all photos.

Two ways to score a pair: "contrastive", the cosine in the space that L_cm has trained (paper section 3.4.2), and "pmi",
the log-likelihood of the caption beside the picture less its log-likelihood without one, which asks the decoder and
costs a forward a pair. So pmi ranks a small pool, and what the cosine has found among all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DataError
from bitmar.core.ternary import F32
from bitmar.data.text import clean_caption
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.photos import look_at_all
from bitmar.evaluate.protocol import OnProgress, Picture, PictureScorer
from bitmar.evaluate.tables import Cells, Results, Table, number, ranged
from bitmar.evaluate.task import Features, Option, Shards
from bitmar.evaluate.work import Work

AT = (1, 5, 10)
_ROWS = 512  # queries whose ranks are found at once
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Shards,
    features: Features = None,
    pool: Annotated[int, Option("Photos that are also ranked by likelihood alone; 0 for none.", least=0)] = 100,
    rerank: Annotated[int, Option("Best candidates that likelihood puts in order; 0 for none.", least=0)] = 20,
    queries: Annotated[int, Option("Photos, and captions, to rerank candidates for.", least=1)] = 200,
) -> dict[str, Any]:
    """Find the captions of a photo among all captions, and the photo of a caption among all photos: recall@1, 5, 10.

    By the cosine that the contrastive loss has trained, and by how much likelier a picture makes a caption.
    """
    gallery = Gallery(*look_at_all(scorer, data, work, features))
    progress = work.progress("pairs", pairs_to_score(gallery, pool, rerank, queries))
    found = evaluate_retrieval(scorer, gallery, pool=pool, rerank=rerank, queries=queries, on_progress=progress)
    return dict(plain(found))


def tables(found: Results) -> Iterator[Table]:
    """A row for each way of ranking, in both directions."""
    yield from found.empty("retrieval", "Retrieval")
    for ending, report in found.each("retrieval"):
        ways = {
            "cosine, all": report["contrastive"],
            "cosine, first photos": report["pool_contrastive"],
            "likelihood, first photos": report["pool_pmi"],
            "cosine, some queries": report["unranked"],
            f"likelihood, of their best {report['reranked_best']}": report["reranked"],
        }
        rows: list[Cells] = [
            [
                name,
                finds,
                *(ranged(share, 100) for share in way[direction]["recall"].values()),
                " / ".join(str(number(100 * share)) for share in way[direction]["chance"].values()),
                number(way[direction]["median_rank"]),
                number(way[direction]["candidates"], 0),
            ]
            for name, way in ways.items()
            if way is not None
            for direction, finds in (("image_to_text", "a caption"), ("text_to_image", "the photo"))
        ]
        head = ["ranked by", "finds", "recall@1, %", "recall@5", "recall@10", "chance @1 / 5 / 10", "median rank", "of"]
        note = (
            f"{report['photos']:,} photos, {report['captions']:,} captions. Likelihood: of the caption beside the "
            "photo, less that without one."
        )
        yield Table(f"Retrieval{ending}", head, rows, note)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """One way of scoring, one direction.

    recall: by k, the share of queries with a right candidate among the k best; its interval is over photos, as the
    captions of one photo are no independent queries. chance: the same for a random order. median_rank: of the best
    right candidate, 1 is first; ties count as half a place each.
    """

    recall: dict[str, Figure]
    chance: dict[str, float]
    median_rank: float
    queries: int
    candidates: int


@dataclass(frozen=True, slots=True)
class Directions:
    """Captions found by a picture, and pictures found by a caption."""

    image_to_text: Retrieval
    text_to_image: Retrieval


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """contrastive: all photos and all captions. pool_contrastive, pool_pmi: both ways on the first photos and their
    first captions alone. reranked: the best of the contrastive order, put in order by pmi, for some queries among all
    candidates; unranked: these queries before. None where it was not asked for."""

    contrastive: Directions
    pool_contrastive: Directions | None
    pool_pmi: Directions | None
    unranked: Directions | None
    reranked: Directions | None
    reranked_best: int
    photos: int
    captions: int


class Gallery:
    """Pictures with their captions, cleaned as for training; at least two photos with one. Raises DataError.

    pictures: as `PictureScorer.look` returned them. owner (m,): which picture a caption belongs to. first (n,): the
    first caption of each picture.
    """

    def __init__(self, pictures: Sequence[Picture], captions: Sequence[Sequence[str]]) -> None:
        self.pictures: list[Picture] = []
        self.texts: list[str] = []
        owner: list[int] = []
        first: list[int] = []
        for picture, group in zip(pictures, captions, strict=True):
            if texts := list(filter(None, map(clean_caption, group))):
                first.append(len(self.texts))
                owner += [len(self.pictures)] * len(texts)
                self.texts += texts
                self.pictures.append(picture)
        if len(self.pictures) < 2:
            raise DataError("retrieval needs at least two photos with captions")
        self.owner: I64 = np.array(owner)
        self.first: I64 = np.array(first)

    def __len__(self) -> int:
        return len(self.pictures)


def evaluate_retrieval(
    model: PictureScorer,
    gallery: Gallery,
    *,
    pool: int = 100,
    rerank: int = 20,
    queries: int = 200,
    on_progress: OnProgress | None = None,
) -> RetrievalReport:
    """Both directions, by cosine and by pmi.

    pool: photos that pmi ranks completely, fewer than 2 for none. rerank: how many of the best by cosine pmi puts in
    order, 0 for none, for `queries` pictures and as many captions (evenly spread). `on_progress(n)`: pairs scored, of
    `pairs_to_score`. Raises ImageError.
    """
    texts, images = model.embed(gallery.texts, gallery.pictures)
    cosine = images @ texts.T  # (n, m)
    report_pairs = _Counter(on_progress)
    pool, queries = min(pool, len(gallery)), min(queries, len(gallery))
    pool_contrastive = pool_pmi = unranked = reranked = None
    if pool > 1:
        columns = gallery.first[:pool]
        pool_contrastive = _directions(cosine[:pool, columns], np.arange(pool))
        pairs = [(i, int(j)) for i in range(pool) for j in columns]
        pool_pmi = _directions(_pmi(model, gallery, pairs, report_pairs).reshape(pool, pool), np.arange(pool))
    if rerank and queries:
        rows = np.linspace(0, len(gallery) - 1, queries).astype(np.int64)
        unranked = Directions(
            _retrieval(cosine[rows], rows[:, None] == gallery.owner, rows),
            _retrieval(cosine[:, gallery.first[rows]].T, rows[:, None] == np.arange(len(gallery)), rows),
        )
        reranked = _rerank(model, gallery, cosine, rows, rerank, report_pairs)
    return RetrievalReport(
        contrastive=_directions(cosine, gallery.owner),
        pool_contrastive=pool_contrastive,
        pool_pmi=pool_pmi,
        unranked=unranked,
        reranked=reranked,
        reranked_best=rerank if reranked else 0,
        photos=len(gallery),
        captions=len(gallery.texts),
    )


def pairs_to_score(gallery: Gallery, pool: int, rerank: int, queries: int) -> int:
    """How many pairs `evaluate_retrieval` gives to the decoder."""
    n, m = len(gallery), len(gallery.texts)
    pool, queries = min(pool, n), min(queries, n)
    return (pool * pool if pool > 1 else 0) + queries * (min(rerank, m) + min(rerank, n))


def _directions(scores: npt.NDArray[Any], owner: I64) -> Directions:
    """From scores (n, m) of pictures and captions, and which picture owns each caption (m,)."""
    right = np.arange(len(scores))[:, None] == owner
    return Directions(_retrieval(scores, right, np.arange(len(scores))), _retrieval(scores.T, right.T, owner))


def _retrieval(scores: npt.NDArray[Any], right: Mask, photo: I64) -> Retrieval:
    """scores, right (q, c): of queries and candidates. photo (q,): what the bootstrap draws, with all its queries."""
    ranks = np.concatenate(
        [best_ranks(scores[i : i + _ROWS], right[i : i + _ROWS]) for i in range(0, len(scores), _ROWS)]
    )
    _, place = np.unique(photo, return_inverse=True)
    count = np.bincount(place)
    candidates = scores.shape[1]
    return Retrieval(
        recall={str(k): Figure.bootstrap(np.bincount(place, weights=ranks <= k), count) for k in AT},
        chance={str(k): _chance(k, candidates, right.sum(axis=1)) for k in AT},
        median_rank=float(np.median(ranks)),
        queries=len(ranks),
        candidates=candidates,
    )


def best_ranks(scores: npt.NDArray[Any], right: Mask) -> F64:
    """Rank (q,) of each query's best right candidate: 1 + better ones + half of the wrong ones that score the same."""
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    better, same = (scores > best).sum(axis=1), ((scores == best) & ~right).sum(axis=1)
    ranks: F64 = 1 + better + same / 2
    return ranks


def _chance(k: int, candidates: int, right: I64) -> float:
    """Mean over queries: that among k of the candidates, drawn at random, is one of the right ones."""
    k = min(k, candidates)
    kinds, counts = np.unique(right, return_counts=True)
    missed = [comb(candidates - int(r), k) / comb(candidates, k) for r in kinds]
    return float(1 - np.average(missed, weights=counts))


class _Counter:
    """Adds up the pairs of several calls."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self.done, self._on_progress = 0, on_progress

    def __call__(self, count: int) -> None:
        if self._on_progress is not None:
            self._on_progress(self.done + count)


def _pmi(model: PictureScorer, gallery: Gallery, pairs: Sequence[tuple[int, int]], counter: _Counter) -> F64:
    """log p(caption | picture) - log p(caption) of pairs (picture, caption), in nats."""
    texts = [gallery.texts[j] for _, j in pairs]
    beside = model.loglikelihood(texts, [gallery.pictures[i] for i, _ in pairs], on_progress=counter)
    counter.done += len(pairs)
    alone: dict[str, float] = {}
    needed = list(dict.fromkeys(texts))
    for text, score in zip(needed, model.loglikelihood(needed), strict=True):
        alone[text] = _total(score)
    return np.array([_total(score) - alone[text] for score, text in zip(beside, texts, strict=True)])


def _total(score: F32) -> float:
    return float(score.sum(dtype=np.float64))


def _rerank(model: PictureScorer, gallery: Gallery, cosine: F32, rows: I64, best: int, counter: _Counter) -> Directions:
    """The best by cosine in the order of pmi; the others follow in the order they had."""
    by_picture = {int(i): _top(cosine[i], best) for i in rows}
    by_caption = {int(j): _top(cosine[:, j], best) for j in gallery.first[rows]}
    pairs = [(i, int(j)) for i, found in by_picture.items() for j in found]
    pairs += [(int(i), j) for j, found in by_caption.items() for i in found]
    pmi = dict(zip(pairs, _pmi(model, gallery, pairs, counter).tolist(), strict=True))
    captions = np.stack([_lifted(cosine[i], found, (pmi[i, int(j)] for j in found)) for i, found in by_picture.items()])
    pictures = np.stack(
        [_lifted(cosine[:, j], found, (pmi[int(i), j] for i in found)) for j, found in by_caption.items()]
    )
    return Directions(
        _retrieval(captions, rows[:, None] == gallery.owner, rows),
        _retrieval(pictures, rows[:, None] == np.arange(len(gallery)), rows),
    )


def _top(scores: F32, best: int) -> I64:
    return np.argsort(-scores, kind="stable")[:best]


def _lifted(cosine: F32, found: I64, pmi: Iterable[float]) -> F64:
    """Scores that put `found` before all others, by their pmi. A cosine is at most 1."""
    scores = cosine.astype(np.float64)
    values = np.array(list(pmi))
    scores[found] = values - values.min() + 2
    return scores
