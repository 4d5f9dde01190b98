"""Is the harness itself honest? Each probe looks for one way in which good figures can be had without a good model.

They look at nothing but a scorer's answers, so they hold for any model that a scorer can wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bitmar.core.ternary import F32
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.folder import Absent, EvalData
from bitmar.evaluate.photos import read_pictures
from bitmar.evaluate.protocol import Picture, PictureScorer
from bitmar.evaluate.tables import Results, Table, judged
from bitmar.evaluate.task import Features, Option
from bitmar.evaluate.tasks.babylm.blimp import read_pairs
from bitmar.evaluate.tasks.babylm.choices import Choice, judge, score_choices
from bitmar.evaluate.tasks.grounding import BLANK, SHUFFLED, blank_picture, measure_likelihood
from bitmar.evaluate.work import Work

PHOTOS, PAIRS = 64, 2000
LENGTHS = (16, 64, 160)  # of random sequences; the last is longer than a segment of the bundled model's memory
SEQUENCES = 16  # of each length
BATCH = 32
OTHERS = 100  # texts that are scored before
MOST_TIES = 0.01  # share of pairs; sums of float32 over different words hardly ever meet
DIFFERENT = 0.5  # share of captions that must not be the blank picture's
_SLACK = 1e-3  # nats: float32 sums of a model that knows nothing may fall so far below ln V


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Annotated[
        list[str] | None, Option("WebDataset shards with captions, for the image probe.", "SHARDS", "shards")
    ] = None,
    features: Features = None,
    photos: Annotated[int, Option("Photos of the image probe.", least=2)] = PHOTOS,
    blimp: Annotated[Path | None, Option("BLiMP's pairs, for the tie probe.", "ZIP|FOLDER|JSONL", "path")] = None,
    pairs: Annotated[int, Option("Pairs of the tie probe, evenly spread.", least=1)] = PAIRS,
) -> dict[str, Any]:
    """Look for leaks, for scores that depend on order, batch or memory, for blindness, and for ties.

    Exit status 1: a probe has failed. Without --data and --blimp the image and tie probes are not run.
    """
    chosen = read_pairs(blimp, work.on_bad) if blimp else []
    seen = []
    if data and (features or scorer.has_tower):
        found = read_pictures(data, features=features, on_bad=work.on_bad)
        seen = list(islice((each for each in found if each[0].captions), work.at_most(photos)))
    report = run_probes(
        scorer,
        pictures=[picture for _, picture in seen],
        captions=[sample.captions for sample, _ in seen],
        pairs=chosen[:: max(1, len(chosen) // work.at_most(pairs))],
        on_probe=lambda name: work.on_step(f"probing {name}", None, None),
    )
    return {"passed": report.passed, **plain(report)}


def files(source: EvalData) -> dict[str, Any]:
    """Photos and pairs, as far as they are there."""
    found: dict[str, Any] = {}
    for name, look_up in (("data", source.shards), ("blimp", source.blimp)):
        with suppress(Absent):  # the probe says that it was not run
            found[name] = look_up()
    return found


def tables(found: Results) -> Iterator[Table]:
    """A row for each probe."""
    yield from found.empty("probes", "Probes")
    word = {True: "passed", False: "FAILED", None: "not run"}
    for ending, report in found.each("probes"):
        rows = [
            [
                probe["name"],
                judged(word[probe["passed"]]),
                *("" if probe[name] is None else f"{probe[name]:.4g}" for name in ("measured", "limit")),
                probe["unit"],
                probe["meaning"],
            ]
            for probe in report["probes"]
        ]
        note = "Each looks for one way in which good figures can be had without a good model."
        yield Table(f"Probes{ending}", ["probe", "", "measured", "limit", "unit", "meaning"], rows, note)


@dataclass(frozen=True, slots=True)
class Probe:
    """passed: None where it could not be run, and `meaning` says why. measured: the number it turns on, in `unit`;
    limit: where it passes or fails. meaning: what the number says. details: the numbers beside it."""

    name: str
    passed: bool | None
    measured: float | None
    limit: float | None
    unit: str
    meaning: str
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """All probes of a model."""

    probes: tuple[Probe, ...]

    @property
    def passed(self) -> bool:
        """Whether none has failed; one that could not be run has not."""
        return all(probe.passed is not False for probe in self.probes)


def run_probes(
    model: PictureScorer,
    *,
    pictures: Sequence[Picture] = (),
    captions: Sequence[Sequence[str]] = (),
    pairs: Sequence[Choice] = (),
    seed: int = 0,
    on_probe: Callable[[str], None] | None = None,
) -> ProbeReport:
    """Every probe. pictures, captions: of some photos, for the image probe; pairs: of BLiMP, for the tie probe; without
    them these two are not run. `on_probe(name)` is called before each."""
    probes = []
    runs: dict[str, Callable[[], Probe]] = {
        "leak": lambda: leak_probe(model, seed=seed),
        "future": lambda: future_probe(model, seed=seed),
        "order": lambda: order_probe(model, seed=seed),
        "batch": lambda: batch_probe(model, seed=seed),
        "memory": lambda: memory_probe(model, seed=seed),
        "image": lambda: image_probe(model, pictures, captions),
        "ties": lambda: tie_probe(model, pairs),
    }
    for name, probe in runs.items():
        if on_probe is not None:
            on_probe(name)
        probes.append(probe())
    return ProbeReport(tuple(probes))


def leak_probe(model: PictureScorer, *, seed: int = 0) -> Probe:
    """Tokens drawn independently and evenly cannot be predicted: no honest model scores them below ln V on average."""
    sequences, images = _random_texts(model, [length for length in LENGTHS for _ in range(SEQUENCES)], seed)
    scores = model.loglikelihood(sequences, images)
    found = Figure.bootstrap([-float(score.sum(dtype="float64")) for score in scores], [len(score) for score in scores])
    floor = math.log(model.vocab_size)
    passed = found.high >= floor - _SLACK
    meaning = (
        "random tokens cost at least what chance makes them cost: no token sees itself"
        if passed
        else "random tokens are predicted better than is possible: the score of a token has seen the token"
    )
    details = {"low": found.low, "high": found.high, "tokens": float(sum(map(len, scores)))}
    return Probe("leak", passed, found.value, floor, "nats a random token, at least ln V", meaning, details)


def future_probe(model: PictureScorer, *, seed: int = 0) -> Probe:
    """Later tokens must not change a token's score: the second half of each text is drawn anew."""
    sequences, images = _random_texts(model, [length for length in LENGTHS for _ in range(SEQUENCES)], seed)
    others, _ = _random_texts(model, [len(sequence) for sequence in sequences], seed + 1)
    changed = [a[: len(a) // 2] + b[len(b) // 2 :] for a, b in zip(sequences, others, strict=True)]
    halves = [
        [score[: len(score) // 2] for score in model.loglikelihood(texts, images)] for texts in (sequences, changed)
    ]
    return _compared(
        "future",
        model,
        *halves,
        good="a token's score does not depend on what follows it",
        bad="a token's score changes with what follows it: it sees the future",
    )


def order_probe(model: PictureScorer, *, seed: int = 0) -> Probe:
    """The same texts in another order get the same scores."""
    texts, images = _random_texts(model, _lengths(2 * BATCH, seed), seed)
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    shuffled = model.loglikelihood([texts[i] for i in order], None if images is None else [images[i] for i in order])
    back: dict[int, F32] = dict(zip(order, shuffled, strict=True))
    return _compared(
        "order",
        model,
        model.loglikelihood(texts, images),
        [back[i] for i in range(len(texts))],
        good="scores do not depend on the order of the items",
        bad="scores depend on the order of the items: something is carried from one to the next",
    )


def batch_probe(model: PictureScorer, *, seed: int = 0) -> Probe:
    """A text alone, in a call of its own, gets the score that it has among 32, after 100 others."""
    texts, images = _random_texts(model, _lengths(OTHERS + BATCH, seed), seed)
    together = model.loglikelihood(texts, images)[OTHERS:]
    alone = [
        model.loglikelihood([texts[i]], None if images is None else [images[i]])[0] for i in range(OTHERS, len(texts))
    ]
    return _compared(
        "batch",
        model,
        alone,
        together,
        good="a text's scores are the same alone and among others",
        bad="a text's scores depend on its neighbours in the batch",
    )


def memory_probe(model: PictureScorer, *, seed: int = 0) -> Probe:
    """Scoring and captioning leave the memory as it was: what a text written into it makes of it is the same after."""
    text, unit = "The key lies under the mat.", "largest change of a slot"
    before = model.remembered(text)
    if before is None:
        return Probe("memory", None, None, 0.0, unit, "not run: this model was built without a memory")
    texts, images = _random_texts(model, _lengths(OTHERS, seed), seed)
    model.loglikelihood(texts, images)
    if images is not None:
        model.caption([image for image in images if image is not None][:1], max_tokens=8)
    after = model.remembered(text)
    assert after is not None
    change = float(np.abs(after - before).max())
    meaning = "scoring writes nothing into the memory" if not change else "scoring has written into the memory"
    return Probe("memory", not change, change, 0.0, unit, meaning)


def image_probe(model: PictureScorer, pictures: Sequence[Picture], captions: Sequence[Sequence[str]]) -> Probe:
    """Human captions are less likely beside a blank picture than beside the right one, and captions differ from that
    of the blank. pictures: at least two, as the model takes them."""
    unit = "nats a token that a blank picture costs, more than 0"
    if len(pictures) < 2:
        return Probe("image", None, None, 0.0, unit, "not run: it needs photos with captions, and a model that sees")
    (blank,) = model.look([blank_picture(pictures[0])])
    seen = model.look(pictures)
    beside, _, _ = measure_likelihood(model, seen, captions, blank)
    said, (nothing,) = model.caption(seen), model.caption([blank])
    differ = float(np.mean([caption != nothing for caption in said]))
    loss, wrong = beside[BLANK].loss, beside[SHUFFLED].loss
    assert loss is not None and wrong is not None
    passed = loss.low > 0 and differ >= DIFFERENT
    meaning = "the model looks: a blank picture costs likelihood, and most captions are not the blank one's"
    if loss.low <= 0:
        meaning = "the model does not look: human captions are as likely beside a blank picture"
    elif not passed:
        meaning = "the model hardly looks: it says of most photos what it says of a blank one"
    details = {"low": loss.low, "high": loss.high, "captions_that_differ": differ, "wrong_picture": wrong.value}
    return Probe("image", passed, loss.value, 0.0, unit, meaning, {**details, "photos": float(len(pictures))})


def tie_probe(model: PictureScorer, pairs: Sequence[Choice]) -> Probe:
    """Both sentences of a pair scored exactly alike say nothing; a harness that counts them as right pays for it."""
    unit = f"share of pairs, at most {MOST_TIES}"
    if not pairs:
        return Probe("ties", None, None, MOST_TIES, unit, "not run: it needs BLiMP's pairs")
    share = (judge(pairs, score_choices(model, pairs, Work())).figure.ties or 0) / len(pairs)
    passed = share <= MOST_TIES
    meaning = (
        "hardly any pair is a tie"
        if passed
        else "many pairs are ties: an accuracy that counts them as right is worth nothing"
    )
    return Probe("ties", passed, share, MOST_TIES, unit, meaning, {"pairs": float(len(pairs))})


def _lengths(count: int, seed: int) -> list[int]:
    lengths: list[int] = np.random.default_rng(seed).integers(1, 41, count).tolist()
    return lengths


def _random_texts(
    model: PictureScorer, lengths: Sequence[int], seed: int
) -> tuple[list[list[int]], list[Picture | None] | None]:
    """Even, independent tokens, and for a model that takes photos a picture of noise beside every other text."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, model.vocab_size, length).tolist() for length in lengths]
    if not model.has_tower:
        return texts, None
    (noise,) = model.look([rng.integers(0, 256, (64, 64, 3), np.uint8)])
    return texts, [noise if i % 2 else None for i in range(len(texts))]


def _compared(
    name: str, model: PictureScorer, first: Sequence[F32], second: Sequence[F32], *, good: str, bad: str
) -> Probe:
    """Whether two sets of scores are equal, as far as the scorer's rounding goes: no token far off, and few at all."""
    a, b = (np.concatenate([np.asarray(score, np.float64) for score in scores]) for scores in (first, second))
    apart: F64 = np.abs(a - b)
    largest, mean = float(apart.max()), float(apart.mean())
    passed = largest <= model.rounding and mean <= model.rounding / 100
    unit = "nats, largest change of a token's log-probability"
    return Probe(name, passed, largest, model.rounding, unit, good if passed else bad, {"mean": mean})
