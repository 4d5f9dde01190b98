from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitmar.core.errors import ConfigError, DataError
from bitmar.core.image import load_photo, to_square
from bitmar.data import features as module
from bitmar.data.features import FeatureStore, extract_features
from bitmar.data.sources import CaptionedPhoto


class Quarters:
    """A tower that can be checked by hand: the mean colour of the four quarters of the photo."""

    name, size, grid, dim = "quarters", 16, 2, 3
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, scale: float | None = None, fingerprint: str = "q1") -> None:
        self.scale, self.fingerprint, self.seen = scale, fingerprint, 0

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        self.seen += len(photos)
        return photos.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4), dtype=np.float32).reshape(-1, 4, 3)


def sample(i: int) -> CaptionedPhoto:
    pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return CaptionedPhoto(f"set/{i:03d}", file.getvalue(), (f"Photo {i}.",), {"n": i})


BROKEN = CaptionedPhoto("set/broken", b"\xff\xd8 cut", (), {})


@pytest.mark.parametrize("scale", [None, 1.0])
def test_features_come_back_as_the_tower_gave_them(tmp_path: Path, scale: float | None) -> None:
    samples = [sample(0), BROKEN, sample(1)]
    bad: list[str] = []
    store = extract_features(samples, tmp_path, Quarters(scale), on_bad=lambda key, _: bad.append(key))
    expected = Quarters()(to_square(load_photo(samples[2].image), 16)[None])[0]
    found = store.features(1)
    assert found.dtype == np.float32 and found.shape == (4, 3)
    assert np.abs(found - expected).max() <= (0.5 if scale else 0.07)  # half a step
    assert store.stored(1).dtype == (np.uint8 if scale else np.float16)
    assert len(store) == 2 and store[1].captions == ("Photo 1.",) and store[1].meta == {"n": 1}
    assert [key for key, _ in store.skipped] == ["set/broken"] == bad


def test_views_differ_and_do_not_depend_on_order(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(5)]
    ahead = extract_features(samples, tmp_path / "a", Quarters(), views=3, seed=1)
    back = extract_features(samples[::-1], tmp_path / "b", Quarters(), views=3, seed=1)
    other = extract_features(samples, tmp_path / "c", Quarters(), views=3, seed=2)
    for i in range(5):
        for view in range(3):
            assert np.array_equal(ahead.features(i, view), back.features(4 - i, view))
        assert not np.array_equal(ahead.features(i, 1), ahead.features(i, 2))
        assert np.array_equal(ahead.features(i, 0), other.features(i, 0))  # view 0 is the photo as it is
        assert not np.array_equal(ahead.features(i, 1), other.features(i, 1))
    with pytest.raises(IndexError):
        ahead.features(0, 3)


def test_a_killed_extraction_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_SHARD", 3)
    monkeypatch.setattr(module, "_BATCH", 2)
    samples = [sample(0), BROKEN, *(sample(i) for i in range(1, 8))]
    whole = extract_features(samples, tmp_path / "whole", Quarters())

    def stream():
        yield from samples[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(stream(), tmp_path / "killed", Quarters())
    tower = Quarters()
    resumed = extract_features(samples, tmp_path / "killed", tower)
    assert tower.seen == 5  # four of nine samples were done
    assert len(list((tmp_path / "killed").glob("features-*.npy"))) == 3
    assert [entry.key for entry in resumed.entries] == [entry.key for entry in whole.entries]
    assert all(np.array_equal(resumed.features(i), whole.features(i)) for i in range(len(whole)))
    again = Quarters()
    extract_features(samples, tmp_path / "killed", again)
    assert again.seen == 0


def test_another_tower_or_number_of_views_is_refused(tmp_path: Path) -> None:
    extract_features([sample(0)], tmp_path, Quarters())
    with pytest.raises(DataError, match="fingerprint = 'q1', not 'q2'"):
        extract_features([sample(0)], tmp_path, Quarters(fingerprint="q2"))
    with pytest.raises(DataError, match="views = 1, not 2"):
        extract_features([sample(0)], tmp_path, Quarters(), views=2)
    with pytest.raises(ConfigError, match="at least 1"):
        extract_features([sample(0)], tmp_path, Quarters(), views=0)


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    extract_features([sample(0)], tmp_path, Quarters())
    (tmp_path / "features-00000.npy").unlink()
    with pytest.raises(DataError, match="more photos than are stored"):
        FeatureStore(tmp_path)
