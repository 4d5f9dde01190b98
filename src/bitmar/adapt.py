"""A model fitted to one's own captioned photos: trained on most of them, judged on the rest before and after."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.api import BitMar
from bitmar.core.container import open_container
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.core.locks import sole_writer
from bitmar.data.captioned_files import iter_captioned
from bitmar.data.features import FeatureStore, extract_features
from bitmar.data.sources import CaptionedPhoto, OnBad
from bitmar.data.text import clean_caption
from bitmar.data.towers.packed import PackedTower
from bitmar.evaluate.coco_metrics import cider_by_photo
from bitmar.evaluate.figure import Figure, plain
from bitmar.export import export_checkpoint
from bitmar.runtime.text import encode
from bitmar.train.adapting import Adapting, Part, train_on
from bitmar.train.rewards import words

LEAST = 10  # captioned photos
HELD_OUT = range(5, 501)  # of them: fewer say nothing, more take longer and say little more
VIEWS = 4  # stored views of each photo
OnProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Figures:
    """A model's figures on the held-out photos.

    cider: 0 to 10, its words split by a pattern. perplexity: of a token of people's captions and their ends, given the
    photo. captions: what the model says, by photo.
    """

    cider: float
    perplexity: float
    captions: dict[str, str]


@dataclass(frozen=True)
class Adapted:
    """The result of an adaptation.

    photos, captions: trained on. uncaptioned: photos left out for want of a caption. cider_change: after less before;
    perplexity_ratio: after over before, both with 95 % intervals over the same held-out photos. written: whether `out`
    is the new model.
    """

    out: str
    model: str
    photos: int
    captions: int
    heldout: int
    uncaptioned: int
    before: Figures
    after: Figures
    cider_change: Figure
    perplexity_ratio: Figure
    settings: dict[str, Any]
    written: bool
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def worse(self) -> bool:
        """Whether perplexity rose, or CIDEr fell by more than another draw of photos would change it."""
        return self.perplexity_ratio.value > 1 or self.cider_change.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {**plain(self), "worse": self.worse}


def adapt(
    sources: Sequence[str],
    out: str | Path,
    model: BitMar,
    settings: Adapting | None = None,
    *,
    heldout: float = 0.2,
    force: bool = False,
    on_bad: OnBad | None = None,
    on_progress: OnProgress | None = None,
) -> Adapted:
    """Train `model` on captioned photos and write it to `out`, unless it got worse.

    sources: as in `iter_captioned`. heldout: share of the photos to judge by; copies of one photo stay on one side.
    force: write over `out`, and also a model that got worse. on_progress: gets the name of what is done, how many, of
    how many if that is known.
    Features, checkpoints and a stopped run's state lie in OUT.partial until the model is written; the same call goes on
    from there. Raises DataError for too few photos, ConfigError, KeyboardInterrupt after Ctrl-C.
    """
    out, settings, tick = Path(out), settings or Adapting(), on_progress or (lambda *_: None)
    if not 0 < heldout < 1:
        raise ConfigError(f"heldout is a share of the photos between 0 and 1, not {heldout}")
    if model.engine.tower is None:
        raise ConfigError(f"{model.path} reads another network's features, not photos: train it on with `bitmar train`")
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(f"{out} is there already: --force writes it anew, or name another file")
    skipped: dict[str, str] = {}

    def skip(name: str, reason: str) -> None:
        if name not in skipped:
            skipped[name] = reason
            if on_bad is not None:
                on_bad(name, reason)

    with sole_writer(out):
        work = out.with_name(f"{out.name}.partial")
        store, uncaptioned = _features(sources, model, work, skip, tick)
        train, held = _split(store, heldout)
        task = [store.folder.name, train, {**asdict(settings), "threads": None}]
        before, *paired_before = _measure(model, store, held, "before", tick)
        folder = work / f"training-{_digest(task)}"
        photos = Part(store, train)
        checkpoint = train_on(model.container, photos, folder, settings)
        note = {"photos": len(train), "heldout": len(held), "from": model.container.checksum, **asdict(settings)}
        packed = export_checkpoint(checkpoint, work / "model.bitmar", card={**model.card, "adapted": note})
        after, *paired_after = _measure(BitMar(open_container(packed)), store, held, "after", tick)
        (cider, nats, tokens), (cider_before, nats_before, _) = paired_after, paired_before  # by photo
        report = Adapted(
            out=str(out),
            model=str(model.path),
            photos=len(train),
            captions=sum(len(store[i].captions) for i in train),
            heldout=len(held),
            uncaptioned=uncaptioned,
            before=before,
            after=after,
            cider_change=Figure.bootstrap(cider - cider_before),
            perplexity_ratio=Figure.bootstrap(nats - nats_before, tokens).map(_exp),
            settings={**asdict(settings), "heldout": heldout},
            written=True,
            skipped=skipped,
        )
        if report.worse and not force:
            return Adapted(**{**vars(report), "written": False})
        write_atomically(out, packed.read_bytes())
        shutil.rmtree(work)
    return report


def _features(
    sources: Sequence[str], model: BitMar, work: Path, skip: OnBad, tick: OnProgress
) -> tuple[FeatureStore, int]:
    """The captioned photos as the model's tower sees them, and how many had no caption."""

    def captioned() -> Iterator[CaptionedPhoto]:
        return (photo for photo in iter_captioned(sources, skip) if any(map(clean_caption, photo.captions)))

    # What there is, first: changed photos and captions are another task, with features of their own.
    found = [(p.key, p.digest, p.captions) for p in iter_captioned(sources, skip)]
    told = [each for each in found if any(map(clean_caption, each[2]))]
    store = extract_features(
        captioned(),
        work / f"features-{_digest([told, model.container.checksum])}",
        PackedTower(model.path),
        views=VIEWS,
        on_bad=skip,
        on_progress=lambda done: tick("photos", done, len(told)),
    )
    for key, reason in store.skipped:  # those of an earlier, stopped run too
        skip(key, reason)
    return store, len(found) - len(told)


def _split(store: FeatureStore, share: float) -> tuple[list[int], list[int]]:
    """The photos to train on and those to judge by, by what is in their files and not by their order."""
    digests = sorted({store[i].digest for i in range(len(store))})
    if len(digests) < LEAST:
        raise DataError(
            f"{len(digests)} photos with a caption are too few to train on and to judge by: give at least {LEAST}; "
            "a hundred are better"
        )
    count = min(max(round(share * len(digests)), HELD_OUT[0]), HELD_OUT[-1], len(digests) - HELD_OUT[0])
    held = set(digests[:count])
    sides: tuple[list[int], list[int]] = ([], [])
    for i in range(len(store)):
        sides[store[i].digest in held].append(i)
    return sides


def _measure(
    model: BitMar, store: FeatureStore, held: Sequence[int], name: str, tick: OnProgress
) -> tuple[Figures, Any, Any, Any]:
    """Figures, and by photo: CIDEr, nats of its captions, and their tokens."""
    said, references, nats, tokens = [], [], np.zeros(len(held)), np.zeros(len(held))
    for place, i in enumerate(held):
        captions = [text for raw in store[i].captions if (text := clean_caption(raw))]
        image = model.encode_image(features=store.features(i))
        for text in captions:
            ids = encode(model.tokenizer, text)
            nats[place] -= model.likelihood(ids, image) * (len(ids) + 1)
            tokens[place] += len(ids) + 1
        said.append(str(model.caption(image)))
        references.append([words(text) or "-" for text in captions])
        tick(name, place + 1, len(held))
    cider = cider_by_photo({i: [words(text)] for i, text in enumerate(said)}, dict(enumerate(references)))
    captions_by_key = {store[i].key: text for i, text in zip(held, said, strict=True)}
    return Figures(float(cider.mean()), _exp(nats.sum() / tokens.sum()), captions_by_key), cider, nats, tokens


def _exp(nats: float) -> float:
    return math.exp(min(100.0, nats))  # of NaN too


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
