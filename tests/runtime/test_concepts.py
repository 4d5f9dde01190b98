"""The concept bank in numpy and beside the native engine, against PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.container import write_container
from bitmar.core.errors import FormatError, ImageError
from bitmar.runtime import concepts
from bitmar.runtime.cache import NO_EVIDENCE
from bitmar.runtime.sampling import heed

CONCEPTS = {"concepts": 9, "concept_classes": 13, "concept_tokens": 4}


@pytest.fixture(params=[{}, {"concept_keys": 6, "concept_class_width": 5}], ids=["all keys", "some keys"])
def pair(make_pair: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return make_pair(**CONCEPTS, **request.param)


def test_scores_are_those_of_pytorch(pair: Any) -> None:
    import torch

    features = pair.image(1)["vision_features"]
    with torch.no_grad():
        expected = pair.torch_model.model.concepts.scores(torch.from_numpy(features))[0].numpy()
    scores = pair.bitmar.encode_image(features=features[0]).concepts
    assert np.abs(scores - expected).max() < 0.02  # the mean feature is int8 here
    assert (scores >= 0).all() and (scores <= 1).all()


def test_the_best_concepts_follow_the_patches_as_tokens(pair: Any) -> None:
    import torch

    features = pair.image(2)["vision_features"]
    image = pair.bitmar.encode_image(features=features[0])
    best = np.argsort(-image.concepts, kind="stable")[:4].copy()
    with torch.no_grad():
        given = torch.from_numpy(best)[None], torch.from_numpy(image.concepts[best])[None]
        expected = pair.torch_model.model.encode_image(vision_features=torch.from_numpy(features), concepts=given)
    assert image.tokens.shape == (pair.bitmar.config.vision_tokens, 36) == (4 + 4, 36)
    np.testing.assert_allclose(image.tokens, expected[0].numpy(), atol=2e-3)


@pytest.mark.parametrize("seed", range(6))
def test_native_tokens_scores_and_evidence_are_numpys(make_pair: Callable[..., Any], pair: Any, seed: int) -> None:
    for each in (pair, make_pair(**CONCEPTS, concept_evidence=2.0)):
        features = each.image(seed)["vision_features"][0]
        native, numpy = (model.encode_image(features=features) for model in (each.native(), each.bitmar))
        np.testing.assert_allclose(native.concepts, numpy.concepts, rtol=3e-7)  # another exp
        np.testing.assert_allclose(native.tokens, numpy.tokens, atol=1e-5)
        np.testing.assert_array_equal(native.pooled, numpy.pooled)
        for found, expected in zip(native.evidence, numpy.evidence, strict=True):
            np.testing.assert_allclose(found, expected, rtol=3e-7)
            assert found.dtype == expected.dtype


def test_texts_about_concepts_are_pytorchs(pair: Any) -> None:
    import torch

    features = pair.image(4)["vision_features"]
    ids = np.array([1, 5, 9, 20, 7])
    with torch.no_grad():
        expected = pair.torch_model(torch.from_numpy(ids)[None], vision_features=torch.from_numpy(features)).logits[0]
    image = pair.bitmar.encode_image(features=features[0])
    assert np.abs(pair.bitmar.logits(ids, image) - expected.numpy()).max() < 0.5
    assert (pair.native().complete("the", image, max_tokens=6)) == pair.bitmar.complete("the", image, max_tokens=6)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_the_photo_speaks_for_is_said_in_both_halves(make_pair: Callable[..., Any], beams: int) -> None:
    import torch

    pair, plain = make_pair(**CONCEPTS, concept_evidence=2.0), make_pair(**CONCEPTS)
    features = pair.image(5)["vision_features"]
    image = pair.bitmar.encode_image(features=features[0])
    ids, bonus, after = image.evidence
    assert (bonus > 0).all() and len({*zip(ids.tolist(), after.tolist(), strict=True)}) == len(ids)
    assert -1 in after and (after >= 0).any()  # words of more than one token
    text = pair.bitmar.complete("the", image, max_tokens=8, beams=beams)
    assert text != plain.bitmar.complete(
        "the", plain.bitmar.encode_image(features=features[0]), max_tokens=8, beams=beams
    )
    assert pair.native().complete("the", image, max_tokens=8, beams=beams) == text
    prompt = torch.tensor([[1, *pair.bitmar.tokenizer.encode("the", add_special_tokens=False).ids]])
    with torch.no_grad():
        written = pair.torch_model.generate(
            prompt, vision_features=torch.from_numpy(features), max_new_tokens=8, num_beams=beams, do_sample=False
        )[0, prompt.shape[1] :]
    assert pair.bitmar.tokenizer.decode(written.tolist()) == text


def test_evidence_counts_until_it_is_said() -> None:
    evidence = np.array([1, 4, 5]), np.array([2.0, 1.0, 3.0], np.float32), np.array([-1, -1, 4])
    logits = np.zeros((2, 6), np.float32)
    raised = heed(logits, [{4}, set()], [4, 0], evidence)
    np.testing.assert_array_equal(raised, [[0, 2, 0, 0, 0, 3], [0, 2, 0, 0, 1, 0]])
    assert heed(logits, [set(), set()], [0, 0], NO_EVIDENCE) is logits


def test_the_bounds_of_evidence_are_the_same_in_all_three_engines() -> None:
    model = pytest.importorskip("bitmar.model.concepts")
    engine = Path(__file__).parents[2].joinpath("native", "concepts.cpp").read_text()
    native = {name: float(value) for name, value in re.findall(r"constexpr float k(\w+) = ([\d.]+)f;", engine)}
    assert native == {"Heard": model.HEARD, "Surest": model.SUREST}
    assert (concepts.HEARD, concepts._SUREST) == (model.HEARD, model.SUREST)


def test_tokens_of_another_count_are_refused(pair: Any, make_pair: Callable[..., Any]) -> None:
    other = make_pair().bitmar.encode_image(features=pair.image()["vision_features"][0])
    with pytest.raises(ImageError, match="another model"):
        pair.bitmar.complete("the", other)


@pytest.mark.parametrize(
    ("tensor", "place", "value", "message"),
    [
        ("words", (0, 0), 300, "outside the vocabulary"),
        ("words", (2, 0), -1, "without a word"),
        ("words", (0, 3), 5, "hole"),
        ("class_concepts", (1,), 9, "lacks"),
        ("class_concepts", (1,), -2, "lacks"),
    ],
)
def test_a_bank_of_concepts_that_lies_is_refused(
    tmp_path: Path, make_pair: Callable[..., Any], tensor: str, place: tuple[int, ...], value: int, message: str
) -> None:
    pair = make_pair(concepts=9, concept_classes=13, concept_tokens=4)
    container = pair.bitmar.container
    tensors = {name: np.array(x) for name, x in container.tensors.items()}
    tensors[f"model.concepts.{tensor}"][place] = value
    with pytest.raises(FormatError, match=message):
        write_container(
            tmp_path / "lie.bitmar",
            tensors,
            config=container.config,
            tokenizer_json=container.tokenizer_json,
            vision=container.vision,
            card={},
        )
