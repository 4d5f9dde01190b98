"""Does the episodic memory help, and what does it cost? The paper's Tables 3 and 4, measured with controls.

Same weights and same work everywhere but in the memory, paired intervals, and a control for each claim: what a memory
brings that nobody has written (trained weights like others), and what one brings that holds other episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError
from bitmar.data.sources import OnBad
from bitmar.evaluate.ablation_costs import peak_rss, speed
from bitmar.evaluate.ablation_episodes import Album, episodes
from bitmar.evaluate.ablation_measure import PERPLEXITY, Measure
from bitmar.evaluate.ablation_tasks import captions, document_ids, documents, grammar
from bitmar.evaluate.ablation_variants import LITERAL, MEANING, OFF, ON, OTHERS, UNRECITED, UNWRITTEN, variants
from bitmar.evaluate.figure import Figure
from bitmar.evaluate.passages import another_view, heldout_documents, readable_photos
from bitmar.evaluate.tasks.babylm.blimp import read_pairs
from bitmar.runtime.cache import ImageTokens

SHOWN = (OFF, ON, LITERAL)
COMPARED = (OFF, UNWRITTEN, OTHERS, UNRECITED, LITERAL)  # each is taken from ON
EPISODES = 32
# Of `limit`: a long document costs about as much as eight photos, which cost as much as eighty pairs.
DOCUMENTS, PAIRS = 1 / 8, 10

OnStep = Callable[[str, int | None], None]
"""Called with the name of what is measured, then with a count of units done; None: one more."""


@dataclass(frozen=True)
class Sources:
    """Where the tasks' data is. Empty: the task is left out.

    heldout: the share of documents that training kept out, by which they are chosen here; 1 takes all.
    """

    photos: Sequence[str] = ()
    texts: Sequence[str] = ()
    pairs: Path | None = None
    heldout: float = 0.01


@dataclass(frozen=True)
class Ablation:
    """left_out: by task, why it could not be measured."""

    model: str
    engine: str
    seeds: int
    measures: Sequence[Measure]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        rows = [
            {
                "task": m.task,
                "measure": m.name,
                "unit": m.unit,
                "better": m.better,
                "units": m.units,
                "figures": {name: m.figure(name) for name in m.values},
                "on_minus": {name: d.to_dict() for name, d in differences(m).items()},
                "memory": m.verdict(ON, OFF),
            }
            for m in self.measures
        ]
        return {
            "model": self.model,
            "engine": self.engine,
            "seeds": self.seeds,
            "variants": MEANING,
            "rows": rows,
            "left_out": self.left_out,
            "conclusion": self.conclusion(),
        }

    def conclusion(self) -> list[str]:
        """A sentence for each measure of quality, and one on chance."""
        said = [f"{m.task}, {m.name}: {_sentence(m)}" for m in self.measures if not m.cost]
        compared = sum(len(differences(m)) for m in self.measures if not m.cost)
        caution = f"of {compared} comparisons about {compared * 0.05:.0f} show a difference at 95 % by chance alone"
        return [*said, caution] if said else []

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, as text."""
        header = [
            "task",
            "unit",
            "n",
            *SHOWN,
            *(f"on - {name} [95 %]" for name in COMPARED),
            "the memory",
            "what it holds",
        ]
        rows = []
        for m in self.measures:
            found = differences(m)
            figures = [_number(m.figure(name)) if name in m.values else "" for name in SHOWN]
            shown = [_interval(found[name], m) if name in found else "" for name in COMPARED]
            says = [_cost(m), ""] if m.cost else [m.verdict(ON, OFF), _content(m)]
            unit = f"{m.unit} ({m.better} is better)"
            rows.append([f"{m.task}: {m.name}", unit, str(m.units), *figures, *shown, *says])
        return header, rows

    def markdown(self) -> str:
        """The table, what its columns mean, and the conclusion."""
        header, rows = self.table()
        lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
        meaning = [f"- {name}: {text}." for name, text in MEANING.items()]
        said = [f"- {line}" for line in self.conclusion()]
        missing = [f"- left out, {task}: {why}" for task, why in self.left_out.items()]
        return "\n".join([*lines, "", *meaning, "", *said, *missing]) + "\n"


def differences(measure: Measure) -> dict[str, Figure]:
    """ON less each of the other variants that the measure has."""
    return {name: measure.difference(ON, name) for name in COMPARED if name in measure.values}


def ablate_memory(
    model: BitMar,
    sources: Sources,
    *,
    seeds: int = 3,
    limit: int = 200,
    on_step: OnStep | None = None,
    on_bad: OnBad | None = None,
) -> Ablation:
    """Measure `model` with its memory on, off and literal on every task that `sources` has data for, and the costs.

    seeds: draws of the photos that are remembered. limit: photos at most, with DOCUMENTS and PAIRS times as many long
    documents and minimal pairs. Raises ConfigError for a model without a memory or without any data, DataError.
    """
    if seeds < 1 or limit < 2:
        raise ConfigError("the ablation needs at least one seed and a limit of at least 2")
    if not (sources.photos or sources.texts or sources.pairs):
        raise ConfigError(
            "there is no data to measure on: give photos with captions (--data 'val-*.tar'), long texts (--text FILE) "
            "or minimal pairs (--blimp blimp_filtered.zip), or set BITMAR_DATA to a folder that has them"
        )
    step = on_step or (lambda name, done: None)
    models, measures, left_out = variants(model), list[Measure](), dict[str, str]()

    def begin(name: str) -> Callable[[], None]:
        step(name, 0)
        return lambda: step(name, None)

    if sources.texts:
        held = [text for _, text in heldout_documents(sources.texts, sources.heldout)]
        texts = document_ids(model, held, max(2, int(DOCUMENTS * limit)))
        if len(texts) > 1:
            measures += documents(models, texts, begin("long documents"))
        else:
            left_out["long documents"] = (
                f"{len(texts)} documents are held out (share {sources.heldout}) and longer than the window; give more "
                "text, or --heldout 1 for texts that were not trained on"
            )
    else:
        left_out["long documents"] = "no --text"
    if sources.photos and model.engine.tower is not None:
        album, references = _album(model, sources.photos, limit, begin("photos"), on_bad)
        if len(album) < 4:
            raise ConfigError(f"{len(album)} photos with captions are too few to measure on: give more with --data")
        found, missing = captions(models, album.first, references, begin("captions"))
        measures += found
        if missing:
            left_out["CIDEr"] = missing
        measures += episodes(models, album, seeds, EPISODES, begin("recall"))
    else:
        left_out["captions, recall"] = "no --data" if not sources.photos else "the model has no vision tower"
    if sources.pairs is not None:
        pairs = read_pairs(sources.pairs, on_bad or (lambda name, reason: None))
        chosen = np.random.default_rng(0).permutation(len(pairs))[: PAIRS * limit]
        measures += grammar(models, [pairs[i] for i in chosen.tolist()], begin("grammar"))
    else:
        left_out["grammar"] = "no --blimp"
    begin("speed and RAM")
    measures += [*speed(models), peak_rss(models)]
    return Ablation(str(model.path), model.engine.name, seeds, measures, left_out)


def _album(
    model: BitMar, patterns: Sequence[str], limit: int, tick: Callable[[], None], on_bad: OnBad | None
) -> tuple[Album, list[tuple[str, ...]]]:
    """The photos in two views each, encoded once for all variants, and all their captions."""
    first, again, texts = list[ImageTokens](), list[ImageTokens](), list[tuple[str, ...]]()
    rng = np.random.default_rng(0)
    for sample, photo in readable_photos(patterns, limit, on_bad):
        first.append(_portable(model.encode_image(photo)))
        again.append(_portable(model.encode_image(another_view(photo, rng))))
        texts.append(sample.captions)
        tick()
    return Album(first, again, [group[0] for group in texts]), texts


def _portable(image: ImageTokens) -> ImageTokens:
    """Without what one engine has prepared, so that each variant prepares its own."""
    return ImageTokens(image.tokens, None, image.pooled)


def _sentence(measure: Measure) -> str:
    parts = [f"the memory {_says(measure.verdict(ON, OFF))}"]
    if UNWRITTEN in measure.values:
        parts.append(f"writing into it {_says(measure.verdict(ON, UNWRITTEN))}")
    if OTHERS in measure.values:
        parts.append(f"holding the right episodes rather than others {_says(measure.verdict(ON, OTHERS))}")
    if UNRECITED in measure.values:
        parts.append(f"copying what was recalled {_says(measure.verdict(ON, UNRECITED))}")
    if LITERAL in measure.values:
        better = {"helps": "better than", "hurts": "worse than"}.get(
            measure.verdict(ON, LITERAL), "not told apart from"
        )
        parts.append(f"it is {better} the literal rule")
    return ", ".join(parts)


def _says(verdict: str) -> str:
    return "makes no difference that shows" if verdict.startswith("no ") else verdict


def _content(measure: Measure) -> str:
    """Whether it matters what has been written: the right episodes and not others, or at least something."""
    control = next((name for name in (OTHERS, UNWRITTEN) if name in measure.values), None)
    return measure.verdict(ON, control) if control else ""


def _cost(measure: Measure) -> str:
    share = measure.figure(ON) / measure.figure(OFF) - 1
    return f"costs {share:+.1%}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _interval(found: Figure, measure: Measure) -> str:
    if measure.unit == PERPLEXITY:
        return f"{found.value:+.1%} [{found.low:+.1%}, {found.high:+.1%}]"
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"
