"""Every probe passes an honest scorer and fails the one that is broken in its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.api import load
from bitmar.evaluate.figure import plain
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer
from bitmar.evaluate.tasks import probes
from bitmar.evaluate.tasks.babylm.choices import Choice
from bitmar.evaluate.tasks.probes import run_probes

from ..fakes import VOCABULARY, FakeScorer, uniform

PICTURES = [np.full((4, 4, 3), 20 * i, np.uint8) for i in range(6)]
CAPTIONS = [[f"a thing of {20 * i}", "something"] for i in range(6)]
PAIRS = [Choice.whole((f"good {i}", f"very bad {i}"), "file") for i in range(10)]


def seeing(text: Any, image: Any) -> list[float]:
    """An honest model: every token's score from the tokens before it, and better where the picture is named."""
    items = text.split() if isinstance(text, str) else text
    scores, state = [], 7
    for item in items:
        scores.append(-4.0 - state % 13 / 10)
        state = (state * 31 + sum(map(ord, str(item)))) % 1009
    if image is not None and f"{np.asarray(image).flat[0]}." in items:
        scores = [score + 1 for score in scores]
    return scores


def run(model: Any) -> dict[str, probes.Probe]:
    report = run_probes(model, pictures=PICTURES, captions=CAPTIONS, pairs=PAIRS)
    assert report.passed == all(probe.passed is not False for probe in report.probes)
    return {probe.name: probe for probe in report.probes}


def failed(model: Any) -> list[str]:
    return [name for name, probe in run(model).items() if probe.passed is False]


def test_an_honest_model_passes_all() -> None:
    found = run(FakeScorer(seeing))
    assert [probe.passed for probe in found.values()] == [True] * 7, found
    assert list(found) == ["leak", "future", "order", "batch", "memory", "image", "ties"]
    assert found["image"].measured == pytest.approx(4 / 5) and found["order"].measured == 0
    assert all(probe.meaning and probe.unit for probe in found.values())


def test_a_model_that_knows_nothing_leaks_nothing() -> None:
    probe = probes.leak_probe(FakeScorer(uniform))
    assert probe.passed and probe.measured == pytest.approx(np.log(VOCABULARY)) and probe.limit == np.log(VOCABULARY)


def test_a_leak_is_found() -> None:
    """Half of the tokens are seen by their own score."""

    def leaky(text: Any, image: Any) -> list[float]:
        return [-0.5 if i % 2 else score for i, score in enumerate(uniform(text, image))]

    assert failed(FakeScorer(leaky)) == ["leak", "image"]
    assert probes.leak_probe(FakeScorer(leaky)).measured == pytest.approx((0.5 + np.log(VOCABULARY)) / 2, abs=0.05)


def test_a_leak_that_scores_badly_is_found() -> None:
    """Worse than chance on random tokens, and yet it looks ahead: only the probe of the future can tell."""

    def peeking(text: Any, image: Any) -> list[float]:
        return [-9.0 - hash(tuple(text[i:])) % 7 / 10 for i in range(len(text))]

    probe = probes.future_probe(FakeScorer(peeking))
    assert probes.leak_probe(FakeScorer(peeking)).passed
    assert probe.passed is False and probe.measured is not None and probe.measured > 0.1


class Carrying(FakeScorer):
    """Tells a text by how many were scored before it in this call."""

    def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
        return [score + np.float32(0.01) * i for i, score in enumerate(super().loglikelihood(texts, images))]


class Batched(FakeScorer):
    """One scale of activations for the whole batch: what it is depends on the longest text, not on the order."""

    def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
        scale = np.float32(1 + max(map(len, texts)) / 1000)
        return [score * scale for score in super().loglikelihood(texts, images)]


def test_dependence_on_order_is_found() -> None:
    assert {"order", "batch"} <= set(failed(Carrying(seeing)))
    assert "order" not in failed(FakeScorer(seeing))


def test_dependence_on_the_batch_is_found() -> None:
    probe = probes.batch_probe(Batched(seeing))
    assert probe.passed is False and probe.measured is not None and probe.measured > 1e-3
    assert probes.order_probe(Batched(seeing)).passed


def test_rounding_may_move_a_token_but_not_all_of_them() -> None:
    class Rounding(FakeScorer):
        rounding, moved = 0.1, slice(0, 1)

        def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
            scores = super().loglikelihood(texts, images)
            if len(texts) == 1 and len(texts[0]) > 38:
                scores[0][self.moved] += 0.05
            return scores

    assert probes.batch_probe(Rounding(seeing)).passed
    broken = Rounding(seeing)
    broken.moved = slice(None)
    assert probes.batch_probe(broken).passed is False


def test_a_memory_that_is_written_is_found() -> None:
    class Writing(FakeScorer):
        def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
            self.slots[1, 2] += np.float32(1e-3) * len(texts)
            return super().loglikelihood(texts, images)

    assert failed(Writing(seeing)) == ["memory"]
    assert probes.memory_probe(Writing(seeing)).measured == pytest.approx(0.1, rel=1e-4)

    class Forgetful(FakeScorer):
        def remembered(self, text: str) -> None:
            return None

    assert probes.memory_probe(Forgetful(seeing)).passed is None


def test_blindness_is_found() -> None:
    def blind(text: Any, image: Any) -> list[float]:
        return seeing(text, None)

    assert failed(FakeScorer(blind)) == ["image"]

    class Mute(FakeScorer):
        def caption(self, images, *, beams=1, max_tokens=32) -> list[str]:
            return ["A man."] * len(images)

    probe = probes.image_probe(Mute(seeing), PICTURES, CAPTIONS)
    assert probe.passed is False and probe.details["captions_that_differ"] == 0 and "hardly looks" in probe.meaning


def test_ties_are_found() -> None:
    def tying(text: Any, image: Any) -> list[float]:
        return [-5.0] if isinstance(text, str) else seeing(text, image)

    probe = probes.tie_probe(FakeScorer(tying), PAIRS)
    assert (probe.passed, probe.measured) == (False, 1.0)


def test_what_cannot_be_run_is_no_success_and_no_failure() -> None:
    report = run_probes(FakeScorer(seeing))
    states = {probe.name: probe.passed for probe in report.probes}
    assert states["image"] is None and states["ties"] is None and report.passed
    document = json.loads(json.dumps(plain(report)))
    assert document["probes"][5]["meaning"].startswith("not run")


@pytest.mark.parametrize("half", ["runtime", "torch"])
def test_both_halves_of_a_real_model_are_honest(
    folder: Path, photo: Callable[[int], Image.Image], half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "LENGTHS", (8, 40))
    monkeypatch.setattr(probes, "OTHERS", 20)
    model = RuntimeScorer(load(folder / "packed")) if half == "runtime" else load_scorer(folder, half)
    report = run_probes(model, pictures=[photo(i) for i in range(4)], captions=[["the dog runs"]] * 4, pairs=PAIRS)
    states = {probe.name: probe.passed for probe in report.probes}
    image = states.pop("image")  # of random weights nothing is known
    assert image is not None and set(states.values()) == {True}, report
